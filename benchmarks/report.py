"""Says what came out of a benchmark: ``run_agent.py report``.

Reads ``results.csv``, ``gradients.csv`` and ``suite.json``, and writes ``report.md``, ``report.html`` (one page, in one
file) and pictures. The same results give the same files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from agents.common import UsageError
from agents.files import write_text
from benchmarks import figures
from benchmarks.analysis import EVERYWHERE, Analysis, Panel, analyse, read_benchmark
from benchmarks.page import DIVERGED, duration, number, page, seeds_text, significant, span, steps_text
from benchmarks.stats import FEW

__all__ = ["markdown", "write"]


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
    texts = {out / "report.html": page(analysis), out / "report.md": markdown(analysis)}
    for path, text in texts.items():
        write_text(path, text)
    return [*texts, *figures.draw(analysis, out)]


def markdown(analysis: Analysis) -> str:
    """The report as Markdown, which shows the pictures beside it."""
    parts = [f"# Benchmark {analysis.name}", analysis.summary, _verdict(analysis.headline), _notes(analysis)]
    parts.append("![Final scores](scores.png)")
    for panel in analysis.panels:
        parts += [f"## {'All environments' if panel.name == EVERYWHERE else panel.name}", _table(panel)]
        if panel.name == EVERYWHERE:
            parts.append("![Performance profiles](profiles.png)")
        if len(panel.entries) > 1:
            parts += ["### Who beats whom?", _pairs(panel)]
    parts += ["## Along the way", "![Curves](curves.png)"]
    if analysis.gradients:
        parts += ["## The actor's gradient", "![Signal-to-noise ratio](gradients.png)", _gradients(analysis)]
    parts.append(_reading(analysis))
    return "\n\n".join(part for part in parts if part) + "\n"


def _verdict(panel: Panel) -> str:
    best, ties = panel.winner, panel.ties
    where = f"in {panel.name}" if panel.name == EVERYWHERE else f"on {panel.name}"
    others = f"not told apart from it: {', '.join(ties)}" if ties else "told apart from every other"
    if len(panel.entries) == 1:
        others = "nothing to compare it with"
    return (
        f"**{best.label}** leads {where}: IQM {number(best.iqm.estimate)} (95 %: {span(best.iqm.low, best.iqm.high)}), "
        f"{duration(best.seconds)} of one core; {others}."
    )


def _notes(analysis: Analysis) -> str:
    notes = []
    if analysis.few:
        notes.append(f"Fewer than {FEW} seeds are marked \\*: their intervals hold the true value less often.")
    if analysis.missing:
        notes.append(f"Not finished, and not counted: {', '.join(analysis.missing)}.")
    if analysis.diverged:
        notes.append(f"{DIVERGED}: {', '.join(analysis.diverged)}.")
    if analysis.left_out:
        notes.append(f"Not in all environments: {', '.join(analysis.left_out)}.")
    return "\n".join(f"> {note}\n>" for note in notes).removesuffix("\n>")


def _table(panel: Panel) -> str:
    head = ["agent", "seeds", "IQM", "95 %", "worst", "steps", "core time a run", "steps/s"]
    solved = panel.threshold is not None
    if solved:
        head += [f"reached {number(panel.threshold or math.nan)}", "steps to it", "core time to it"]
    rows = []
    for entry in panel.entries:
        row = [
            entry.label,
            seeds_text(entry) + ("\\*" if entry.few else ""),
            number(entry.iqm.estimate),
            span(entry.iqm.low, entry.iqm.high),
            number(entry.worst),
            steps_text(entry.steps),
            duration(entry.seconds),
            f"{entry.speed:,.0f}",
        ]
        if solved:
            row += [f"{entry.reached} of {entry.seeds}", steps_text(entry.steps_to), duration(entry.seconds_to)]
        rows.append(row)
    return _markdown_table(head, rows)


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
        rows.append([row, *cells])
    return (
        "Percent of the runs of the row that end above one of the column, with 95 % intervals; bold: told apart.\n\n"
        + _markdown_table(["", *labels], rows)
    )


def _gradients(analysis: Analysis) -> str:
    """Signal-to-noise ratios and biases, by environment."""
    found = {(each.label, each.env): each for each in analysis.gradients}
    labels, names = (list(dict.fromkeys(keys)) for keys in zip(*found, strict=True))
    rows = []
    for label in labels:
        row = [label]
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
        + _markdown_table(["agent", *names], rows)
    )


def _reading(analysis: Analysis) -> str:
    scales = "; ".join(
        f"{panel.name} {number(panel.low)} and {number(panel.high)}"
        for panel in analysis.panels
        if panel.name != EVERYWHERE and panel.low is not None and panel.high is not None
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
        versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
        lines.append(
            f"Made by `python {analysis.command}` with {versions}; revision {last.get('git')}; "
            f"{last.get('processor')}, {last.get('cores')} cores."
        )
    return "\n\n".join(lines)


def _markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
