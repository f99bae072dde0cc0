"""The scripts behind the figures of gsrl.comms, on games so small that they end within seconds."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.studies.common import Rows
from benchmarks.studies.comms import attributes, evidence, lengths, lewis
from benchmarks.studies.peers import egg_loop
from benchmarks.studies.speed import games as speed_of_games


def run_twice(main: Callable[..., None], name: str, out: Path, **arguments: Any) -> pd.DataFrame:
    """What a script has written; a second run must find its rows, and add none."""
    main(out=out, **arguments)
    rows = pd.read_csv(out / f"{name}.csv")
    main(out=out, **arguments)
    pd.testing.assert_frame_equal(pd.read_csv(out / f"{name}.csv"), rows)
    page = (out / f"{name}.md").read_text(encoding="utf-8")
    assert "Made by `python " in page
    assert "nan" not in page
    assert (out / f"{name}.png").stat().st_size > 1000
    return rows


# Rows and figures


def test_rows_are_kept_and_found(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "new" / "rows.csv")
    assert not rows.holds(name="a")
    rows.add([{"name": "a", "size": 3, "samples": math.inf}])
    again = Rows(tmp_path / "new" / "rows.csv")
    assert again.holds(name="a", size=3)
    assert not again.holds(name="a", size=4)
    again.add([{"name": "b", "size": 3, "samples": 5.0}])
    assert again.table()["samples"].tolist() == [math.inf, 5.0]
    assert pd.read_csv(tmp_path / "new" / "rows.csv")["samples"].tolist() == [math.inf, 5.0]


def test_medians_of_seeds_some_of_which_never_got_there() -> None:
    assert evidence.median([1000.0, 3000.0, math.inf]) == "3,000"
    assert evidence.median([1000.0, math.inf, math.inf]) == "never"
    assert evidence.share_of([True, False, True]) == "2/3"
    budget, reference = pd.Series([8000.0, 8000.0]), pd.Series([500.0, 1500.0])
    assert attributes.ratio(pd.Series([2000.0, 3000.0]), reference, budget) == "2.5"
    assert attributes.ratio(pd.Series([2000.0, math.inf]), reference, budget) == "> 8.0"
    assert attributes.ratio(budget, pd.Series([math.inf, math.inf]), budget) == ""


def test_ceilings_and_calls() -> None:
    assert lewis.Case(10, 5, 1).ceiling == 0.5
    assert lewis.Case(5, 10, 1).ceiling == 1.0
    calls = {name: lewis.calls_of(lewis.estimator_of(name, lewis.CASES[0]), 5) for name in lewis.ESTIMATORS}
    one = {"gumbel-softmax", "st-gumbel", "gumbel-rao", "gapped-st", "reinmax", "reinforce"}
    assert calls == {**dict.fromkeys(one, 1), "exact": 5, "rloo": 4}


@pytest.mark.parametrize(
    ("probabilities", "vocabulary", "length", "expected"),
    [
        ([0.2, 0.5, 0.3], 2, 1, 0.5),  # nothing for .5, one symbol for the others
        ([0.4, 0.3, 0.2, 0.1], 2, 2, 0.3 + 0.2 + 2 * 0.1),
        ([1.0], 2, 3, 0.0),
    ],
)
def test_the_optimal_code(probabilities: list[float], vocabulary: int, length: int, expected: float) -> None:
    assert lengths.optimal_mean_length(np.array(probabilities), vocabulary, length) == pytest.approx(expected)


def test_an_optimal_code_needs_enough_messages() -> None:
    with pytest.raises(ValueError, match="vocabulary and length must make 4 messages, but make 3"):
        lengths.optimal_mean_length(np.full(4, 0.25), 2, 1)


# The scripts


def test_lewis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = (lewis.Case(3, 3, 60, batch=16, hidden=8), lewis.Case(4, 2, 8, batch=16, hidden=8))
    monkeypatch.setattr(lewis, "CASES", cases)
    rows = run_twice(lewis.main, "lewis", tmp_path, seeds=2)
    assert len(rows) == 2 * len(lewis.ESTIMATORS) * 2
    assert (rows["accuracy"] <= np.minimum(1, rows["symbols"] / rows["meanings"])).all()
    reached = np.isfinite(rows["samples_to_95"])
    assert (rows["samples_to_95"][reached] % (rows["calls"] * rows["batch"] * lewis.INTERVAL)[reached] == 0).all()
    page = (tmp_path / "lewis.md").read_text(encoding="utf-8")
    assert "n = 3, K = 3: 960 samples" in page
    assert "share of the ceiling" in page


def test_estimators_with_many_calls_get_equal_samples_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lewis, "MOST_CALLS", 3)
    case = lewis.Case(3, 3, 12, batch=8, hidden=8)
    exact, rloo = (lewis.train(case, name, 1).iloc[0] for name in ("exact", "rloo"))
    assert (exact["calls"], exact["samples"], math.isnan(exact["accuracy_at_equal_updates"])) == (3, 96, False)
    assert (rloo["calls"], rloo["samples"], math.isnan(rloo["accuracy_at_equal_updates"])) == (4, 96, True)


def test_attributes(tmp_path: Path) -> None:
    rows = run_twice(attributes.main, "attributes", tmp_path, seeds=2, updates=8)
    assert rows["estimator"].tolist() == ["st-gumbel"] * 2 + ["reinforce"] * 2 + ["rloo"] * 2
    assert rows["samples"].unique().tolist() == [8 * 128]
    assert rows[list(attributes.MEASURES)].abs().le(1).all(axis=None)


def test_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    power_laws = tuple(lengths.PowerLaw(cost, 4, 3, 1, updates=3, batch=8) for cost in (0.0, 0.1))
    monkeypatch.setattr(lengths, "POWER_LAWS", power_laws)
    rows = run_twice(lengths.main, "lengths", tmp_path, seeds=2)
    # Weights 1, 1/2, 1/3, 1/4: all but the first need a symbol.
    assert rows["optimal_mean_length"].tolist() == pytest.approx([13 / 25] * 4)


def test_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_of_games, "SECONDS_A_ROUND", 1e-6)
    monkeypatch.setattr(speed_of_games, "EAGER_UPDATES", 1)
    monkeypatch.setattr(speed_of_games, "GAMES", 2)
    rows = run_twice(speed_of_games.main, "games", tmp_path, rounds=2, modes=("eager",))
    assert rows["subject"].tolist() == 2 * [speed_of_games.LOOP, "gsrl, one game, eager", "gsrl, 2 games, eager"]
    assert (rows["updates_per_second"] > 0).all()


def test_the_plain_loop_learns_with_hard_messages() -> None:
    torch.manual_seed(0)
    trainer = egg_loop.make_trainer(meanings=2, batch_size=16, hidden=16, batches=100)
    first, record = trainer.train_epoch()
    assert record.message.shape == (1600, 2)
    assert set(record.message.flatten().tolist()) == {0.0, 1.0}
    last, record = trainer.train_epoch()
    assert last < first / 4
    assert record.accuracy.mean() > 0.95
