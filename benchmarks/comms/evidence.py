"""What the scripts of this folder share: rows that are kept, and pages that say how they were made.

All figures are of hard messages. Beside each accuracy stands the one that is left when messages are shuffled among the
episodes (*scrambled*): what survives that was not told. Seconds are those of the processor, on one thread.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from benchmarks.seeds import markdown
from benchmarks.speed.origin import origin
from benchmarks.stats import interval

RESULTS = Path(__file__).parent / "results"

BONUSES: dict[str, Any] = {"entropy_bonus": 0.05, "diversity_bonus": 1.0}
"""Of channels with hardly more messages than meanings, all equally likely: see :class:`gsrl.comms.Channel`."""

EPSILON = 1e-9
"""What accuracies, which are sums, may miss by rounding."""

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"


class Rows:
    """Rows of a table that is written as they come; runs whose rows are there already need not be made again.

    Args:
        file: A CSV file, which need not exist.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._rows: list[dict[str, Any]] = pd.read_csv(file).to_dict("records") if file.exists() else []

    def holds(self, **run: Any) -> bool:
        """Whether a row has these values."""
        return any(all(row[name] == value for name, value in run.items()) for row in self._rows)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends rows, and writes the file."""
        self._rows += map(dict, rows)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.table().to_csv(self.file, index=False)

    def drop(self, **run: Any) -> None:
        """Forgets the rows with these values; the file is as it was until rows are added."""
        self._rows = [row for row in self._rows if any(row[name] != value for name, value in run.items())]

    def table(self) -> pd.DataFrame:
        """All rows."""
        return pd.DataFrame(self._rows)


def parser(description: str | None, *, seeds: bool = True) -> argparse.ArgumentParser:
    """The options that scripts share: seeds, where they have any, and where the results go."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if seeds:
        made.add_argument("--seeds", type=int, default=10, help="seeds 0, 1, ..., in lock-step")
    made.add_argument("--out", type=Path, default=RESULTS, help="folder of rows, page and picture")
    return made


def prepare() -> None:
    """One thread, and no numbers that are all but zero, which take long: as ``run_agent.py`` has it."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def write_page(file: Path, title: str, text: str, tables: Mapping[str, pd.DataFrame]) -> None:
    """Writes a page of tables, each under its heading, with versions and the command; and prints the tables."""
    parts = [f"# {title}", text]
    for heading, lines in tables.items():
        parts += [f"## {heading}", markdown(lines)]
        print(f"\n{heading}\n{lines.to_string(index=False)}", flush=True)
    made = origin(shlex.join(["python", *sys.argv]))
    versions = ", ".join(f"{name} {made['versions'][name]}" for name in ("gsrl", "torch", "numpy", "python"))
    parts.append(f"Made by `{made['command']}` with {versions}; one thread of {made['processor']}.")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def save_figure(figure: Figure, file: Path) -> None:
    """Writes a picture."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=200)


def share_of(count: ArrayLike) -> str:
    """How many of all are true."""
    values = np.asarray(count)
    return f"{int(values.sum())}/{values.size}"


def median(values: ArrayLike) -> str:
    """The median of numbers of samples, some of which may be infinite."""
    middle = float(np.median(np.asarray(values, dtype=float)))
    return f"{middle:,.0f}" if math.isfinite(middle) else "never"


def mean_interval(values: ArrayLike, digits: int = 3) -> str:
    """The mean over seeds with its 95 % bootstrap interval."""

    def mean(*strata: NDArray[np.floating], axis: int) -> NDArray[np.floating]:
        return np.asarray(strata[0].mean(axis=axis))

    found = interval([np.asarray(values, dtype=float)], mean)
    return f"{found.estimate:z.{digits}f} [{found.low:z.{digits}f}, {found.high:z.{digits}f}]"
