"""Reports: what they compute from rows, and what they say of too little."""

from __future__ import annotations

import json
import math
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gsrl._style import COLOURS
from gsrl.bench import figures, report
from gsrl.bench.analysis import (
    EVERYWHERE,
    LEADERS,
    Analysis,
    Entry,
    Gradient,
    Panel,
    analyse,
    ratios,
    read_benchmark,
)
from gsrl.bench.look import colours, duration, number, spread, steps_text, ticks, variants
from gsrl.bench.page import page
from gsrl.bench.stats import Interval, holm, mann_whitney
from gsrl.bench.tables import RESULTS
from gsrl.runs.errors import UsageError


def run(label: str, env: str, seed: int, returns: Sequence[float], steps: int = 100, **values: Any) -> list[dict]:
    """Rows of a run; an evaluation takes 3 seconds, 2 of them training, by default."""
    known = {"suite": "made-up", "label": label, "agent": label.split()[0], "env": env, "seed": seed, "members": 1}
    return [
        {
            **known,
            "step": steps * (index + 1),
            "mean_return": value,
            "std_return": 1.0,
            "episodes": 5,
            "seconds": 3.0 * (index + 1),
            "train_seconds": 2.0 * (index + 1),
            "final": int(index == len(returns) - 1),
            **values,
        }
        for index, value in enumerate(returns)
    ]


def write(folder: Path, rows: list[dict], meta: dict[str, Any] | None = None) -> Path:
    pd.DataFrame(rows, columns=list(RESULTS.columns)).to_csv(folder / "results.csv", index=False)
    if meta is not None:
        (folder / "suite.json").write_text(json.dumps(meta))
    return folder


def analysed(folder: Path, rows: list[dict], meta: dict[str, Any] | None = None) -> Analysis:
    return analyse(*read_benchmark(write(folder, rows, meta)))


META = {
    "suite": "made-up",
    "summary": "Numbers & <names>.",
    "environments": [
        {"name": "A-v0", "low": 0.0, "high": 10.0, "threshold": 8.0},
        {"name": "B-v0", "low": -100.0, "high": 0.0},
    ],
    "plans": [{"label": label, "env": env, "seeds": 3} for label in ("good", "bad long") for env in ("A-v0", "B-v0")],
}
ROWS = [
    row
    for seed in range(3)
    for row in [
        *run("good", "A-v0", seed, [5.0, 8.0, 9.0 + seed / 10]),
        *run("good", "B-v0", seed, [-50.0, -10.0 - seed]),
        *run("bad long", "A-v0", seed, [0.0, 1.0, 2.0 if seed else 8.0], 1000),
        *run("bad long", "B-v0", seed, [-90.0, -80.0 - seed], 1000),
    ]
]


def test_numbers_of_an_environment(tmp_path: Path) -> None:
    panel = analysed(tmp_path, ROWS, META).panels[1]
    assert panel.name == "A-v0"
    good, bad = panel.entries
    assert (good.label, good.seeds, good.planned, good.few) == ("good", 3, 3, True)
    assert good.iqm.estimate == pytest.approx(9.1)
    assert good.worst == 9.0
    assert (good.steps, good.seconds, good.speed) == (300, 9.0, 50.0)
    assert (good.reached, good.steps_to, good.seconds_to) == (3, 200, 6.0)
    assert (bad.reached, bad.steps_to, bad.seconds_to) == (1, math.inf, math.inf)  # one of three is not half
    assert panel.best is good
    assert panel.pair("good", "bad long").probability.estimate == 1
    assert panel.pair("bad long", "good").probability.estimate == 0
    assert panel.ties == ["bad long"]  # three seeds cannot tell them apart
    np.testing.assert_array_equal(good.curve.steps, [100, 200, 300])
    np.testing.assert_allclose(good.curve.returns.estimate, [5, 8, 9.1])


def test_environments_together_are_on_one_scale(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, ROWS, META)
    panel = analysis.headline
    assert panel.name == EVERYWHERE
    good = panel.best
    np.testing.assert_allclose(good.scores[0], [0.9, 0.91, 0.92])
    np.testing.assert_allclose(good.scores[1], [0.9, 0.89, 0.88])
    assert good.iqm.estimate == pytest.approx(0.9)  # .88 and .92 are left out
    assert (good.steps, good.seconds) == (500, 15.0)
    assert panel.profiles["good"].estimate[0] == 1
    assert panel.profiles["good"].estimate[-1] == 0
    assert (analysis.few, analysis.missing, analysis.left_out) == (True, (), ())
    assert "12 runs over 2 environments" in page(analysis)


