"""Says what came out of a benchmark: ``run_agent.py report``.

Reads ``results.csv``, ``gradients.csv`` and ``suite.json``, and writes ``report.md``, ``report.html`` (one page, in one
file), ``pairs.csv`` (who beats whom, with p-values) and pictures. The same results give the same files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

from agents.common import UsageError
from agents.files import write_text
from benchmarks import figures
from benchmarks.analysis import EVERYWHERE, Analysis, Panel, analyse, read_benchmark
from benchmarks.look import DIVERGED, costs, duration, markdown_table, number, significant, span
from benchmarks.page import page
from benchmarks.stats import FEW
from gsrl._files import csv_text

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
    parts = [f"# Benchmark {_text(analysis.name)}", _text(analysis.summary)]
    parts += [_verdict(analysis.headline), _notes(analysis)]
    parts.append("![Final scores](scores.png)")
    for panel in analysis.panels:
        parts += [f"## {'All environments' if panel.name == EVERYWHERE else _text(panel.name)}", _table(panel)]
        if panel.name == EVERYWHERE:
            parts.append("![Performance profiles](profiles.png)")
        if len(panel.entries) > 1:
            parts += ["### Who beats whom?", _pairs(panel)]
    parts += ["## Along the way", "![Curves](curves.png)"]
    if analysis.gradients:
        parts += ["## The actor's gradient", "![Signal-to-noise ratio](gradients.png)", _gradients(analysis)]
    parts.append(_reading(analysis))
    return "\n\n".join(part for part in parts if part) + "\n"


def pairs(analysis: Analysis) -> str:
    """Who beats whom, as comma-separated values: a row for each pair of each panel.

    ``p_adjusted`` is ``p_value`` by Holm's procedure for the pairs of the panel.
    """
    columns = ["panel", "first", "second", "probability", "low", "high", "p_value", "p_adjusted"]
    rows = []
    for panel in analysis.panels:
        for pair in panel.pairs:
            numbers = (*pair.probability, pair.p_value, pair.adjusted)
            cells = (f"{value:.6g}" if math.isfinite(value) else "" for value in map(float, numbers))
            rows.append(dict(zip(columns, (panel.name, pair.first, pair.second, *cells), strict=True)))
    return csv_text(columns, rows)


def _verdict(panel: Panel) -> str:
    best, ties = panel.best, panel.ties
    where = f"in {panel.name}" if panel.name == EVERYWHERE else f"on {_text(panel.name)}"
    what = "has the highest IQM" if ties else "leads"
    others = f"not told apart from it: {_listed(ties)}" if ties else "told apart from every other"
    if ties and not panel.resolvable:
        others += ", nor could any two agents be with so few seeds"
    if len(panel.entries) == 1:
        what, others = "stands alone", "nothing to compare it with"
    return (
        f"**{_text(best.label)}** {what} {where}: IQM {number(best.iqm.estimate)} "
        f"(95 %: {span(best.iqm.low, best.iqm.high)}), {duration(best.seconds)} of one core; {others}."
    )


def _notes(analysis: Analysis) -> str:
    notes = []
    if analysis.few:
        notes.append(f"Fewer than {FEW} seeds are marked \\*: their intervals hold the true value less often.")
    if analysis.missing:
        notes.append(f"Not finished, and not counted: {_listed(analysis.missing)}.")
    if analysis.diverged:
        notes.append(f"{DIVERGED}: {_listed(analysis.diverged)}.")
    if analysis.left_out:
        notes.append(f"Not in all environments: {_listed(analysis.left_out)}.")
    return "\n".join(f"> {note}\n>" for note in notes).removesuffix("\n>")


def _table(panel: Panel) -> str:
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
    return (
        "Percent of the runs of the row that end above one of the column, with 95 % intervals of each pair by itself; "
        "bold: told apart, with Holm's correction for all pairs of the table.\n\n"
        + markdown_table(["", *map(_text, labels)], rows)
    )


def _gradients(analysis: Analysis) -> str:
    """Signal-to-noise ratios and biases, by environment."""
    found = {(each.label, each.env): each for each in analysis.gradients}
    labels, names = (list(dict.fromkeys(keys)) for keys in zip(*found, strict=True))
    rows = []
    for label in labels:
        row = [_text(label)]
        for name in names:
            each = found.get((label, name))
            if each is None:
                row.append("")
                continue
            snr, bias, error = (
                significant(each.median(kind)) for kind in ("snr", "relative_bias", "relative_bias_error")
            )
            row.append(f"{snr} / {bias} ({error})")
        rows.append(row)
    return (
        "Signal-to-noise ratio of one estimate / relative bias (what an unbiased estimator would seem to have, for "
        "want of samples); medians over seeds, then over the training. What has no noise has no ratio.\n\n"
        + markdown_table(["agent", *map(_text, names)], rows)
    )


def _reading(analysis: Analysis) -> str:
    scales = "; ".join(
        f"{_text(panel.name)} {number(panel.low or 0)} and {number(panel.high or 0)}" for panel in analysis.scaled
    )
    lines = [
        "## How to read this",
        "Scores are mean returns of the greedy policy in the final evaluation of each run. IQM: mean of the middle "
        "half of the seeds. Intervals: stratified bootstrap over seeds, widened for few of them. `docs/benchmarks.md` "
        "says more.",
    ]
    if scales:
        lines.append(f"Returns that count 0 and 1 where environments are taken together: {scales}.")
    sessions = analysis.meta.get("sessions", [])
    if sessions:
        last = sessions[-1]
        made = [*(f"{name} {version}" for name, version in last["versions"].items()), f"revision {last.get('git')}"]
        made += [f"{last.get('processor')}", f"{last.get('cores')} cores"]
        lines.append(f"Made by {_code(f'python {analysis.command}')} with {_listed(made)}.")
    return "\n\n".join(lines)


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
