"""``python -m gsrl``: the command line, as the command ``gsrl``."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]

OF_THE_COMMAND_LINE = ("matplotlib", "pandas", "rich", "tqdm", "tyro")
"""Packages that it needs beside the library's."""


def main() -> int:
    """Runs the command line; returns its exit code."""
    try:
        from gsrl.runs.cli import main as run
    except ModuleNotFoundError as error:
        # Only what may be missing is answered so; a broken module of ours shows its traceback.
        if error.name not in OF_THE_COMMAND_LINE:
            raise
        print(f'gsrl needs {error.name}, which is not installed: pip install "gsrl[cli]"', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("gsrl: stopped", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    if sys.path[0] == os.getcwd():  # Python's own doing: nobody has asked for what lies there
        sys.path.pop(0)
    sys.exit(main())
