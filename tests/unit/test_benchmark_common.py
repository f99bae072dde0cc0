"""What benchmarks share: rows, tables, and comparing figures to the digit."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmarks.studies.common import Rows, markdown
from benchmarks.studies.same_numbers import compared


def test_empty_cells_are_none(tmp_path: Path) -> None:
    Rows(tmp_path / "rows.csv").add(
        [{"estimator": "exact", "temperature": None}, {"estimator": "st", "temperature": 1}]
    )
    rows = Rows(tmp_path / "rows.csv")
    assert rows.holds(estimator="exact", temperature=None)
    assert not rows.holds(estimator="st", temperature=None)


def test_rows_are_kept_in_order_and_to_the_last_bit(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.csv", order=["seed"])
    rows.add([{"seed": 1, "return": 0.1 + 0.2}])
    rows.add([{"seed": 0, "return": 1 / 3}])
    text = rows.file.read_text()
    again = Rows(rows.file, order=["seed"])
    again.add([])
    assert again.file.read_text() == text
    assert again.table().to_dict("records") == [{"seed": 0, "return": 1 / 3}, {"seed": 1, "return": 0.1 + 0.2}]


def test_a_table_in_markdown() -> None:
    frame = pd.DataFrame([{"agent": "ppo", "share": None}, {"agent": "dqn", "share": 0.5}])
    assert markdown(frame) == "| agent | share |\n| --- | --- |\n| ppo |  |\n| dqn | 0.5 |"


def test_figures_are_compared_to_the_last_bit() -> None:
    before = {"run": {"sum of parameters": 0.3, "return at 10": 1.0}, "gone": {"return at 10": 2.0}}
    rows = compared({"run": {"return at 10": 1.0, "sum of parameters": 0.1 + 0.2}}, before)
    assert [(row["same"], row["verdict"], row["first that differs"]) for row in rows] == [
        (1, "different", "sum of parameters"),
        (0, "different", "return at 10"),
    ]
    assert [row["verdict"] for row in compared(before, before)] == ["equal", "equal"]
