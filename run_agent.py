"""gsrl's command line with the zoo of this checkout: agents tuned by environment, and environments. See ``--help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from gsrl.__main__ import main as run

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; arguments and result are those of :func:`gsrl.runs.cli.main`."""
    return run(argv, name="run_agent.py", root=Path(__file__).resolve().parent, zoo=("agents",))


if __name__ == "__main__":
    sys.exit(main())
