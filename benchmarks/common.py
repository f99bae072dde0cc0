"""What benchmarks share: runs by the command line, rows that are kept, and pages that say how they were made."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.origin import made_by

__all__ = ["RESULTS", "ROOT", "Rows", "markdown", "markdown_table", "train", "write_page"]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


class Rows:
    """Rows of a table that is written as they come; runs whose rows are there already need not be made again.

    Args:
        file: A CSV file, which need not exist.
        order: What rows are sorted by; None: they stay in the order in which they come.
    """

    def __init__(self, file: Path, order: Callable[[Mapping[str, Any]], Any] | None = None) -> None:
        self.file = file
        self._order = order
        self._rows: list[dict[str, Any]] = []
        if file.exists():
            frame = pd.read_csv(file)
            self._rows = frame.astype(object).where(frame.notna(), None).to_dict("records")

    def holds(self, **run: Any) -> bool:
        """Whether a row has these values; None is that of an empty cell."""
        return any(all(row[name] == value for name, value in run.items()) for row in self._rows)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows, and writes the file."""
        self._rows += map(dict, rows)
        if self._order is not None:
            self._rows.sort(key=self._order)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.table().to_csv(self.file, index=False)

    def drop(self, **run: Any) -> None:
        """Forgets the rows with these values; the file is as it was until rows are added."""
        self._rows = [row for row in self._rows if any(row[name] != value for name, value in run.items())]

    def table(self) -> pd.DataFrame:
        """All rows."""
        return pd.DataFrame(self._rows)


def train(folder: Path, options: Sequence[str]) -> dict[str, Any]:
    """Trains by the command line, in a process of its own and on one thread, or goes on with it.

    Args:
        folder: Of the run; one that is finished is not repeated.
        options: Of ``run_agent.py train``, for a new run.

    Returns:
        The summary.

    Raises:
        RuntimeError: It ended with an error; the message has the end of what it said.
    """
    folder = folder.resolve()
    file = folder / "summary.json"
    if not (file.exists() and json.loads(file.read_text(encoding="utf-8"))["status"] == "finished"):
        how = ["--resume", str(folder)] if (folder / "checkpoint.zip").exists() else [*options, "--out", str(folder)]
        command = [sys.executable, str(ROOT / "run_agent.py"), "train", *how]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        done = subprocess.run(
            command, text=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        if done.returncode != 0:
            raise RuntimeError(f"run_agent.py train {' '.join(how)} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(file.read_text(encoding="utf-8")))


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def markdown(lines: pd.DataFrame) -> str:
    """The same of a frame; cells without a value are empty."""
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
    file.write_text("\n\n".join([*parts, made_by(shlex.join(["python", *sys.argv]))]) + "\n", encoding="utf-8")
