"""What studies share: how they are started and timed, rows that are kept, and pages that say how they were made."""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from matplotlib import style

from gsrl._style import STYLE
from gsrl.bench.look import markdown_table
from gsrl.bench.origin import made_by, origin
from gsrl.runs.config import set_threads

__all__ = [
    *("RESULTS", "ROOT"),
    *("Rows", "calls_in", "in_turns", "markdown", "record", "repeated", "start", "write_page"),
]

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"

Subject = Callable[[int], object]
"""What is timed: does something so many times."""


def start(main: Callable[..., None], description: str | None) -> None:
    """Calls the main function of a study, on one thread, with arguments from the command line.

    Args:
        main: Its arguments, all by name and with a default, are the options.
        description: Of the study, for ``--help``.
    """
    set_threads(1)
    style.use(STYLE)
    tyro.cli(main, description=description)


# Rows


class Rows:
    """Rows of a table that is written as they come; runs whose rows are there already need not be made again.

    Args:
        file: A CSV file, which need not exist.
        order: Columns by which rows are sorted; none: they stay in the order in which they come.
    """

    def __init__(self, file: Path, order: Iterable[str] = ()) -> None:
        self.file = file
        self._order = list(order)
        self._table = pd.read_csv(file) if file.exists() else pd.DataFrame()

    def holds(self, **run: Any) -> bool:
        """Whether a row has these values; None is that of an empty cell."""
        if self._table.empty:
            return False
        found = pd.Series(True, self._table.index)
        for name, value in run.items():
            found &= self._table[name].isna() if value is None else self._table[name] == value
        return bool(found.any())

    def missing(self, runs: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Those of the runs that have no row yet; each is said to be done when the next one is asked for."""
        for run in runs:
            if not self.holds(**run):
                yield run
                print(", ".join(f"{name} {value}" for name, value in run.items()), "is done", flush=True)

    def add(self, rows: pd.DataFrame | Iterable[Mapping[str, Any]], **run: Any) -> None:
        """Appends rows, whose first columns are those of the run, and writes the file."""
        new = pd.DataFrame(rows)
        new = pd.DataFrame(run, new.index).assign(**new) if run else new
        self._table = pd.concat([self._table, new], ignore_index=True) if len(self._table) else new
        if self._order:
            self._table = self._table.sort_values(self._order, kind="stable", ignore_index=True)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._table.to_csv(self.file, index=False)

    def table(self) -> pd.DataFrame:
        """All rows."""
        return self._table.copy()


# Time


def repeated(call: Callable[[], object]) -> Subject:
    """What calls it so many times."""

    def repeat(count: int) -> None:
        for _ in range(count):
            call()

    return repeat


def calls_in(seconds: float, subject: Subject, warm_up: int, clock: Callable[[], float] = time.perf_counter) -> int:
    """How many calls take so long, or a little longer, after some that warm up."""
    subject(warm_up)
    begin = clock()
    subject(warm_up)
    return math.ceil(warm_up * seconds / (clock() - begin))


def in_turns(
    subjects: Mapping[Any, Subject],
    calls: int | Mapping[Any, int],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> pd.DataFrame:
    """Seconds of a call: a row for each round, a column for each subject.

    All take turns in each round, so that the machine's drift meets all.

    Args:
        subjects: What is timed, by name.
        calls: Of a round, of all or of each.
        rounds: How many, after one that warms up and does not count.
        clock: That of the wall, or of the processor.
    """
    seconds: dict[Any, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds + 1):
        for name, subject in subjects.items():
            count = calls if isinstance(calls, int) else calls[name]
            begin = clock()
            subject(count)
            seconds[name].append((clock() - begin) / count)
    return pd.DataFrame(seconds).iloc[1:].reset_index(drop=True)


# Files


def command() -> str:
    """The command that is running."""
    return shlex.join(["python", *sys.argv])


def record(file: Path | None, result: Mapping[str, Any], indent: int = 2) -> None:
    """Writes a result as JSON with its origin, if there is a file for it, and its folder when missing."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({**origin(command()), **result}, indent=indent) + "\n", encoding="utf-8")


def markdown(lines: pd.DataFrame) -> str:
    """A table in Markdown; cells without a value are empty."""
    cells = lines.astype(object).where(lines.notna(), "").astype(str)
    return markdown_table(list(lines.columns), cells.values.tolist())


def write_page(file: Path, title: str, text: str, tables: Mapping[str, pd.DataFrame]) -> None:
    """Writes a page of tables, with versions and the command that is running, and prints the tables.

    Args:
        file: The page.
        title: Its title.
        text: What stands before the tables.
        tables: Each by its heading; an empty one is left out.
    """
    parts = [f"# {title}", text]
    for heading, lines in tables.items():
        parts += [f"## {heading}"] if heading else []
        parts.append(markdown(lines))
        print(f"\n{heading}\n{lines.to_string(index=False)}", flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n\n".join([*parts, made_by(command())]) + "\n", encoding="utf-8")
