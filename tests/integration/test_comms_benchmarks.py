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
from benchmarks.studies.comms import lengths
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
    with pytest.raises(ValueError, match="vocabulary and length must make 4 messages, but got 3"):
        lengths.optimal_mean_length(np.full(4, 0.25), 2, 1)


# The scripts


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
