"""The report as one page: HTML, CSS and inline SVG alone, so that it can be mailed, and opened without a network.

Everything is drawn to the width of the window: texts are HTML, placed in percent; only lines and bands are SVG, which
is stretched. The page is well-formed XML too, so that a test can read it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from benchmarks.analysis import EVERYWHERE, LEADERS, THRESHOLDS, Analysis, Entry, Panel, ratios
from benchmarks.stats import FEW

__all__ = [
    "DIVERGED",
    "PALETTE",
    "colours",
    "duration",
    "number",
    "page",
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

PALETTE = (
    "#2f6fd0",
    "#e07b00",
    "#2a9d5c",
    "#d0384f",
    "#8a56c9",
    "#0f9aa8",
    "#b0762b",
    "#d6569f",
    "#6f7f1f",
    "#5b6b7f",
)
"""Colours of agents, in the order of the suite; apart for the colour-blind as far as ten can be."""

WIDTH, HEIGHT = 1000, 400
"""Of a drawing, before it is stretched."""

CSS = """
:root{--ink:#1b2430;--soft:#5d6978;--faint:#dfe4ea;--paper:#fbfbf9;--card:#fff;--warn:#8a5a00;--warnbg:#fff4da}
@media(prefers-color-scheme:dark){:root{--ink:#e9edf2;--soft:#9aa7b5;--faint:#323c48;--paper:#12171d;--card:#1a2129;
--warn:#ffd27a;--warnbg:#3a2f17}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 Inter,system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif;
font-variant-numeric:tabular-nums}
main{max-width:1080px;margin:0 auto;padding:22px 24px 64px}
h1{font-size:15px;font-weight:600;margin:0;color:var(--soft)}
h1 b{color:var(--ink)}
h2{font-size:21px;line-height:1.25;margin:44px 0 4px;letter-spacing:-.01em}
h3{font-size:14px;margin:22px 0 6px;color:var(--soft);font-weight:600}
p{margin:4px 0 10px;max-width:74ch}
.soft{color:var(--soft)}.small{font-size:13px}
.hero{display:grid;grid-template-columns:minmax(0,1fr) auto;gap:6px 36px;align-items:end;margin:14px 0 14px}
.verdict{font-size:34px;line-height:1.12;letter-spacing:-.022em;font-weight:680;margin:0;max-width:22ch}
.verdict i{font-style:normal;border-bottom:4px solid var(--c)}
.facts{display:flex;gap:28px;margin:0;padding:0}
.fact dt{font-size:12px;color:var(--soft);white-space:nowrap}
.fact dd{margin:0;font-size:25px;font-weight:650;letter-spacing:-.015em;line-height:1.15;white-space:nowrap}
.fact dd small{display:block;font-size:12px;font-weight:400;color:var(--soft);letter-spacing:0}
.lead{grid-column:1/-1;margin:4px 0 0;max-width:90ch}
.note{background:var(--warnbg);color:var(--warn);border-radius:8px;padding:7px 12px;margin:10px 0;font-size:13px;
max-width:none}
.card{background:var(--card);border:1px solid var(--faint);border-radius:12px;padding:14px 18px 12px;margin:10px 0}
.rank{display:grid;grid-template-columns:auto minmax(120px,1fr) auto auto;column-gap:18px}
.rank>div,.rank>a{display:contents}
.rank .head span{font-size:12px;color:var(--soft);padding-bottom:4px;white-space:nowrap}
.name{white-space:nowrap;padding:3px 0;font-weight:550}
.first .name{font-weight:700}
.name::before{content:"";display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:8px;
border:2px solid var(--c);background:var(--c)}
.long .name::before{background:transparent}
.few{color:var(--warn);font-weight:600;font-size:12px;margin-left:5px}
.num{text-align:right;white-space:nowrap;padding:3px 0}
.num small{color:var(--soft)}
.strip{position:relative;align-self:stretch;min-height:26px}
.seed,.ci,.dot{position:absolute;top:50%}
.tick,.mark{position:absolute;top:0;bottom:0;width:0}
.tick{border-left:1px solid var(--faint)}
.seed{width:7px;height:7px;margin:-3.5px;border-radius:50%;background:var(--c);opacity:.26}
.less,.more{border-radius:0;opacity:.6;clip-path:polygon(0 50%,100% 0,100% 100%)}
.more{clip-path:polygon(0 0,100% 50%,0 100%)}
.ci{height:8px;margin-top:-4px;border-radius:4px;background:var(--c);opacity:.45}
.dot{width:4px;height:18px;margin:-9px -2px;border-radius:2px;background:var(--c)}
.mark{border-left:1.5px dashed var(--soft);opacity:.6}
.axis{position:relative;height:17px;font-size:12px;color:var(--soft)}
.axis span{position:absolute;transform:translateX(-50%);white-space:nowrap}
.axis .l{transform:none}.axis .r{transform:translateX(-100%)}
.plot{display:grid;grid-template-columns:auto minmax(0,1fr) auto;gap:2px 8px}
.plot .names{position:relative;padding-left:8px;font-size:11.5px;line-height:14px;white-space:nowrap}
.plot .names u{visibility:hidden}
.plot .names span{position:absolute;left:8px;transform:translateY(-50%);color:var(--c);cursor:default}
.plot~.legend{display:none}
.tie{stroke:var(--c);stroke-width:1;stroke-dasharray:1 4}
.plot .y{position:relative;min-width:40px;font-size:12px;color:var(--soft)}
.plot .y span{position:absolute;right:0;transform:translateY(-50%)}
.plot svg{display:block;width:100%;height:clamp(210px,30vw,330px);overflow:visible}
.plot .axis{grid-column:2}
.plot .what{grid-column:1/-1;font-size:12px;color:var(--soft)}
path,line{vector-effect:non-scaling-stroke;fill:none}
.grid{stroke:var(--faint);stroke-width:1}
.goal{stroke:var(--soft);stroke-width:1.5;stroke-dasharray:2 5}
.line{stroke:var(--c);stroke-width:2.2;stroke-linejoin:round}
.long .line{stroke-dasharray:7 4}
.band{fill:var(--c);opacity:.14;stroke:none}
.rest .band{opacity:0}.rest .line{stroke-width:1.5}
.k{transition:opacity .15s}
.legend{display:flex;flex-wrap:wrap;gap:1px 16px;margin:8px 0 0;padding:0;list-style:none;font-size:13px}
.legend .name{font-weight:450;cursor:default;padding:2px 0}
.scroll{overflow-x:auto}.card.scroll{padding-left:0;padding-right:0}
table{border-collapse:collapse;font-size:13px;min-width:100%}
th,td{padding:5px 7px;text-align:right;border-top:1px solid var(--faint);white-space:nowrap}
th{font-weight:600;color:var(--soft)}thead th{border:0;white-space:normal;vertical-align:bottom;line-height:1.25}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--card);z-index:1;padding-left:16px}
th:last-child,td:last-child{padding-right:16px}
.matrix td,.matrix thead th{text-align:center;padding:4px 0;min-width:34px}
.matrix{min-width:calc(100% - 14px);margin-right:14px}
.matrix td{background:color-mix(in srgb,var(--m) var(--a),transparent);border:1px solid var(--card)}
.matrix th:first-child{padding-right:8px}
.matrix .no{color:var(--soft)}
.matrix i{font-style:normal}
.matrix small{display:block;font-size:9.5px;opacity:.75}
details{margin:8px 0}summary{cursor:pointer;color:var(--soft);font-size:13px}
dl.how{display:grid;grid-template-columns:auto 1fr;gap:4px 18px;font-size:14px}dl.how dt{font-weight:600}
dl.how dd{margin:0;max-width:72ch}
code{font:12.5px/1.4 ui-monospace,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
@media(max-width:640px){
main{padding:14px 14px 48px}
.hero{grid-template-columns:1fr;gap:10px}
.verdict{font-size:25px}
.facts{gap:12px;justify-content:space-between}.fact dd small{white-space:normal}
.fact dd{font-size:19px}.fact dd small,.fact dt{font-size:11px}
.card{padding:10px 12px}
.rank{display:block}
.rank>div{display:grid;grid-template-columns:minmax(0,1fr) auto 88px;column-gap:10px}
.rank .strip{grid-column:1/-1;grid-row:2;min-height:17px;margin-bottom:6px}
.rank .axis{grid-column:1/-1}.rank .gap{display:none}
.name{font-size:14px;padding:0;white-space:normal;line-height:1.25;align-self:center}.num{padding:0;font-size:13px}
.matrix,.matrix thead,.matrix tbody{display:block}.matrix{margin:0;padding:0 10px}
.matrix tr{display:grid;grid-template-columns:repeat(var(--n),minmax(0,1fr))}
.matrix th:first-child{grid-column:1/-1;padding:5px 0 1px;border:0}
.matrix td,.matrix thead th{min-width:0;padding:3px 0;font-size:clamp(8px,calc(110vw/var(--n)/2.6),13px)}
.matrix td{position:static;text-align:center}
.matrix i,.matrix small{display:none}
dl.how{grid-template-columns:1fr;gap:0}dl.how dd{margin-bottom:8px}
h2{font-size:19px;margin-top:34px}
.plot .names,.tie{display:none}.plot~.legend{display:flex}
}
"""

Scale = Callable[[float], float]
"""From a value to percent of the width, or of the height from above."""


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
    return {label: PALETTE[kinds.index(keys[label]) % len(PALETTE)] for label in analysis.labels}


def variants(analysis: Analysis) -> set[str]:
    """Labels whose colour an earlier one has: they are drawn with dashes."""
    tint = colours(analysis)
    first = {colour: label for label, colour in reversed(tint.items())}
    return {label for label, colour in tint.items() if first[colour] != label}


# The page


def page(analysis: Analysis) -> str:
    """The report as HTML."""
    style = _Style(analysis)
    panels = analysis.panels
    body = [
        _top(analysis, style),
        *(_everywhere(panel, style) for panel in panels if panel.name == EVERYWHERE),
        *(_environment(panel, style, analysis) for panel in panels if panel.name != EVERYWHERE),
        _gradients(analysis, style),
        _how(analysis),
    ]
    dim = "".join(
        f"body:has(.label.{name}:hover) .k:not(.{name}){{opacity:.08}}"
        f"body:has(.label.{name}:hover) .{name} .band{{opacity:.25}}"
        for name in style.classes.values()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"/>'
        f"<title>{escape(analysis.name)}: benchmark</title>"
        f"<style>{CSS}{dim}</style></head>\n<body><main>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


class _Style:
    """How each label is drawn."""

    def __init__(self, analysis: Analysis) -> None:
        self.colours = colours(analysis)
        self.variants = variants(analysis)
        self.classes = {label: f"k{index}" for index, label in enumerate(analysis.labels)}

    def attributes(self, label: str, *classes: str, top: float | None = None) -> str:
        """Of an element that is drawn for a label, at a height in percent from above."""
        names = [*classes, self.classes[label], *(["long"] if label in self.variants else [])]
        place = "" if top is None else f";top:{top:.2f}%"
        return f'class="{" ".join(names)}" style="--c:{self.colours[label]}{place}"'


def _top(analysis: Analysis, style: _Style) -> str:
    panel = analysis.headline
    best = panel.best
    where = f"over {len(analysis.panels) - 1} environments" if panel.name == EVERYWHERE else f"on {escape(panel.name)}"
    runs = sum(len(scores) for entry in panel.entries for scores in entry.scores)
    ties = panel.ties
    rivals = panel.entries[1:]
    name = f'<i style="--c:{style.colours[best.label]}">{escape(best.label)}</i>'
    if not rivals:
        verdict, lead = f"{name} stands alone", "There is nothing to compare it with."
    elif not ties:
        verdict = f"{name} is ahead"
        lead = f"It is told apart from every other agent: next is {escape(rivals[0].label)}."
    else:
        verdict = f"{name} is not told apart from {escape(_listed(ties)) if len(ties) <= 2 else f'{len(ties)} others'}"
        apart = len(rivals) - len(ties)
        lead = f"It has the highest score{f', and is told apart from the other {apart}' if apart else ''}."
        if not panel.resolvable:
            lead += " With so few seeds no two agents could be told apart, whatever their scores."
        if len(ties) > 2:
            lead += f" Not told apart from it: {escape(_listed(ties, 10))}."
    facts = [
        ("IQM of the score", number(best.iqm.estimate), f"95 %: {span(best.iqm.low, best.iqm.high)}"),
        (
            "cost, a run in each" if panel.name == EVERYWHERE else "cost of a run",
            duration(best.seconds),
            f"one core, {steps_text(best.steps)} steps",
        ),
    ]
    if rivals:
        chance = panel.pair(best.label, rivals[0].label).probability
        percent = _percent(chance.estimate)
        detail = "no interval"
        if math.isfinite(chance.low):
            detail = f"95 %: {100 * chance.low:.0f} to {_percent(chance.high)}"
        facts.insert(1, (f"ends above {rivals[0].label}", percent, detail))
    cheap = _cheaper(panel)
    if cheap:
        lead += " " + cheap
    return (
        f"<h1>Benchmark <b>{escape(analysis.name)}</b> · {runs} runs {where}</h1>"
        '<section class="hero">'
        f'<p class="verdict">{verdict}</p><dl class="facts">'
        + "".join(
            f'<div class="fact"><dt>{escape(what)}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd></div>'
            for what, value, more in facts
        )
        + f'</dl><p class="lead">{lead}</p></section>'
        + _notes(analysis)
        + _ranking(panel, style)
    )


def _cheaper(panel: Panel) -> str:
    """Says which of those that are not told apart from the best costs least, if that is much less."""
    equals = [panel.best, *(entry for entry in panel.entries if entry.label in panel.ties)]
    least = min(equals, key=lambda entry: entry.seconds)
    if least.seconds > 0.6 * panel.best.seconds:
        return ""
    share = panel.best.seconds / least.seconds
    return f"Of these, {escape(least.label)} is the cheapest: {duration(least.seconds)} a run, {share:.1f} times less."


def _notes(analysis: Analysis) -> str:
    notes = []
    if analysis.few:
        notes.append(
            f"Fewer than {FEW} seeds, marked <b>n=…</b>: such intervals hold the true value less often than they say."
        )
    if analysis.missing:
        notes.append(f"Not finished, and not counted: {escape(_listed(analysis.missing))}.")
    if analysis.diverged:
        notes.append(f"{DIVERGED}: {escape(_listed(analysis.diverged))}.")
    if analysis.left_out:
        notes.append(f"Not in all environments, so below alone: {escape(_listed(analysis.left_out))}.")
    return "".join(f'<p class="note">{note}</p>' for note in notes)


def _ranking(panel: Panel, style: _Style) -> str:
    """The entries as a table of intervals."""
    low, high = panel.score_range()
    margin = 0.02 * (high - low) or 1.0
    scale = _linear(low - margin, high + margin)
    unit = "normalised score" if panel.name == EVERYWHERE else "score"
    at = ticks(low, high)
    grid = "".join(f'<i class="tick" style="left:{scale(tick):.2f}%"></i>' for tick in at)
    entries = enumerate(panel.entries)
    rows = "".join(_ranked(entry, scale, grid, panel, style, first=index == 0) for index, entry in entries)
    return (
        '<div class="card"><div class="rank">'
        '<div class="head"><span>agent</span><span class="gap">each dot is a seed, a triangle one beyond the axis; '
        f'bar: 95 % interval of the IQM</span><span class="num">{unit}, IQM</span>'
        '<span class="num">cost of a run</span></div>'
        f'{rows}<div><span class="gap"></span><div class="axis">{_axis(at, scale, _tick)}</div></div></div></div>'
    )


def _ranked(entry: Entry, scale: Scale, grid: str, panel: Panel, style: _Style, *, first: bool) -> str:
    seeds = "".join(_seed(scale(value)) for scores in entry.scores for value in scores)
    bar = ""
    if math.isfinite(entry.iqm.low):
        left, right = _clipped(scale(entry.iqm.low)), _clipped(scale(entry.iqm.high))
        bar = f'<i class="ci" style="left:{left:.2f}%;width:{right - left:.2f}%"></i>'
    goal = ""
    if panel.threshold is not None and 0 <= scale(panel.threshold) <= 100:
        goal = f'<i class="mark" style="left:{scale(panel.threshold):.2f}%"></i>'
    few = f'<span class="few">n={entry.seeds}</span>' if entry.few else ""
    return (
        f"<div {style.attributes(entry.label, 'body', *(['first'] if first else []))}>"
        f'<span class="name">{escape(entry.label)}{few}</span>'
        f'<div class="strip">{grid}{goal}{seeds}{bar}'
        f'<i class="dot" style="left:{_clipped(scale(entry.iqm.estimate)):.2f}%"></i></div>'
        f'<span class="num"><b>{number(entry.iqm.estimate)}</b> '
        f"<small>{span(entry.iqm.low, entry.iqm.high)}</small></span>"
        f'<span class="num">{duration(entry.seconds)} <small>{steps_text(entry.steps)}</small></span></div>'
    )


def _seed(percent: float) -> str:
    side = " less" if percent < 0 else " more" if percent > 100 else ""
    return f'<i class="seed{side}" style="left:{_clipped(percent):.2f}%"></i>'


def _everywhere(panel: Panel, style: _Style) -> str:
    lines = {label: (THRESHOLDS, profile) for label, profile in panel.profiles.items()}
    x, y = _linear(0, 1), _upward(0, 1)
    plot = _plot(
        lines, x, y, [0, 0.2, 0.4, 0.6, 0.8, 1], [0, 0.25, 0.5, 0.75, 1], style, _tick, _percent, at=panel.parted
    )
    return (
        "<section><h2>How many runs get how far?</h2>"
        '<p class="soft">Share of the runs whose score is above each value, a mean over environments. Higher is '
        "better; where lines cross, the better one depends on what you ask for.</p>"
        f'<div class="card">{plot}<div class="what soft small">normalised score: 0 random, 1 the best there is, or a '
        f"good one</div>{_legend(list(lines), style)}</div>"
        "<h2>Who beats whom?</h2>"
        '<p class="soft">Probability that a run of the row ends above one of the column, in an environment drawn at '
        "random. Pale: not told apart. Small: 95 % interval of each pair by itself.</p>"
        f'<div class="card scroll">{_matrix(panel)}</div></section>'
    )


def _environment(panel: Panel, style: _Style, analysis: Analysis) -> str:
    headline = analysis.headline
    curves = {entry.label: entry.curve for entry in panel.entries if entry.curve is not None}
    lines = {label: (curve.steps, curve.returns) for label, curve in curves.items()}
    begin = min(float(curve.steps[0]) for curve in curves.values())
    ends = [float(curve.steps[-1]) for curve in curves.values()]
    logarithmic = analysis.logarithmic
    x = _logarithmic(begin, max(ends)) if logarithmic else _linear(0, max(ends))
    at = _decades(begin, max(ends)) if logarithmic else [tick for tick in ticks(0, max(ends)) if tick > 0]
    low, high = panel.extent(curves.values())
    margin = 0.03 * (high - low) or 1.0
    y = _upward(low - margin, high + margin)
    plot = _plot(lines, x, y, at, ticks(low, high), style, steps_text, _tick, panel.threshold)
    parts = [f"<section><h2>{escape(panel.name)}</h2>"]
    if panel is not headline:
        parts.append(_ranking(panel, style))
    parts.append(
        f'<h3>Along the way</h3><div class="card">{plot}<div class="what soft small">steps'
        f"{', on a logarithmic scale' if logarithmic else ''}; score: interquartile mean of greedy evaluations, band: "
        f"95 %, of the first {LEADERS} and of the one pointed at"
        f"{'; dotted: solved' if panel.threshold is not None else ''}</div>"
        f"{_legend(list(lines), style)}</div>{_costs(panel)}"
    )
    if len(panel.entries) > 1:
        what, table = "Probability that a run of the row ends above one of the column", _matrix(panel)
        parts.append(
            f'<h3>{what}</h3><div class="card scroll">{table}</div>'
            if panel is headline
            else f'<details><summary>{what}</summary><div class="card scroll">{table}</div></details>'
        )
    return "".join(parts) + "</section>"


def _costs(panel: Panel) -> str:
    """The table of one environment."""
    head = ["agent", "seeds", "IQM", "95 %", "worst", "steps", "core time a run", "steps/s"]
    solved = panel.threshold is not None
    if solved:
        head += [f"reached {number(panel.threshold or 0)}", "steps to it", "core time to it"]
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
        if solved:
            row += [f"{entry.reached} of {entry.seeds}", steps_text(entry.steps_to), duration(entry.seconds_to)]
        rows.append(row)
    return f'<h3>Numbers</h3><div class="card scroll">{_table(head, rows)}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _matrix(panel: Panel) -> str:
    labels = [entry.label for entry in panel.entries]
    head = "".join(f'<th title="{escape(label)}">{rank}</th>' for rank, label in enumerate(labels, 1))
    size = f'class="matrix" style="--n:{len(labels)}"'
    rows = []
    for rank, row in enumerate(labels, 1):
        cells = []
        for column in labels:
            if row == column:
                cells.append("<td>·</td>")
                continue
            pair = panel.pair(row, column)
            estimate, low, high = pair.probability
            colour = "#2a9d5c" if estimate > 0.5 else "#d0384f"
            strength = 60 * abs(2 * estimate - 1) * (1 if pair.told_apart else 0.3)
            interval = f"{100 * low:.0f}–{100 * high:.0f}" if math.isfinite(low) else "–"
            mark = "" if pair.told_apart else ' class="no"'
            cells.append(
                f'<td{mark} style="--m:{colour};--a:{strength:.0f}%">{100 * estimate:.0f}<i> %</i>'
                f"<small>{interval}</small></td>"
            )
        rows.append(f"<tr><th>{rank} {escape(row)}</th>{''.join(cells)}</tr>")
    return f"<table {size}><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _gradients(analysis: Analysis, style: _Style) -> str:
    if not analysis.gradients:
        return ""
    parts = [
        "<section><h2>How noisy is the actor's gradient?</h2>"
        '<p class="soft">Signal-to-noise ratio of one estimate at states of the replay, along the training; medians '
        "over seeds.</p>"
    ]
    for env in dict.fromkeys(gradient.env for gradient in analysis.gradients):
        own = [gradient for gradient in analysis.gradients if gradient.env == env]
        found = ratios(own)
        lines = {
            label: (steps[known], (values[known], np.full(known.sum(), np.nan), values[known]))
            for label, (steps, values) in found.lines.items()
            if (known := np.isfinite(values)).any()
        }
        end = max(float(gradient.steps[-1]) for gradient in own)
        edges = {edge: text for edge, text in ((found.zero, "0"), (found.infinite, "∞")) if found.drawn(edge)}
        y = _upwards_logarithmic(min([found.low / 1.1, *edges]), max([found.high * 1.1, *edges]))
        y_ticks = [*_decades(found.low, found.high), *edges]
        x_ticks = [tick for tick in ticks(0, end) if tick > 0]

        def text(value: float, edges: Mapping[float, str] = edges) -> str:
            return edges.get(value) or significant(value)

        plot = _plot(lines, _linear(0, end), y, x_ticks, y_ticks, style, steps_text, text)
        figures = ("snr", "cosine", "relative_bias", "relative_bias_error")
        rows = [[each.label, *(significant(each.median(figure)) for figure in figures)] for each in own]
        head = ["agent", "signal-to-noise, median", "cosine with the gradient", "relative bias", "of it by chance"]
        parts.append(
            f'<h3>{escape(env)}</h3><div class="card">{plot}<div class="what soft small">environment steps; '
            f"signal-to-noise ratio, on a logarithmic scale; ∞: without noise</div>{_legend(list(lines), style)}</div>"
            f'<div class="card scroll">{_table(head, rows)}</div>'
        )
    return "".join(parts) + "</section>"


def _how(analysis: Analysis) -> str:
    sessions = analysis.meta.get("sessions", [])
    scales = "; ".join(
        f"{panel.name} {number(panel.low)} and {number(panel.high)}"
        for panel in analysis.panels
        if panel.name != EVERYWHERE and panel.low is not None and panel.high is not None
    )
    facts = {
        "Score": "Mean return of the greedy policy in the final evaluation of a run, 20 episodes unless the suite says "
        "otherwise; of agents that talk, the share of right answers or the return. No checkpoint is chosen by "
        "evaluation.",
        "IQM": "Interquartile mean: the mean of the middle half of the seeds. Unlike a mean, no single run can carry "
        "it; unlike a median, it uses half of them.",
        "95 %": "Intervals of a stratified bootstrap over seeds, widened for few seeds so that they hold the true "
        "value as often as they say: see benchmarks/results/coverage.md.",
        "Told apart": "By Mann and Whitney's exact test within environments, with Holm's correction for all pairs of a "
        "table: where all agents are equal, some pair is told apart in 5 % of tables at most. pairs.csv has p-values.",
        "Cost": "Seconds of one core for a run, evaluations included. Agents trained in lock-step share the time of "
        "their process: it is divided by their number.",
        "Threshold": "First evaluation that reaches it; evaluations along the way have 5 episodes, of agents that talk "
        "as many as the final one. A median over all seeds, so a dash means that half of them did not.",
    }
    if scales:
        facts["Scale"] = f"Returns that count 0 and 1 where environments are taken together: {scales}."
    if sessions:
        last = sessions[-1]
        facts["Made with"] = ", ".join(
            [
                *(f"{name} {version}" for name, version in last["versions"].items()),
                f"revision {last['git']}" if last.get("git") else "no revision known",
                f"{last.get('processor', '')}, {last.get('cores', '?')} cores",
                last["started"][:10],
            ]
        )
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    command = f"<p><code>python {escape(analysis.command)}</code></p>" if sessions else ""
    summary = f"<p>{escape(analysis.summary)}</p>" if analysis.summary else ""
    return f'<section><h2>How to read this</h2>{summary}<dl class="how">{rows}</dl>{command}</section>'


# Drawings


def _plot(
    lines: Mapping[str, tuple[NDArray[np.float64], Sequence[NDArray[np.float64]]]],
    x: Scale,
    y: Scale,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    style: _Style,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    goal: float | None = None,
    at: int = -1,
) -> str:
    """Lines with bands, by label as ranked: steps, and estimate, low and high; names are tied to the step ``at``."""
    heights = [1 - _clipped(y(float(middle[at]))) / 100 for _, (middle, *_) in lines.values()]
    places = dict(zip(lines, spread(heights, min(0.055, 1 / max(1, len(lines) - 1))), strict=True))
    drawn = [
        f'<line class="grid" x1="0" x2="{WIDTH}" y1="{_at(y, tick, HEIGHT)}" y2="{_at(y, tick, HEIGHT)}"/>'
        for tick in y_ticks
    ]
    if goal is not None and 0 <= y(goal) <= 100:
        drawn.append(
            f'<line class="goal" x1="0" x2="{WIDTH}" y1="{_at(y, goal, HEIGHT)}" y2="{_at(y, goal, HEIGHT)}"/>'
        )
    for rank, (label, (steps, (middle, low, high))) in reversed([*enumerate(lines.items())]):  # the best on top
        band = ""
        if np.isfinite(low).all():
            forth = _points(x, y, steps, high)
            back = _points(x, y, steps[::-1], low[::-1])
            band = f'<path class="band" d="M{forth}L{back}Z"/>'
        line = f'<path class="line" d="M{_points(x, y, steps, middle)}"/>'
        if len(steps) == 1:
            line = line.replace('"/>', 'h6"/>')  # a line of one point would not be seen
        begin = f"{_at(x, steps[at], WIDTH)} {_at(y, middle[at], HEIGHT)}"
        band += f'<path class="tie" d="M{begin}H{WIDTH}L{WIDTH + 14} {HEIGHT * (1 - places[label]):.1f}"/>'
        kinds = ["k"] if rank < LEADERS else ["k", "rest"]
        drawn.append(f"<g {style.attributes(label, *kinds)}>{band}{line}</g>")
    sides = "".join(
        f"<span {style.attributes(label, 'label', top=100 * (1 - place))}>{escape(label)}</span>"
        for label, place in places.items()
    )
    sides += f"<u>{escape(max(places, key=len, default=''))}</u>"  # for the width
    labels = "".join(f'<span style="top:{y(tick):.2f}%">{y_text(tick)}</span>' for tick in y_ticks)
    return (
        f'<div class="plot"><div class="y">{labels}</div><svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'preserveAspectRatio="none" role="img">{"".join(drawn)}</svg><div class="names">{sides}</div>'
        f'<div class="axis">{_axis(x_ticks, x, x_text)}</div></div>'
    )


def _axis(values: Sequence[float], scale: Scale, text: Callable[[float], str]) -> str:
    def place(at: float) -> str:
        return ' class="l"' if at < 3 else ' class="r"' if at > 97 else ""

    return "".join(
        f'<span{place(scale(value))} style="left:{_clipped(scale(value)):.2f}%">{text(value)}</span>'
        for value in values
    )


def _legend(labels: Sequence[str], style: _Style) -> str:
    items = "".join(
        f'<li {style.attributes(label, "label")}><span class="name">{escape(label)}</span></li>' for label in labels
    )
    return f'<ul class="legend">{items}</ul>'


def _linear(low: float, high: float) -> Scale:
    return lambda value: 100 * (value - low) / ((high - low) or 1.0)


def _upward(low: float, high: float) -> Scale:
    return lambda value: 100 - 100 * (value - low) / ((high - low) or 1.0)


def _logarithmic(low: float, high: float) -> Scale:
    return lambda value: 100 * math.log(value / low) / (math.log(high / low) or 1.0)


def _upwards_logarithmic(low: float, high: float) -> Scale:
    across = _logarithmic(low, high)
    return lambda value: 100 - across(value)


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten; powers of ten alone where these are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5) if low <= factor * 10.0**power <= high]
    if len(found) > 8:
        found = [value for value in found if math.log10(value).is_integer()]
    return found


def _points(x: Scale, y: Scale, steps: Iterable[float], values: Iterable[float]) -> str:
    return "L".join(f"{_at(x, s, WIDTH)} {_at(y, v, HEIGHT)}" for s, v in zip(steps, values, strict=True))


def _at(scale: Scale, value: float, size: int) -> str:
    # Far outside is as good as farther outside: the picture is not clipped.
    return f"{min(max(scale(float(value)), -2.0), 102.0) * size / 100:.1f}"


def _clipped(percent: float) -> float:
    return min(max(percent, 0.0), 100.0)


def _finite(*arrays: NDArray[np.float64]) -> NDArray[np.float64]:
    joined = np.concatenate(arrays)
    return joined[np.isfinite(joined)]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _listed(names: Sequence[str], most: int = 6) -> str:
    names = [*names[:most], f"{len(names) - most} more"] if len(names) > most else list(names)
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
