"""The progress bar of a training."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

__all__ = ["show_progress"]


def show_progress(total: int, initial: int, *, shown: bool) -> Any:
    """A context whose value has ``update(steps)``: tqdm's bar, or nothing to be seen.

    Args:
        total: Steps of the whole training.
        initial: Steps that are done.
        shown: Whether there is a bar.

    Raises:
        ModuleNotFoundError: It is to be shown, and tqdm is not installed.
    """
    if not shown:
        return nullcontext(_NoBar())
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        raise ModuleNotFoundError('progress_bar needs tqdm: pip install "gsrl[cli]"') from None
    return tqdm(total=total, initial=initial, unit="step", dynamic_ncols=True)


class _NoBar:
    def update(self, steps: int) -> None:
        """Shows nothing."""
