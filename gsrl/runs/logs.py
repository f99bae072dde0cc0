"""The logs of a run: CSV files and TensorBoard events that a resumed run goes on with."""

from __future__ import annotations

import csv
import dataclasses
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from stable_baselines3.common.logger import HParam, TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter

from gsrl._files import csv_text
from gsrl.runs.errors import UsageError
from gsrl.runs.files import write_text

__all__ = ["NOT_IN_TENSORBOARD", "CsvLog", "TensorBoardLog", "WandbLog"]

PROJECT = "gsrl"
"""Of wandb, unless WANDB_PROJECT says otherwise."""

METRICS = ("eval/mean_return", "eval/std_return")
"""Scalars by which TensorBoard compares runs: the last ones are those of the final evaluation."""

NOT_IN_TENSORBOARD = frozenset(
    ("train/n_updates", "time/iterations", "time/episodes", "time/time_elapsed", "time/total_timesteps")
)
"""Counts that are the steps in other words, as Stable-Baselines3 has it."""


class CsvLog:
    """A CSV file that grows by rows, and by columns when a row brings new ones. The first column is ``steps``.

    Each row reaches the file at once. What a killed process left of a row is dropped by :meth:`truncate`, with which
    the log begins: until then the file is as it was.

    Args:
        path: Path of the file, which is read when there is one.
        columns: Columns after ``steps`` of a new file, which an old one must have as well.
        more: Columns after those of a new file, which old ones may lack.

    Raises:
        UsageError: There is a file, but it is no such log.
    """

    def __init__(self, path: Path, columns: Sequence[str] = (), more: Sequence[str] = ()) -> None:
        self.path = path
        self._file: IO[str] | None = None
        try:
            self.columns, rows = _read(path) if path.exists() else ([], [])
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not UTF-8: {error}; put the file back as it was") from error
        if self.columns and (self.columns[0] != "steps" or not {*columns} <= {*self.columns}):
            expected, there = (", ".join(names) for names in (["steps", *columns], self.columns))
            raise UsageError(f"{path} must have the columns {expected}, but got {there}; put the file back as it was")
        self.columns = self.columns or ["steps", *columns, *more]
        self._steps = [int(row["steps"]) for row in rows]

    def count_before(self, steps: int) -> int:
        """Returns the number of rows of fewer steps."""
        return sum(row < steps for row in self._steps)

    def rows(self) -> list[dict[str, str]]:
        """Returns the rows of the file, as text; a column that a row lacks is empty."""
        return _read(self.path)[1] if self.path.exists() else []

    def last_step(self) -> int:
        """Returns the steps of the last row; 0 where there is none."""
        rows = self.rows()
        return int(rows[-1]["steps"]) if rows else 0

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row."""
        new = [column for column in row if column not in self.columns]
        if new:
            rows = self.rows()
            self.columns += new
            self._rewrite(rows)
        self._writer.writerow(row)
        self._steps.append(int(row["steps"]))

    def truncate(self, steps: int) -> None:
        """Drops the rows later than ``steps``."""
        self._rewrite([row for row in self.rows() if int(row["steps"]) <= steps])

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        text = csv_text(self.columns, rows)
        self.close()
        write_text(self.path, text)
        self._steps = [int(row["steps"]) for row in rows]
        self._file = self.path.open("a", buffering=1, newline="", encoding="utf-8")  # a line at a time
        self._writer = csv.DictWriter(self._file, self.columns, restval="", lineterminator="\n")


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Returns the columns and the whole rows of a file."""
    text, _, _ = path.read_text(encoding="utf-8").rpartition("\n")  # what follows the last end of line is half a row
    columns, *rows = csv.reader(text.splitlines()) if text else [[]]
    whole = [row for row in rows if len(row) == len(columns) and row[0].isdecimal()]
    return columns, [dict(zip(columns, row, strict=True)) for row in whole]


class TensorBoardLog(TensorBoardOutputFormat):
    """Stable-Baselines3's TensorBoard events, which go on after ``steps``: later ones of earlier processes are hidden.

    Each row reaches the file at once.

    Args:
        folder: Where the events go.
        steps: Steps of the run so far; 0 for a new run.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        # TensorBoard reads files in the order of their names, which hold the second they were made in.
        now = time.time()
        if any(path.name.split(".")[3] == f"{int(now):010d}" for path in folder.glob("events.out.tfevents.*")):
            time.sleep(1 - now % 1)
        self.writer = SummaryWriter(log_dir=str(folder), purge_step=steps + 1)
        self._is_closed = False

    def write_hyperparameters(self, config: Any) -> None:
        """Lets TensorBoard's page HParams compare the run with others, by its last evaluation.

        ``SummaryWriter.add_hparams`` would do it as another run, in a folder below.

        Args:
            config: What is run, a dataclass.
        """
        values = dataclasses.asdict(config)
        values |= values.pop("settings")
        known = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in values.items()}
        self.write({"hparams": HParam(known, dict.fromkeys(METRICS, 0.0))}, {"hparams": ()})


class WandbLog:
    """The same figures for Weights & Biases: one run there for each here, with several agents or one.

    A resumed run goes on with the one there, whose name is in the folder; what is logged twice, by a process that was
    killed, counts once.

    Args:
        folder: Of the run; what wandb writes is in a folder inside.
        config: What is run, a dataclass.
    """

    def __init__(self, folder: Path, config: Any) -> None:
        import wandb

        name = folder / "wandb.txt"
        if not name.exists():
            write_text(name, secrets.token_hex(8))
        values = dataclasses.asdict(config)
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.resolve().name,
            id=name.read_text(encoding="utf-8"),
            resume="allow",
            dir=str(folder),
            config={**values, **values.pop("settings")},
        )

    def write(self, rows: Mapping[str, Mapping[str, Any]], steps: int) -> None:
        """Logs figures.

        Args:
            rows: By agent, or by what they are of all; of an agent by itself by an empty name.
            steps: Those of the training.
        """
        self._run.log(
            {f"{name}/{tag}" if name else tag: value for name, row in rows.items() for tag, value in row.items()},
            step=steps,
        )

    def close(self) -> None:
        """Ends the run there."""
        self._run.finish()
