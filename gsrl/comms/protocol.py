"""A language made visible: which message stands for which meanings, as tables and pictures."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gsrl._files import save_figure
from gsrl._style import BLUE, INK, styled
from gsrl.comms.metrics import attribute_information

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = ["MessageProtocol"]

COLUMNS = ("message", "meanings", "probability", "accuracy")

MAX_CELLS = 60
"""The most rows or columns of a heat map whose ticks have labels."""


@dataclass(frozen=True)
class MessageProtocol:
    """The language of a sender: ``N`` pairs of a meaning and the message that it sends for it.

    Messages are named by the numbers of their symbols, joined by ``-``; the empty message is ``()``.

    Example:
        >>> from gsrl import comms
        >>> games = comms.SignallingGame(comms.LewisGame(3), comms.Channel(3), seeds=[0])
        >>> games.protocol(0).is_one_to_one()
        False
    """

    messages: NDArray[np.int64]
    """``[N, L]``. What follows the end is not read."""
    lengths: NDArray[np.int64]
    """Symbols before the end, ``[N]``."""
    meanings: NDArray[np.int64]
    """Values of the attributes, ``[N, A]``."""
    accuracy: NDArray[np.float64] | None
    """How often the receiver understood, ``[N]``; None: nobody answers, and there is no such column."""
    probabilities: NDArray[np.float64]
    """How often the pair occurs, ``[N]``; they sum to 1."""

    @classmethod
    def of_episodes(
        cls,
        messages: NDArray[np.int64],
        lengths: NDArray[np.int64],
        meanings: NDArray[np.int64],
        correct: NDArray[np.bool_] | None,
        weights: NDArray[np.float64],
    ) -> MessageProtocol:
        """The language that ``M`` episodes show, in which pairs of a meaning and a message may recur.

        Args:
            messages: ``[M, L]``, with zeros after the end.
            lengths: ``[M]``.
            meanings: ``[M, A]``.
            correct: Whether the receiver understood, ``[M]``; None: nobody answers.
            weights: Of the episodes, ``[M]``.
        """
        pairs = np.concatenate([meanings, lengths[:, None], messages], 1)
        _, first, place = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
        place = place.reshape(-1)  # which NumPy 2.0.0 returns as [M, 1]
        probabilities, understood = np.zeros(len(first)), np.zeros(len(first))
        np.add.at(probabilities, place, weights)
        accuracy = None
        if correct is not None:
            np.add.at(understood, place, weights * correct)
            accuracy = understood / np.where(probabilities > 0, probabilities, 1)
        return cls(messages[first], lengths[first], meanings[first], accuracy, probabilities)

    def words(self) -> list[str]:
        """The message for each meaning, up to its end, as text."""
        rows = zip(self.messages.tolist(), self.lengths.tolist(), strict=True)
        return ["-".join(map(str, row[:length])) or "()" for row, length in rows]

    def table(self) -> list[dict[str, str | float]]:
        """A row for each message that is sent: by length, then by its symbols.

        Each has the message, its ``meanings`` (values of the attributes joined by commas, several of them by
        semicolons), their ``probability``, and the ``accuracy``, the share of it that the receiver understands, if
        there is one.
        """
        rows: dict[str, list[int]] = {}
        for index, word in enumerate(self.words()):
            rows.setdefault(word, []).append(index)
        ordered = sorted(rows.items(), key=lambda row: self._key(row[1][0]))
        return [self._row(word, indices) for word, indices in ordered]

    def is_one_to_one(self) -> bool:
        """Whether every meaning has a message of its own."""
        return len(set(self.words())) == len(np.unique(self.meanings, axis=0)) == len(self.meanings)

    def information(self) -> float:
        """What messages tell of meanings by their probabilities: mutual information, in bits."""
        words, meanings = (
            np.unique(each, axis=0, return_inverse=True)[1].reshape(-1) for each in (self.words(), self.meanings)
        )
        joint = np.zeros((words.max() + 1, meanings.max() + 1))
        np.add.at(joint, (words, meanings), self.probabilities)
        product = joint.sum(1, keepdims=True) * joint.sum(0)
        ratio = np.divide(joint, product, out=np.ones_like(joint), where=joint > 0)
        return float((joint * np.log2(ratio)).sum())

    @property
    def _columns(self) -> tuple[str, ...]:
        return COLUMNS if self.accuracy is not None else COLUMNS[:-1]

    def to_markdown(self) -> str:
        """The table in Markdown."""
        columns = self._columns
        lines = ["| " + " | ".join(columns) + " |", "| --- | --- |" + " ---: |" * (len(columns) - 2)]
        lines += ["| " + " | ".join(_text(row[name]) for name in columns) + " |" for row in self.table()]
        return "\n".join(lines) + "\n"

    def to_csv(self, path: str | Path | None = None) -> str:
        """The table as comma-separated values.

        Args:
            path: Where to write it too; None: nowhere.
        """
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.table())
        if path is not None:
            Path(path).write_text(text.getvalue(), encoding="utf-8")
        return text.getvalue()

    def rich(self, title: str | None = None) -> Table:
        """The table for ``rich.print``.

        Args:
            title: Above it.

        Raises:
            ModuleNotFoundError: rich is missing.
        """
        with _diagnostics_extra():
            from rich import box
            from rich.table import Table
        table = Table(*COLUMNS[:2], title=title, box=box.SIMPLE)
        for name in self._columns[2:]:
            table.add_column(name, justify="right")
        for row in self.table():
            table.add_row(*(_text(row[name]) for name in self._columns))
        return table

    def draw(self, path: str | Path | None = None, title: str | None = None) -> Figure:
        """Draws the heat map of messages and meanings: how probable each meaning is, given the message.

        Args:
            path: Where to save it; None: nowhere.
            title: Above it.

        Raises:
            ModuleNotFoundError: matplotlib is missing.
        """
        ordered = sorted(range(len(self.meanings)), key=self._key)
        words = self.words()
        names = list(dict.fromkeys(words[index] for index in ordered))
        meanings, columns = np.unique(self.meanings, axis=0, return_inverse=True)
        shares = np.zeros((len(names), len(meanings)))
        place = {name: row for row, name in enumerate(names)}
        for word, column, probability in zip(words, columns.reshape(-1), self.probabilities, strict=True):
            shares[place[word], column] += probability
        shares /= np.maximum(shares.sum(1, keepdims=True), np.finfo(float).tiny)
        figure, axes = _axes(len(meanings), len(names))
        image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        figure.colorbar(image, ax=axes, label="P(meaning | message)")
        _label(axes, "meaning", [",".join(map(str, row)) for row in meanings.tolist()], "message", names)
        return _finish(figure, axes, title, path)

    def dependence(self) -> NDArray[np.float64]:
        """What each position tells of each attribute, ``[A, L]``, in bits; every pair counts the same.

        See :func:`gsrl.comms.metrics.attribute_information`.
        """
        return attribute_information(self.messages, self.meanings, self.lengths)

    def draw_dependence(self, path: str | Path | None = None, title: str | None = None) -> Figure:
        """Draws :meth:`dependence`: which position tells of which attribute, as a heat map.

        Of one attribute it draws bars beside its entropy, which is all that there is to tell.

        Args:
            path: Where to save it; None: nowhere.
            title: Above it.

        Raises:
            ModuleNotFoundError: matplotlib is missing.
        """
        values = self.dependence()
        if len(values) == 1:
            return self._draw_information(values[0], path, title)
        figure, axes = _axes(values.shape[1], values.shape[0])
        image = axes.imshow(values, vmin=0, cmap="Blues", aspect="auto")
        figure.colorbar(image, ax=axes, label="mutual information (bits)")
        largest = max(float(values.max()), np.finfo(float).tiny)
        for (a, position), value in np.ndenumerate(values):
            color = "white" if value > 0.6 * largest else "black"
            axes.text(position, a, f"{value:.2f}", ha="center", va="center", color=color)
        positions, attributes = (list(map(str, range(1, 1 + size))) for size in values.T.shape)
        _label(axes, "position", positions, "attribute", attributes)
        return _finish(figure, axes, title, path)

    def _draw_information(self, values: NDArray[np.float64], path: str | Path | None, title: str | None) -> Figure:
        entropy = float(attribute_information(self.meanings, self.meanings)[0, 0])
        figure, axes = _axes(len(values), 1, height=3.2)
        bars = axes.bar(range(len(values)), values, width=0.6, color=BLUE)
        axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=2)
        axes.axhline(entropy, color=INK, linestyle="--", linewidth=1, label=f"all there is to tell: {entropy:.2f}")
        axes.set_xlim(-1, len(values))
        axes.set_ylim(0, 1.25 * max(entropy, np.finfo(float).tiny))
        axes.legend(loc="upper right", frameon=False, fontsize="small")
        axes.set_xlabel("position")
        axes.set_ylabel("mutual information (bits)")
        axes.set_xticks(range(len(values)), map(str, range(1, 1 + len(values))))
        return _finish(figure, axes, title, path)

    def _key(self, index: int) -> tuple[int, list[int]]:
        length = int(self.lengths[index])
        return length, self.messages[index, :length].tolist()

    def _row(self, word: str, indices: Sequence[int]) -> dict[str, str | float]:
        weights = self.probabilities[indices]
        probability = float(weights.sum())
        row: dict[str, str | float] = {
            "message": word,
            "meanings": "; ".join(",".join(map(str, row)) for row in self.meanings[indices].tolist()),
            "probability": probability,
        }
        if self.accuracy is not None:
            understood = float((weights * self.accuracy[indices]).sum())
            row["accuracy"] = understood / probability if probability else math.nan
        return row


@contextmanager
def _diagnostics_extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f'tables and pictures need {error.name}: pip install "gsrl[diagnostics]"') from None


def _axes(columns: int, rows: int, height: float | None = None) -> tuple[Figure, Axes]:
    """A figure of its own, apart from pyplot's, about as large as its cells; or of a height in inches."""
    with _diagnostics_extra():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    width, tall = (min(14.0, max(4.0, 2.0 + 0.3 * cells)) for cells in (columns, rows))
    with styled():
        figure = Figure(figsize=(width, tall if height is None else height))
        FigureCanvasAgg(figure)
        return figure, figure.add_subplot()


def _label(axes: Axes, x_name: str, x: Sequence[str], y_name: str, y: Sequence[str]) -> None:
    axes.set_xlabel(x_name)
    axes.set_ylabel(y_name)
    long = max(map(len, x), default=0) > 2
    axes.set_xticks(range(len(x)) if len(x) <= MAX_CELLS else [], x if len(x) <= MAX_CELLS else [], rotation=90 * long)
    axes.set_yticks(range(len(y)) if len(y) <= MAX_CELLS else [], y if len(y) <= MAX_CELLS else [])


def _finish(figure: Figure, axes: Axes, title: str | None, path: str | Path | None) -> Figure:
    if title:
        axes.set_title(title)
    if path is not None:
        with styled():
            save_figure(figure, path)
    return figure


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