def test_a_run_that_diverged_is_counted_and_marked(tmp_path: Path) -> None:
    rows = [row | {"diverged": int(row["label"] == "good" and row["seed"] == 1)} for row in ROWS]
    analysis = analysed(tmp_path, rows, META)
    assert [panel.best.diverged for panel in analysis.panels] == [2, 1, 1]
    assert analysis.diverged == ("good on A-v0: 1 of 3 seeds", "good on B-v0: 1 of 3 seeds")
    note = "Diverged, and counted with the score of their parameters before: good on A-v0: 1 of 3 seeds"
    for text in (report.markdown(analysis), page(analysis)):
        assert note in text
        assert text.count("3, 1 diverged") == 2
    for old in (ROWS, [{name: value for name, value in row.items() if name != "diverged"} for row in rows]):
        assert analysed(tmp_path, old, META).diverged == ()


def test_environments_without_an_agent_in_common_are_not_taken_together(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, [*run("a", "A-v0", 0, [1.0]), *run("b", "B-v0", 0, [-1.0])], META)
    assert [panel.name for panel in analysis.panels] == ["A-v0", "B-v0"]
    assert analysis.left_out == ()


def test_pairs_are_in_every_panel(tmp_path: Path) -> None:
    rows = [
        row
        for env, labels in (("A-v0", ("a x", "a y")), ("B-v0", ("b", "c")), ("C-v0", ("d",)))
        for label in labels
        for row in run(label, env, 0, [1.0])
    ]
    for meta in (META, None):
        analysis = analysed(tmp_path, rows, meta)
        assert report.markdown(analysis).count("### Who beats whom?") == 2
        assert page(analysis).count("Probability that a run of the row ends above") == 2
        assert "environment steps" not in page(analysis)  # there may be agents that talk
    everywhere = analysed(tmp_path, ROWS, META)
    assert report.markdown(everywhere).count("### Who beats whom?") == 3
    assert page(everywhere).count("Probability that a run of the row ends above") == 3


def test_gradients_are_told_with_the_bias_that_chance_would_show(tmp_path: Path) -> None:
    figures = {
        "snr": [math.inf, 2.0],
        "cosine": [1.0, 0.5],
        "relative_bias": [0.25, 0.75],
        "relative_bias_error": [0, 1],
    }
    gradients = pd.DataFrame({"label": "good", "env": "B-v0", "seed": 0, "step": [100, 200], **figures})
    write(tmp_path, ROWS, META)
    gradients.to_csv(tmp_path / "gradients.csv", index=False)
    analysis = analyse(*read_benchmark(tmp_path))
    assert "| good | 2 / 0.5 (0.5) |" in report.markdown(analysis)
    assert "<td>good</td><td>2</td><td>0.75</td><td>0.5</td><td>0.5</td>" in page(analysis)


def test_two_labels_of_an_agent_share_a_colour_and_more_do_not(tmp_path: Path) -> None:
    def drawn(*labels: str) -> tuple[list[int], set[str]]:
        analysis = analysed(tmp_path, [row for label in labels for row in run(label, "A-v0", 0, [1.0])])
        tint = colours(analysis)
        return [COLOURS.index(tint[label]) for label in labels], variants(analysis)

    # Labels in the order of the alphabet: their first words are agents.
    assert drawn("a", "a long", "b", "c") == ([0, 0, 1, 2], {"a long"})
    assert drawn("a 1", "a 2", "a 3", "b", "b long") == ([0, 1, 2, 3, 3], {"b long"})
    assert drawn("a 1", "a 2") == ([0, 1], set())
    many = [f"a {letter}" for letter in "abcdefghijk"]
    assert drawn(*many) == ([*range(10), 0], {"a k"})


def test_agents_in_lockstep_share_their_cost(tmp_path: Path) -> None:
    entry = analysed(tmp_path, [r for s in range(2) for r in run("a", "A-v0", s, [1.0, 2.0], members=2)]).headline.best
    assert (entry.seconds, entry.speed) == (3.0, 100.0)


