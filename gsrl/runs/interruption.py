"""How a user stops what is under way: Ctrl-C or SIGTERM, heeded where the state of all is whole."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from tqdm import tqdm

__all__ = ["Interrupted", "Stop"]


class Interrupted(Exception):
    """Training was asked to stop, at a point where its state is whole."""


class Stop:
    """Whether SIGINT or SIGTERM has arrived. A second SIGINT is ``KeyboardInterrupt``, a second SIGTERM the end.

    Attributes:
        on_request: Called when the first of them arrives.
    """

    def __init__(self) -> None:
        self.requested = False
        self.on_request: Callable[[], None] = lambda: None

    def check(self) -> None:
        """Raises ``Interrupted`` if so."""
        if self.requested:
            raise Interrupted

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listens while the block runs."""
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.on_request()
        tqdm.write("Stopping after the steps and the update under way; Ctrl-C again stops at once.", file=sys.stderr)
