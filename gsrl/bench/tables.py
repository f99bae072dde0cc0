"""The results of a benchmark: tidy tables of rows, as text, rebuilt from the folders of the runs.

A *run* is one seed of one label in one environment. Only finished runs have rows. Rows of runs whose folders are gone
are kept as they are: those who have the table alone can go on with it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gsrl._files import csv_text
from gsrl.runs.config import Config, parse_config, read_json
from gsrl.runs.errors import UsageError
from gsrl.runs.files import write_text

__all__ = ["TABLES", "Key", "Rows", "Table", "finished_runs", "merged", "read_table", "rows_of", "write_table"]

Rows = list[dict[str, str]]


class Table(NamedTuple):
    """A kind of rows, of which there is one for each evaluation."""

    name: str
    """Of the file, in the folder of the benchmark."""
    log: str
    """Of the file in the folder of a run that holds its figures."""
    columns: dict[str, str]
    """Its columns, and what the log calls them; those that a log does not know are filled in by others."""


RESULTS = Table(
    "results.csv",
    "evaluations.csv",
    {
        "suite": "",
        "label": "",
        "agent": "",
        "env": "",
        "seed": "seed",
        "step": "steps",
        "mean_return": "mean_return",
        "std_return": "std_return",
        "episodes": "episodes",
        "seconds": "",
        "train_seconds": "",
        "members": "",
        "final": "",
        "diverged": "diverged",
    },
)
"""``seconds`` are those of the whole task up to the evaluation, of ``members`` seeds that it trained in lock-step;
``train_seconds`` leave evaluations and checkpoints out. ``final`` is 1 at the end of a run, else 0. ``diverged`` is 1
once the loss of a run was no longer finite, its returns then being those of its parameters before, else 0; empty in
rows of earlier versions, which did not say it."""

GRADIENTS = Table(
    "gradients.csv",
    "gradients.csv",
    {
        **dict.fromkeys(("suite", "label", "agent", "env"), ""),
        "seed": "seed",
        "step": "steps",
        **{name: name for name in ("norm", "relative_bias", "relative_bias_error", "variance", "snr", "cosine")},
    },
)

TABLES = (RESULTS, GRADIENTS)


class Key(NamedTuple):
    """Which run a row belongs to."""

    label: str
    env: str
    seed: int


def key_of(row: Mapping[str, str]) -> Key:
    """Returns the run that a row belongs to."""
    return Key(row["label"], row["env"], int(row["seed"]))


def read_table(folder: Path, table: Table) -> Rows:
    """Reads a table; one that is not there has no rows."""
    path = folder / table.name
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is no table: {error}; put the file back as it was") from error
    missing = [name for name in ("label", "env", "seed", "step") if name not in (reader.fieldnames or ())]
    if missing:
        raise UsageError(f"{path} lacks the columns {', '.join(missing)}; put the file back as it was")
    return rows


def write_table(folder: Path, table: Table, rows: Sequence[Mapping[str, str]]) -> None:
    """Writes a table in one order; one without rows that is not there is not made."""
    if not rows and not (folder / table.name).exists():
        return
    ordered = sorted(rows, key=lambda row: (row["env"], row["label"], int(row["seed"]), int(row["step"])))
    write_text(folder / table.name, csv_text(list(table.columns), ordered))


def merged(old: Iterable[Mapping[str, str]], new: Iterable[Mapping[str, str]]) -> Rows:
    """Rows of both; of a run that both know, the new ones."""
    ours = [dict(row) for row in new]
    known = {key_of(row) for row in ours}
    return [dict(row) for row in old if key_of(row) not in known] + ours


def finished_runs(rows: Iterable[Mapping[str, str]]) -> set[Key]:
    """The runs that have come to their end."""
    return {key_of(row) for row in rows if row["final"] == "1"}


def rows_of(folder: Path, suite: str, label: str, table: Table) -> Rows:
    """Returns the rows of a finished task from its folder.

    Args:
        folder: Folder of the task: of one agent, or of several in lock-step.
        suite: Name of the suite.
        label: What the suite calls the agent.
        table: Which rows.
    """
    if not (folder / table.log).exists():
        return []
    config: Config = parse_config(folder / "config.json")
    last = str(read_json(folder / "summary.json")["steps"])
    times = {row["steps"]: row for row in _read(folder / "times.csv")}
    rows = []
    for row in _read(folder / table.log):
        time = times[row["steps"]]
        known = {
            "suite": suite,
            "label": label,
            "agent": config.agent,
            "env": config.env,
            "seed": str(config.seed),
            "seconds": _rounded(time["wall_seconds"]),
            "train_seconds": _rounded(time["train_seconds"]),
            "members": str(config.seeds or 1),
            "final": str(int(row["steps"] == last)),
            "diverged": "0",  # alone it would have failed
        }
        known |= {column: row[name] for column, name in table.columns.items() if name in row}
        rows.append({column: known[column] for column in table.columns})
    return rows


def _read(path: Path) -> Rows:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _rounded(seconds: str) -> str:
    return f"{float(seconds):.3f}"