def test_curves_of_other_steps_are_interpolated(tmp_path: Path) -> None:
    rows = [*run("a", "A-v0", 0, [0.0, 1.0, 2.0]), *run("a", "A-v0", 1, [0.0, 4.0], 150)]
    curve = analysed(tmp_path, rows).headline.best.curve
    np.testing.assert_allclose(curve.steps, [150, 225, 300])  # where both have been evaluated
    np.testing.assert_allclose(curve.returns.estimate, [(0.5 + 0) / 2, (1.25 + 2) / 2, (2 + 4) / 2])


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    rows = [row for row in ROWS if (row["label"], row["env"], row["seed"]) not in {("good", "A-v0", 2)}]
    rows = [row for row in rows if (row["label"], row["env"]) != ("bad long", "B-v0")]
    rows += run("good", "A-v0", 2, [1.0, 2.0], final=0)  # not finished: it does not count
    rows += run("new", "A-v0", 0, [1.0, float("nan")])  # nor does what is no number
    analysis = analysed(tmp_path, rows, META)
    assert analysis.missing == ("good on A-v0: 2 of 3 seeds".replace("2 of", "1 of"), "bad long on B-v0: 3 of 3 seeds")
    assert analysis.left_out == ("bad long",)
    assert analysis.labels == ("good", "bad long")
    text = page(analysis) + report.markdown(analysis)
    assert "Not finished, and not counted: good on A-v0: 1 of 3 seeds" in text
    assert "Not in all environments" in text
    rows = [row for row in rows if row["label"] != "bad long"]
    assert "bad long in 2 environments: 6 of 6 runs" in analysed(tmp_path, rows, META).missing


CASES = {
    "full": (ROWS, META),
    "one seed": ([row for row in ROWS if row["seed"] == 0], META),
    "one agent": ([row for row in ROWS if row["label"] == "good"], META),
    "one evaluation": (run("a", "A-v0", 0, [3.0]), None),
    "no scale": (ROWS, None),
    "equal scores": ([r for s in range(4) for label in "ab" for r in run(label, "A-v0", s, [5.0, 5.0])], None),
    "strange names": ([row for label in ("a<b>&c", "d") for row in run(label, "A/<x>-v0", 0, [1.0, 2.0])], None),
    "environments apart": ([*run("a", "A-v0", 0, [1.0]), *run("b", "B-v0", 0, [-1.0])], META),
}


@pytest.mark.parametrize("case", CASES)
def test_a_page_is_whole_and_needs_nothing_else(case: str, tmp_path: Path) -> None:
    text = page(analysed(tmp_path, *CASES[case]))
    assert text.startswith("<!DOCTYPE html>\n")
    tree = ET.fromstring(text.partition("\n")[2])
    assert {element.tag for element in tree.iter()}.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert not re.search(r"https?:|//|@import|url\(|src=", text)
    words = " ".join(tree.itertext()).replace(tree.find("head/style").text, "")
    numbers = [value for element in tree.iter() for value in element.attrib.values()]
    assert not re.search(r"\b(nan|NaN|inf|None)\b", words + " ".join(numbers))
    few = "Fewer than 10 seeds" in words
    assert few


@pytest.mark.parametrize("case", CASES)
def test_all_files_are_written_and_the_same_each_time(case: str, tmp_path: Path) -> None:
    write(tmp_path, *CASES[case])
    paths = report.write(tmp_path, tmp_path / "one")
    assert paths[0].name == "report.html"
    text = (tmp_path / "one" / "report.md").read_text()
    assert not re.search(r"\b(nan|inf|None)\b", text.split("## How to read")[0])
    for link in re.findall(r"\]\((\w+\.png)\)", text):
        assert (tmp_path / "one" / link).read_bytes().startswith(b"\x89PNG")
    if case == "full":
        for path, again in zip(paths, report.write(tmp_path, tmp_path / "two"), strict=True):
            assert path.read_bytes() == again.read_bytes(), path


def test_ten_seeds_are_not_flagged(tmp_path: Path) -> None:
    rows = [row for seed in range(10) for row in run("a", "A-v0", seed, [1.0, seed])]
    text = page(analysed(tmp_path, rows))
    assert "Fewer than" not in text
    assert 'class="few"' not in text


