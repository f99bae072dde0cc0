"""What is named with its arguments, as ``Name:argument=value``: wrappers of environments, and callbacks."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from gsrl.runs.errors import UsageError, nearest

__all__ = ["Named", "foreign_modules", "pairs", "value_of"]

WORDS = {"True": True, "False": False, "None": None}
"""Values as Python writes them; all others are JSON's, and what is neither is a text."""

ELSEWHERE = re.compile(r"([A-Za-z_][\w.]*):[^=\s]+")
"""Something in a module, which is imported for it."""


def value_of(text: str) -> Any:
    """Returns the value that a text stands for: a number, a truth value, a list, or else the text itself."""
    if text in WORDS:
        return WORDS[text]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def pairs(entries: Iterable[str], option: str) -> dict[str, Any]:
    """Reads ``name=value`` entries.

    Args:
        entries: The texts.
        option: What they are given to, for the errors.

    Raises:
        UsageError: One has another form, or a name comes twice.
    """
    found: dict[str, Any] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier():
            raise UsageError(f"{option} must be name=value, but got {entry!r}")
        if name in found:
            raise UsageError(f"{option} must name {name} once, but got it twice")
        found[name] = value_of(text.strip())
    return found


class Named(NamedTuple):
    """A class by its name, and its arguments."""

    name: str
    """In a list of names, or ``module:Class``."""
    arguments: dict[str, Any]

    @classmethod
    def read(cls, text: str, known: Sequence[str], option: str) -> Named:
        """Reads ``Name``, ``Name:argument=value,argument=value`` or the same of a ``module:Class``.

        Args:
            text: What was given.
            known: Names that need no module.
            option: What it was given to, for the errors.

        Raises:
            UsageError: The name is none of these and no ``module:Class``, or an argument has another form.
        """
        name, colon, rest = text.partition(":")
        if name not in known:
            last, more, others = rest.partition(":")
            if not colon or "=" in last:
                raise UsageError(f"unknown {option} {name!r}; {nearest(name, known)}")
            name, colon, rest = f"{name}:{last}", more, others
        given = re.split(r",(?=\s*[\w-]+=)", rest) if colon and rest else []
        return cls(name, pairs(given, f"{option} {name}:"))

    def find(self, known: Mapping[str, Any], option: str) -> Any:
        """Returns the class, whose module is imported where it is not among the known ones.

        Raises:
            UsageError: There is no such module, or no such class in it.
        """
        if self.name in known:
            return known[self.name]
        module, _, name = self.name.partition(":")
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UsageError(f"{option} {self.name} cannot be imported: {error}") from error


def foreign_modules(texts: Iterable[str]) -> list[str]:
    """Returns the modules that a use of these texts may import, and that have not been imported yet."""
    values = [part for text in texts for part in (text, *re.split("[=,]", text))]
    found = [match[1] for value in values if (match := ELSEWHERE.fullmatch(value.strip(" \"'")))]
    return [module for module in dict.fromkeys(found) if module not in sys.modules]
