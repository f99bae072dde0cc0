"""What page, pictures and Markdown share: how numbers are written, and how labels are told apart."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from gsrl._style import COLOURS
from gsrl.bench.analysis import Analysis, Entry, Panel

__all__ = [
    "DIVERGED",
    "colours",
    "costs",
    "duration",
    "markdown_table",
    "number",
    "seeds_text",
    "significant",
    "span",
    "spread",
    "steps_text",
    "ticks",
    "variants",
]

DIVERGED = "Diverged, and counted with the score of their parameters before"
"""What is said of runs whose loss was no longer finite."""

# Texts


def number(value: float) -> str:
    """A score, with as many digits as can matter."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    text = f"{value:.0f}" if size >= 1000 else f"{value:.1f}" if size >= 20 else f"{value:.2f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def significant(value: float) -> str:
    """A ratio, to three digits."""
    return f"{value:.3g}" if math.isfinite(value) else "–"


def span(low: float, high: float) -> str:
    """An interval; a dash where there is none."""
    return f"{number(low)} to {number(high)}" if math.isfinite(low) and math.isfinite(high) else "–"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3600:.1f} h"


def steps_text(steps: float) -> str:
    """A number of steps, such as 30k."""
    if not math.isfinite(steps):
        return "–"
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if steps >= unit:
            return f"{steps / unit:.3g}{name}"
    return f"{steps:.0f}"


def seeds_text(entry: Entry) -> str:
    """How many seeds there are: of how many, where some are missing, and how many diverged, if any."""
    seeds = f"{entry.seeds}" if entry.seeds == entry.planned else f"{entry.seeds} of {entry.planned}"
    return f"{seeds}, {entry.diverged} diverged" if entry.diverged else seeds


def costs(panel: Panel) -> tuple[list[str], list[list[str]]]:
    """The table of one environment: its head, and a row for each entry."""
    head = ["agent", "seeds", "IQM", "95 %", "worst", "steps", "core time a run", "steps/s"]
    if panel.threshold is not None:
        head += [f"reached {number(panel.threshold)}", "steps to it", "core time to it"]
    rows = []
    for entry in panel.entries:
        row = [
            entry.label,
            seeds_text(entry),
            number(entry.iqm.estimate),
            span(entry.iqm.low, entry.iqm.high),
            number(entry.worst),
            steps_text(entry.steps),
            duration(entry.seconds),
            f"{entry.speed:,.0f}",
        ]
        if panel.threshold is not None:
            row += [f"{entry.reached} of {entry.seeds}", steps_text(entry.steps_to), duration(entry.seconds_to)]
        rows.append(row)
    return head, rows


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


# Drawings


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Moves places between 0 and 1 apart so that none is nearer than the gap to another, in their order.

    They move as little as can be, in the sum of squares, and stay between 0 and 1 unless there are too many.

    Args:
        places: In any order; of equal ones the first is the upper.
        gap: Between neighbours.
    """
    order = sorted(range(len(places)), key=lambda index: (-places[index], index))
    blocks: list[list[float]] = []  # the sum and number of what neighbours agree on, from above
    for rank, index in enumerate(order):
        blocks.append([places[index] + rank * gap, 1])
        while len(blocks) > 1 and blocks[-1][0] / blocks[-1][1] > blocks[-2][0] / blocks[-2][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    levels = [total / count for total, count in blocks for _ in range(int(count))]
    moved = [0.0] * len(places)
    for rank, (index, level) in enumerate(zip(order, levels, strict=True)):
        room = 1 - rank * gap, (len(places) - 1 - rank) * gap
        moved[index] = max(min(level - rank * gap, room[0]), room[1])
    return moved


def colours(analysis: Analysis) -> dict[str, str]:
    """A colour for each label: two labels of one agent share theirs, where there are several agents."""
    agents = {entry.label: entry.agent for panel in analysis.panels for entry in panel.entries}
    counts = Counter(agents.values())
    shared = {agent for agent, count in counts.items() if count <= 2 and len(counts) > 1}
    keys = {label: (agent, "" if agent in shared else label) for label, agent in agents.items()}
    kinds = list(dict.fromkeys(keys[label] for label in analysis.labels))
    return {label: COLOURS[kinds.index(keys[label]) % len(COLOURS)] for label in analysis.labels}


def variants(analysis: Analysis) -> set[str]:
    """Labels whose colour an earlier one has: they are drawn with dashes."""
    tint = colours(analysis)
    first = {colour: label for label, colour in reversed(tint.items())}
    return {label for label, colour in tint.items() if first[colour] != label}