def test_the_first_words_say_who_is_ahead(tmp_path: Path) -> None:
    def words(rows: list[dict]) -> str:
        return " ".join(" ".join(ET.fromstring(page(analysed(tmp_path, rows)).partition("\n")[2]).itertext()).split())

    apart = [
        r for s in range(10) for label, to in (("a", 9), ("b", 1)) for r in run(label, "A-v0", s, [0.0, to + s / 99])
    ]
    text = words(apart)
    assert "a is ahead" in text
    assert "ends above b 100 %" in text
    level = [r for s in range(10) for label in "ab" for r in run(label, "A-v0", s, [0.0, float(s)])]
    assert "a is not told apart from b" in words(level)
    many = [r for s in range(10) for label in "abcd" for r in run(label, "A-v0", s, [0.0, float(s)])]
    many += [r for s in range(10) for r in run("e", "A-v0", s, [0.0, -9.0 - s])]
    assert "a is not told apart from 3 others" in words(many)
    assert "is told apart from the other 1. Not told apart from it: b, c and d." in words(many)
    assert "There is nothing to compare it with." in words(run("a", "A-v0", 0, [1.0]))


def test_means_of_280_and_23_are_not_told_apart_where_seeds_are_too_few(tmp_path: Path) -> None:
    rows = [r for s in range(2) for label, to in (("a", 280), ("b", 23)) for r in run(label, "A-v0", s, [to + s / 9.0])]
    analysis = analysed(tmp_path, rows)
    text = page(analysis)
    assert "</i> is not told apart from b</p>" in text
    assert "With so few seeds no two agents could be told apart, whatever their scores." in text
    assert "**a** has the highest IQM on A-v0: IQM 280.1" in report.markdown(analysis)
    assert "not told apart from it: b, nor could any two agents be with so few seeds." in report.markdown(analysis)
    assert not re.search(r"leads|ahead|nose", text + report.markdown(analysis))


def test_pairs_are_told_apart_with_holms_correction(tmp_path: Path) -> None:
    # Ten seeds each; b is above a as far as p = .02, and c is far above both.
    scores = {"a": np.arange(10.0), "b": np.arange(10) + 3.5, "c": np.arange(10) + 50.0}
    rows = [r for label, own in scores.items() for s in range(10) for r in run(label, "A-v0", s, [own[s]])]
    analysis = analysed(tmp_path, rows)
    panel = analysis.headline
    p = mann_whitney([scores["a"]], [scores["b"]])
    assert 0.01 < p < 0.05
    assert panel.pair("a", "b").adjusted == pytest.approx(p)  # the last of three: not multiplied
    assert panel.pair("a", "c").adjusted == pytest.approx(3 * mann_whitney([scores["a"]], [scores["c"]]))
    table = pd.read_csv(report.write(tmp_path, tmp_path)[2])
    assert list(table.columns)[3:] == ["probability", "low", "high", "p_value", "p_adjusted"]
    assert [(row["first"], row["second"]) for _, row in table.iterrows()] == [("c", "b"), ("c", "a"), ("b", "a")]
    np.testing.assert_allclose(table["p_adjusted"], holm(table["p_value"]), rtol=1e-5)
    # Beside a fourth that is like a, what had p < .05 is told apart no more.
    rows += [r for s in range(10) for r in run("d", "A-v0", s, [s + 0.5])]
    panel = analysed(tmp_path, rows).headline
    assert panel.pair("a", "b").p_value == pytest.approx(p)
    assert not panel.pair("a", "b").told_apart
    assert not panel.pair("b", "a").told_apart
    assert panel.pair("c", "b").told_apart


def test_names_are_shown_as_they_are_in_markdown(tmp_path: Path) -> None:
    label, env = "a|b<i>&c_d`*", "E|[x](y)$_{-v0"
    rows = [r for name in (label, "-d") for s in range(2) for r in run(name, env, s, [1.0, 2.0])]
    meta = {"suite": "s<u>", "summary": "# *not*\na [link](x)", "plans": [], "sessions": []}
    text = report.markdown(analysed(tmp_path, rows, meta))
    assert "# Benchmark s\\<u\\>\n\n\\# \\*not\\* a \\[link\\](x)\n" in text
    assert "## E\\|\\[x\\](y)$\\_{-v0\n" in text
    assert "| a\\|b\\<i\\>\\&c\\_d\\`\\* |" in text
    assert "| \\-d |" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {9, 4}


