"""Figures of an update that a logger holds, and that are read from tensors when somebody looks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from stable_baselines3.common.logger import Logger

__all__ = ["DeferredValues"]


class DeferredValues(defaultdict[str, Any]):
    """``name_to_value`` of a Stable-Baselines3 logger, some of whose values are not recorded before they are read.

    To read tensors back after every update would cost more than a tenth of it, and hardly anybody looks between two
    dumps of the log. Who does finds what Stable-Baselines3's algorithms would have recorded.

    Attributes:
        record: Records what is outstanding; None: nothing is.

    Example:
        >>> logger = Logger(folder=None, output_formats=[])
        >>> values = DeferredValues.of(logger)
        >>> values.record = lambda: logger.record("train/loss", 0.5)  # not before somebody looks
        >>> values["train/loss"]
        0.5
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

    def clear(self) -> None:
        """As of a dict; what is outstanding is dropped."""
        self.record = None
        super().clear()


def _settling(name: str) -> Callable[..., Any]:
    """A method of a dict that looks at its values, once nothing is outstanding."""
    method = getattr(defaultdict, name)

    def settled(self: DeferredValues, *args: Any) -> Any:
        self.settle()
        return method(self, *args)

    return settled


for _name in ("__getitem__", "__contains__", "__iter__", "__len__", "get", "keys", "values", "items"):
    setattr(DeferredValues, _name, _settling(_name))
