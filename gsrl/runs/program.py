"""What the command line is called, for messages that say what to type."""

from __future__ import annotations

from pathlib import Path

name = "gsrl"
"""Of the program that runs."""

root: Path | None = None
"""Of the checkout that the program is part of, if it is: suites are there, and what machines of a cluster need."""


def typed() -> str:
    """Returns what is typed to run it."""
    return f"python {name}" if name.endswith(".py") else name
