from __future__ import annotations

from typing import NamedTuple

from gsrl._trees import map_arrays


class Pair(NamedTuple):
    first: int
    second: int


def test_trees_are_mapped_entry_by_entry() -> None:
    first = {"a": 1, "b": (2, {"c": 3}), "none": None}
    second = {"b": (20, {"c": 30}), "none": None, "a": 10, "more": 40}
    assert map_arrays(lambda x, y: x + y, first, second) == {"a": 11, "b": (22, {"c": 33}), "none": None}
    assert map_arrays(abs, -1) == 1


def test_named_tuples_are_leaves() -> None:
    assert map_arrays(lambda pair: pair.second, {"layout": Pair(1, 2)}) == {"layout": 2}
