"""``python -m gsrl``: the command line, as the command ``gsrl``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gsrl._version import __version__
from gsrl.runs import program

__all__ = ["main"]

OURS = ("agents", "envs", "gsrl")


def main(
    argv: Sequence[str] | None = None, *, name: str = "gsrl", root: Path | None = None, zoo: Sequence[str] = ()
) -> int:
    """Runs the command line.

    Args:
        argv: Arguments; None: those of this process.
        name: What the program is called.
        root: Of the checkout that it is part of, if it is.
        zoo: Modules that register agents, or tune them.

    Returns:
        The exit code, see :func:`gsrl.runs.cli.main`; 1 where a package is missing.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    program.name, program.root = name, root
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(program.overview(), end="")
        return 0
    if argv == ["--version"]:
        print(f"gsrl {__version__}")
        return 0
    try:
        from gsrl.runs import cli
        from gsrl.runs.cards import load_zoo

        for module in zoo:
            load_zoo(module)
    except ModuleNotFoundError as error:
        # Only what may be missing is answered so; a broken module of ours shows its traceback.
        if error.name is None or error.name.partition(".")[0] in OURS:
            raise
        remedy = 'pip install "gsrl[cli]"' if root is None else 'pip install -e ".[cli]"'
        print(f"{name} needs {error.name}, which is not installed: {remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return 130
    return cli.main(argv)


if __name__ == "__main__":
    if sys.path[0] == os.getcwd():  # Python's own doing: nobody has asked for what lies there
        sys.path.pop(0)
    sys.exit(main())