def test_there_must_be_results(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no benchmark: it has no results.csv"):
        read_benchmark(tmp_path)
    with pytest.raises(UsageError, match=r"has no finished run yet"):
        read_benchmark(write(tmp_path, []))
    (tmp_path / "results.csv").write_text("label,env\n")
    with pytest.raises(UsageError, match=r"lacks the columns suite, agent"):
        read_benchmark(tmp_path)


def test_numbers_as_people_write_them() -> None:
    assert [number(value) for value in (1234.5, 499.96, -73.61, 0.953, -0.001, math.nan)] == [
        *("1234", "500.0", "−73.6", "0.95", "0.00", "–"),
    ]
    assert [duration(value) for value in (2.34, 59.6, 600, 7200, math.inf)] == ["2.3 s", "60 s", "10 min", "2.0 h", "–"]
    assert [steps_text(value) for value in (900, 10_000, 114_688, 1e6)] == ["900", "10k", "115k", "1M"]
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(22, 500) == [100, 200, 300, 400, 500]
    assert ticks(3, 3) == [3]


# Pictures


def entries(*scores: Sequence[float]) -> tuple[Entry, ...]:
    """Of labels a, b, ..., in this order."""
    return tuple(
        Entry(
            chr(97 + i),
            "x",
            (np.array(own, dtype=float),),
            len(own),
            Interval(np.mean(own), min(own), max(own)),
            1,
            1,
            1,
        )
        for i, own in enumerate(scores)
    )


def test_what_is_far_from_most_does_not_squeeze_an_axis() -> None:
    panel = Panel("A-v0", entries(range(100, 120), [*range(100, 119), -900], [-5000] * 2), (), threshold=90.0)
    low, high = panel.score_range()
    assert (low, high) == (90, 119)  # the threshold is near; two means and the outlier are not
    assert Panel("A-v0", entries([1, 1, 1, 1], [1, 1, 1, 0]), ()).score_range() == (0, 1)  # nothing is far
    # A mean just outside of the inner fence, 1.5 interquartile ranges from the middle half, is drawn all the same.
    panel = Panel("A-v0", entries(range(100, 130), range(100, 130), [75, 75]), ())
    assert panel.score_range()[0] == 75
    # Most are at the best there is: a mean that is not is drawn, and no hundredths of a score.
    best = entries([500] * 9 + [499.9], [500] * 10, [360, 360, 375, 500, 500])
    assert Panel("A-v0", best, (), low=0.0, high=500.0).score_range() == (360, 500)


def test_labels_move_apart_as_little_as_can_be() -> None:
    assert spread([0.5, 0.1], 0.1) == [0.5, 0.1]
    assert spread([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.6, 0.5, 0.4])  # the first is the upper
    assert spread([1.0, 1.0, 0.0], 0.1) == pytest.approx([1.0, 0.9, 0.0])  # and stay inside
    assert spread([0.3, 0.5, 0.52], 0.1) == pytest.approx([0.3, 0.46, 0.56])
    assert spread([], 0.1) == []


def gradient(label: str, *snr: float) -> Gradient:
    steps = 100.0 * np.arange(1, 1 + len(snr))
    return Gradient(label, "A-v0", steps, np.array(snr), *(np.ones(len(snr)) for _ in range(3)))


def test_ratios_of_zero_and_infinity_have_places_of_their_own() -> None:
    found = ratios([gradient("a", 1.0, 0.0), gradient("b", math.inf, 4.0), gradient("c", math.nan, 2.0)])
    assert (found.low, found.high) == (1, 4)
    assert found.zero < 1
    assert found.infinite > 4
    np.testing.assert_array_equal(found.lines["a"][1], [1, found.zero])
    np.testing.assert_array_equal(found.lines["b"][1], [found.infinite, 4])
    np.testing.assert_array_equal(found.lines["c"][1], [math.nan, 2])
    assert found.drawn(found.zero)
    assert not ratios([gradient("a", 1.0)]).drawn(found.zero)
    assert ratios([gradient("a", 0.0, math.inf)]).drawn(ratios([gradient("a", 0.0)]).zero)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The pictures of six agents in five environments, whose names no one should read as mathematics."""
    kept: dict[str, Any] = {}
    tmp_path = tmp_path_factory.mktemp("pictures")
    labels = ["f $_{", "_e", "d", "c", "b", "a"]
    envs = [f"{letter}-v0 $x_$" for letter in "VWXYZ"]
    rows = [
        r
        for env in envs
        for rank, label in enumerate(labels)
        for seed in range(3)
        for r in run(
            label,
            env,
            seed,
            [0.0, 10.0 * rank + seed - (1000 if rank == 5 and seed == 0 else 0)],
            100 + 900 * (env == envs[0] and rank == 0),
        )
    ]
    write(tmp_path, rows, {**META, "environments": [{"name": env, "low": 0.0, "high": 50.0} for env in envs]})
    figures_of = {"snr": [0.0, 1.0], "cosine": 1.0, "relative_bias": 0.0, "relative_bias_error": 0.0}
    pd.DataFrame({"label": "a", "env": envs[0], "seed": 0, "step": [100, 200], **figures_of}).to_csv(
        tmp_path / "gradients.csv", index=False
    )
    analysis = analyse(*read_benchmark(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "save_figure", lambda figure, path, **_: kept.setdefault(path.stem, figure))
        figures.draw(analysis, tmp_path)
    return {**kept, "analysis": analysis}


@pytest.mark.parametrize("count", [1, 2, 4, 10])
@pytest.mark.parametrize("length", [5, 36, 100])
def test_names_have_room_beside_panels(count: int, length: int, tmp_path: Path) -> None:
    """Else matplotlib lays out nothing, with a warning, and names stand on the panels to their left."""
    rows = [row for j in range(count) for seed in range(2) for row in run("x" * length, f"E{j}-v0", seed, [0.0, seed])]
    analysis = analysed(tmp_path, rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures._scores(analysis).draw_without_rendering()
        figures._curves(analysis).draw_without_rendering()


def test_pictures_have_no_holes_and_one_kind_of_axis(drawn: dict[str, Any]) -> None:
    for name, panels in (("scores", 6), ("curves", 5)):
        figure = drawn[name]
        axes = figure.axes
        assert len(axes) == panels
        figure.draw_without_rendering()
        rows = [row.axes for row in figure.subfigs]
        assert [len(row) for row in rows] == ([3, 3] if panels == 6 else [3, 2])
        for row in rows:  # each reaches from the left to the right
            assert row[0].get_subplotspec().colspan.start == 0
            assert row[-1].get_subplotspec().colspan.stop == row[-1].get_gridspec().ncols
    assert {each.get_xscale() for each in drawn["curves"].axes} == {"log"}  # one run is ten times as long as others
    captions = drawn["scores"].texts
    assert [caption.get_position()[1] for caption in captions] == [
        pytest.approx(0, abs=0.02)
    ]  # below, not over the titles
    assert "logarithmic scale" in page(drawn["analysis"])


def test_lines_have_names_beside_them_and_leaders_alone_have_bands(drawn: dict[str, Any]) -> None:
    for name in ("curves", "profiles"):
        axes = drawn[name].axes[-1]
        ranked = [entry.label for entry in drawn["analysis"].panels[-1 if name == "curves" else 0].entries]
        assert [text.get_text() for text in axes.texts] == ranked
        assert len(axes.collections) == LEADERS
        heights = [text.get_position()[1] for text in axes.texts]
        if name == "curves":  # which end in the order of the ranks
            assert heights == sorted(heights, reverse=True)
        assert drawn[name].legends == []
    bands = ET.fromstring(page(drawn["analysis"]).partition("\n")[2]).findall(".//{*}g")
    shown = [band for band in bands if "rest" not in band.get("class").split()]
    assert len(shown) == 6 * LEADERS + 1  # profiles and five environments; and the one line of a gradient


def test_outliers_are_marked_at_the_edge(drawn: dict[str, Any]) -> None:
    axes = drawn["scores"].axes[-1]
    low, _ = axes.get_xlim()
    assert low > -100
    triangles = [line for line in axes.lines if line.get_marker() == "<"]
    assert len(triangles) == 1
    assert 'class="seed less"' in page(drawn["analysis"])


def test_a_ratio_of_zero_is_drawn_as_zero(drawn: dict[str, Any]) -> None:
    (axes,) = drawn["gradients"].axes
    assert [text.get_text() for text in axes.texts] == ["0", "a"]
    line = next(line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_xdata()[0] == 100)
    zero = axes.texts[0].get_position()[1]
    np.testing.assert_allclose(line.get_ydata(), [zero, 1])
    axes.get_figure(root=True).draw_without_rendering()
    named = [label.get_text() for label in axes.get_yticklabels(which="both") if label.get_text()]
    assert all(float(name) > zero for name in named)
    assert re.search(r'<span style="top:[\d.]+%">0</span>', page(drawn["analysis"]))
