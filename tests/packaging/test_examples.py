"""Examples in docstrings are true, and a new public name has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("griffe")

import gsrl
from website import reference

MODULES = reference.modules()
WITHOUT = Path(__file__).with_name("without_examples.txt").read_text(encoding="utf-8").split()
"""Public classes and functions that have none yet: a list that gets shorter."""


def public(module: reference.Module) -> dict[str, Any]:
    """Classes and functions that a module defines and makes public."""
    there = importlib.import_module(module.name)
    found = {name: getattr(there, name) for name, source in module.names.items() if not source}
    return {name: each for name, each in found.items() if inspect.isclass(each) or inspect.isfunction(each)}


@pytest.mark.parametrize("name", MODULES)
def test_public_names_have_examples(name: str) -> None:
    lacking = {f"{name}.{each}" for each, value in public(MODULES[name]).items() if ">>>" not in (value.__doc__ or "")}
    assert lacking == {each for each in WITHOUT if each.rpartition(".")[0] == name}


def test_the_list_of_those_without_is_of_names_that_there_are() -> None:
    assert sorted({*WITHOUT}) == WITHOUT
    assert {each.rpartition(".")[0] for each in WITHOUT} <= {*MODULES}


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {**vars(importlib.import_module(name)), "gsrl": gsrl, "np": np, "torch": torch}
    for each, value in public(MODULES[name]).items():
        example = doctest.DocTestParser().get_doctest(value.__doc__ or "", names, f"{name}.{each}", None, None)
        report: list[str] = []
        torch.manual_seed(0)
        failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=report.append)
        assert failed == 0, "".join(report)
