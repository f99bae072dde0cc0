"""What the command line is called, for messages that say what to type."""

from __future__ import annotations

name = "gsrl"
"""Of the program that runs."""


def typed() -> str:
    """Returns what is typed to run it."""
    return f"python {name}" if name.endswith(".py") else name
