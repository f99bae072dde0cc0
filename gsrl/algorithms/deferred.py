"""Figures of an update that a logger holds, and that are read from tensors when somebody looks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from stable_baselines3.common.logger import Logger

__all__ = ["DeferredValues"]


class DeferredValues(defaultdict[str, Any]):
    """``name_to_value`` of a Stable-Baselines3 logger, some of whose values are not recorded before they are read.

    To read tensors back after every update would cost more than a tenth of it, and hardly anybody looks between two
    dumps of the log. Who does finds what Stable-Baselines3's algorithms would have recorded.

    Attributes:
        record: Records what is outstanding; None: nothing is.
    """

    record: Callable[[], None] | None = None

    @classmethod
    def of(cls, logger: Logger) -> DeferredValues:
        """Those of a logger, which holds such from now on."""
        values = logger.name_to_value
        if not isinstance(values, cls):
            values = logger.name_to_value = cls(float, values)
        return values

    def settle(self) -> None:
        """Records what is outstanding."""
        record, self.record = self.record, None
        if record is not None:
            record()

    def __getitem__(self, key: str) -> Any:
        self.settle()
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.settle()
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:
        self.settle()
        return super().__iter__()

    def __len__(self) -> int:
        self.settle()
        return super().__len__()

    def get(self, key: str, default: Any = None) -> Any:
        """As of a dict."""
        self.settle()
        return super().get(key, default)

    def keys(self) -> Any:
        """As of a dict."""
        self.settle()
        return super().keys()

    def values(self) -> Any:
        """As of a dict."""
        self.settle()
        return super().values()

    def items(self) -> Any:
        """As of a dict."""
        self.settle()
        return super().items()

    def clear(self) -> None:
        """As of a dict; what is outstanding is dropped."""
        self.record = None
        super().clear()
