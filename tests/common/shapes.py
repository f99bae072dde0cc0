"""Holds functions to the shapes in their annotations: ``python -m pytest -p tests.common.shapes tests/unit/...``.

A plugin, for it must be there before anything imports gsrl: jaxtyping's import hook rewrites what is imported after it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import jaxtyping
import torch
from beartype import BeartypeConf, beartype

assert "gsrl" not in sys.modules, "what is imported already is not checked"

MODULES = (
    *("gsrl.relaxations", "gsrl.distributions", "gsrl.subsets", "gsrl.estimators", "gsrl.values", "gsrl.losses"),
    *("gsrl.learning.learner", "gsrl.learning.lockstep"),
)

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # where a float is asked for an int will do

_jaxtyped = jaxtyping.jaxtyped


def _in_its_own_words(typechecker: Any) -> Callable[[Any], Any]:
    """As jaxtyping's ``jaxtyped``; but what a function refuses by itself, it refuses with its own error."""

    def decorate(function: Any) -> Any:
        checked = _jaxtyped(typechecker=typechecker)(function)
        if isinstance(function, type):
            return checked

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return function(*args, **kwargs)
            try:
                return checked(*args, **kwargs)
            except jaxtyping.TypeCheckError:
                function(*args, **kwargs)
                raise

        return called

    return decorate


jaxtyping.jaxtyped = _in_its_own_words  # which the hook looks up
jaxtyping.install_import_hook(MODULES, "tests.common.shapes.typechecker")
