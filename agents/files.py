"""Files that are whole at any moment."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["write_text"]


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all: a process killed meanwhile leaves the previous one.

    Args:
        path: Path of the file.
        text: What it is to hold.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("x", newline="", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # before the name: a crash must not leave the name with half the text
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
