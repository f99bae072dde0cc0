"""The logs of a run: CSV files and TensorBoard events that a resumed run goes on with."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import KVWriter, TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter

__all__ = ["CsvLog", "ProgressLog", "TensorBoardLog"]


class CsvLog:
    """A CSV file that grows by rows, and by columns when a row brings new ones. The first column is ``steps``.

    Args:
        path: Path of the file, which is read when there is one.
        columns: Columns after ``steps`` of a new file.
    """

    def __init__(self, path: Path, columns: Sequence[str] = ()) -> None:
        self.path = path
        if path.exists():
            with path.open(newline="") as file:
                self.columns = next(csv.reader(file))
        else:
            self.columns = ["steps", *columns]
            self._rewrite([])
        self._file = path.open("a", newline="")

    def rows(self) -> list[dict[str, str]]:
        """Returns the rows of the file, as text; a column that a row lacks is empty."""
        self.flush()
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row."""
        new = [column for column in row if column not in self.columns]
        if new:
            rows = self.rows()
            self.columns += new
            self._rewrite(rows)
        csv.DictWriter(self._file, self.columns, restval="").writerow(row)

    def truncate(self, steps: int) -> None:
        """Drops the rows later than ``steps``."""
        self._rewrite([row for row in self.rows() if int(row["steps"]) <= steps])

    def flush(self) -> None:
        """Hands the rows to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, self.path)
        if hasattr(self, "_file"):
            self._file.close()
            self._file = self.path.open("a", newline="")


class ProgressLog(KVWriter):
    """What Stable-Baselines3's logger records, as rows of a CSV file, at most one a step.

    Args:
        log: Where the rows go.
    """

    def __init__(self, log: CsvLog) -> None:
        self.log = log
        self.last_step = -1

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Writes one row of numbers and texts."""
        if step == self.last_step:
            return
        self.last_step = step
        scalars = {k: v for k, v in key_values.items() if isinstance(v, np.ScalarType) and "csv" not in key_excluded[k]}
        self.log.append({"steps": step, **dict(sorted(scalars.items()))})
        self.log.flush()

    def close(self) -> None:
        """Closes the file."""
        self.log.close()


class TensorBoardLog(TensorBoardOutputFormat):
    """Stable-Baselines3's TensorBoard events, which go on after ``steps``: later ones of earlier processes are hidden.

    Args:
        folder: Where the events go.
        steps: Steps of the run so far; 0 for a new run.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self.writer = SummaryWriter(log_dir=str(folder), purge_step=steps + 1 if steps else None)
        self._is_closed = False
