"""gsrl's command line with the zoo of this checkout: agents tuned by environment, and environments. See ``--help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: Arguments; None: those of this process.

    Returns:
        The exit code, see :func:`gsrl.runs.cli.main`.
    """
    from gsrl.runs import cli, program
    from gsrl.runs.cards import load_zoo

    program.name, program.root = "run_agent.py", Path(__file__).resolve().parent
    load_zoo("agents")
    return cli.main(argv)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ModuleNotFoundError as error:
        # Only a missing dependency is answered so; a broken module of ours shows its traceback.
        if error.name and error.name.partition(".")[0] in ("agents", "envs", "gsrl"):
            raise
        sys.exit(f'run_agent.py needs {error.name}, which is not installed: pip install -e ".[cli]"')
    except KeyboardInterrupt:
        print("run_agent.py: stopped", file=sys.stderr)
        sys.exit(130)
