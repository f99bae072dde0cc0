"""The progress bar of whatever takes its time."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

__all__ = ["show_progress"]


def show_progress(total: int, initial: int = 0, *, shown: bool | None, **how: Any) -> Any:
    """A context whose value is tqdm's bar, or has the ``update`` and ``set_description`` of one that is not seen.

    Args:
        total: Steps of the whole work.
        initial: Steps that are done.
        shown: Whether there is a bar, on stderr; None: if that is a terminal, where people see it.
        **how: More arguments of tqdm, such as ``unit``, of which a step is one unless told otherwise.

    Raises:
        ModuleNotFoundError: There may be one to be seen, and tqdm is not installed.
    """
    if shown is False:
        return nullcontext(_NoBar())
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        message = f'a progress bar needs {error.name}: pip install "gsrl[diagnostics]"'
        raise ModuleNotFoundError(message, name=error.name) from None
    usual = {"unit": "step", "mininterval": 0.5, "dynamic_ncols": True}
    return tqdm(total=total, initial=initial, disable=None if shown is None else False, **{**usual, **how})


class _NoBar:
    def update(self, steps: int) -> None:
        """Shows nothing."""

    def set_description(self, text: str, refresh: bool = True) -> None:
        """Shows nothing."""
