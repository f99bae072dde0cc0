"""Says what came out of a benchmark: ``run_agent.py report``.

Reads ``results.csv``, ``gradients.csv`` and ``suite.json``, and writes ``report.md``, ``report.html`` (one page, in one
file), ``pairs.csv`` (who beats whom, with p-values) and pictures. The same results give the same files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gsrl.bench import figures
from gsrl.bench.analysis import EVERYWHERE, Analysis, Panel, analyse, read_benchmark
from gsrl.bench.look import DIVERGED, costs, duration, markdown_table, number, significant, span
from gsrl.bench.page import page
from gsrl.bench.stats import FEW
from gsrl.runs.errors import UsageError
from gsrl.runs.files import write_text

__all__ = ["markdown", "pairs", "write"]

SPECIAL = re.compile(r"[\\`*_\[\]<>|&~#]|^[-+]")
"""What Markdown would not take as it stands."""


def write(folder: Path, out: Path) -> list[Path]:
    """Writes the report of a benchmark.

    Args:
        folder: Folder of the benchmark.
        out: Folder of the report, made when missing.

    Returns:
        The paths of the files, the page first.

    Raises:
        UsageError: There is nothing to report, or no place for it.
    """
    analysis = analyse(*read_benchmark(folder))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be a folder: {error.strerror}") from error
    texts = {
        out / "report.html": page(analysis),
        out / "report.md": markdown(analysis),
        out / "pairs.csv": pairs(analysis),
    }
    for path, text in texts.items():
        write_text(path, text)
    return [*texts, *figures.draw(analysis, out)]


def markdown(analysis: Analysis) -> str:
    """The report as Markdown, which shows the pictures beside it."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, autoescape=False
    )
    templates.filters.update(number=number, span=span, duration=duration, text=_text, code=_code, listed=_listed)
    templates.filters.update(costs=_costs, pairs=_pairs, gradients=_gradients)
    texts = {"EVERYWHERE": EVERYWHERE, "DIVERGED": DIVERGED, "FEW": FEW}
    text = templates.get_template("report.md.j2").render(analysis=analysis, **texts)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def pairs(analysis: Analysis) -> str:
    """Who beats whom, as comma-separated values: a row for each pair of each panel.

    ``p_adjusted`` is ``p_value`` by Holm's procedure for the pairs of the panel.
    """
    columns = ["panel", "first", "second", "probability", "low", "high", "p_value", "p_adjusted"]
    rows = [
        (panel.name, pair.first, pair.second, *map(float, pair.probability), pair.p_value, pair.adjusted)
        for panel in analysis.panels
        for pair in panel.pairs
    ]
    return pd.DataFrame(rows, columns=columns).to_csv(index=False, float_format="%.6g", lineterminator="\n")


# Tables


def _costs(panel: Panel) -> str:
    head, rows = costs(panel)
    for entry, row in zip(panel.entries, rows, strict=True):
        row[:2] = _text(row[0]), row[1] + ("\\*" if entry.few else "")
    return markdown_table(head, rows)


def _pairs(panel: Panel) -> str:
    """The probability that the row ends above the column, in percent."""
    labels = [entry.label for entry in panel.entries]
    rows = []
    for row in labels:
        cells = []
        for column in labels:
            if row == column:
                cells.append("")
                continue
            pair = panel.pair(row, column)
            estimate, low, high = (100 * value for value in pair.probability)
            text = f"{estimate:.0f}" + (f" ({low:.0f}–{high:.0f})" if math.isfinite(low) else "")
            cells.append(f"**{text}**" if pair.told_apart else text)
        rows.append([_text(row), *cells])
    return markdown_table(["", *map(_text, labels)], rows)


def _gradients(analysis: Analysis) -> str:
    """Signal-to-noise ratios and biases, by environment."""
    cells: dict[str, dict[str, str]] = {}
    for each in analysis.gradients:
        figures = (significant(each.median(kind)) for kind in ("snr", "relative_bias", "relative_bias_error"))
        cells.setdefault(each.label, {})[each.env] = "{} / {} ({})".format(*figures)
    names = list(dict.fromkeys(each.env for each in analysis.gradients))
    rows = [[_text(label), *(own.get(name, "") for name in names)] for label, own in cells.items()]
    return markdown_table(["agent", *map(_text, names)], rows)


# Texts


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(_text, names))


def _text(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    return SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))


def _code(text: str) -> str:
    """Text as code, in one line."""
    text = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if fence == "`" else f"{fence} {text} {fence}"
