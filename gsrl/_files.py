"""Files that are whole at any moment."""

from __future__ import annotations

import csv
import io
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["HALF_WRITTEN", "csv_text", "replacing", "save_figure"]

HALF_WRITTEN = ".gsrl-*.tmp"
"""What a process that is killed while it writes leaves beside a file, as a pattern."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a temporary file that takes the place of ``path`` when the block ends without an error.

    Whatever happens, ``path`` is the file of before or the new one, whole.

    Args:
        path: Path of the file, in a folder that there is. A link stays a link.

    Raises:
        OSError: It cannot be written.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".gsrl-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # before the name: a crash must not leave the name with half the data
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):  # on a file system that is read-only, say
            temporary.unlink()
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = os.fspath(path)
        raise


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table as comma-separated values, a line a row under the header.

    Args:
        columns: Their names, in order.
        rows: Values by column; others are left out, and what a row lacks is empty.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def save_figure(figure: Any, path: str | os.PathLike[str], **how: Any) -> None:
    """Saves a figure of matplotlib, whole or not at all.

    Args:
        figure: The figure.
        path: Path of the file, whose suffix says the format; a PNG where there is none.
        **how: Arguments of ``savefig``.
    """
    path = Path(path)
    if not path.suffix:
        path = path.with_suffix(".png")
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:], **how)
