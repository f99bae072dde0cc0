"""What a user can mend, and how it is said."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import torch

__all__ = ["DivergenceError", "TrainingError", "UsageError", "counted", "is_short_of_memory", "nearest", "similar"]

MOST_LISTED = 30
"""Names of an answer."""


class UsageError(ValueError):
    """A mistake of the user's: the command line answers with the message alone."""


class TrainingError(RuntimeError):
    """Training cannot go on, for a reason that is not this project's; the last checkpoint is good."""


class DivergenceError(TrainingError):
    """Parameters are no longer finite numbers: what the run learned is lost, but for its last checkpoint."""


def is_short_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory was asked for which there is not: of Python, NumPy or torch."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


def counted(number: int, noun: str) -> str:
    """Returns the number and the noun, in the plural where it is due.

    Example:
        >>> counted(2, "seed")
        '2 seeds'
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def nearest(name: str, names: Iterable[str]) -> str:
    """Says which of ``names`` are nearest to a misspelt one, or lists them when none is near.

    Example:
        >>> nearest("gumbel-sack", ["gumbel-sac", "ppo"])
        'did you mean gumbel-sac?'
    """
    names = sorted(names)
    near = similar(name, names)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there are {', '.join(names[:MOST_LISTED])}{', ...' if len(names) > MOST_LISTED else ''}"


def similar(name: str, names: Iterable[str]) -> list[str]:
    """Returns those of ``names`` that may have been meant by a misspelt one.

    Capitals do not count, nor how words are joined: ``st_gumbel`` is ``st-gumbel``. ``lr`` is short for
    ``learning-rate``, and ``MaskedGrid-v0`` for ``gsrl/MaskedGrid-v0``.
    """
    names = sorted(names)
    meant, plain = _plain(name), {each: _plain(each) for each in names}
    return (
        [each for each in names if plain[each] == meant]
        or [each for each in names if plain[each].endswith(f"/{meant}") or _initials(plain[each]) == meant]
        or [
            each
            for close in difflib.get_close_matches(meant, dict.fromkeys(plain.values()), n=3, cutoff=0.5)
            for each in names
            if plain[each] == close
        ]
    )


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").strip("- ")


def _initials(plain: str) -> str:
    words = plain.split("-")
    return "".join(word[:1] for word in words) if len(words) > 1 else ""
