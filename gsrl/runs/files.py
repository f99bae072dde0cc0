"""Files that are whole at any moment, and folders that belong to one process."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gsrl._files import HALF_WRITTEN, replacing
from gsrl.runs.errors import UsageError

if sys.platform != "win32":  # which has no such locks
    import fcntl

__all__ = ["described", "occupied", "write_text"]

LEFTOVERS = (HALF_WRITTEN, "*.json.*.tmp", "*.csv.*.tmp")
"""What a killed process may leave of files that it writes beside the whole ones; earlier versions had other names."""


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all: a process killed meanwhile leaves the previous one.

    Args:
        path: Path of the file.
        text: What it is to hold.
    """
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keeps a folder to this process while the block runs, and removes what a killed one may have left half-written.

    The folder is made when missing, with those around it, and removed again if the block leaves nothing in it. The
    system ends the lock with the process, however that ends.

    Args:
        folder: The folder.

    Raises:
        UsageError: It cannot be made or written to, or another process has it.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be a folder: {error.strerror}") from error
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{folder} cannot be written to: {error.strerror}") from error
    with _locked(folder):
        for path in (path for pattern in LEFTOVERS for place in ("", "*/") for path in folder.glob(place + pattern)):
            path.unlink(missing_ok=True)
        try:
            yield
        finally:
            with suppress(OSError):  # there is something in it
                for each in made:
                    each.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UsageError(
            f"{folder} is in use by another process: wait until that has ended, or choose another folder"
        ) from error
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def described(error: OSError) -> str:
    """What the system says, without its number."""
    place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{place}{error.strerror or error}"
