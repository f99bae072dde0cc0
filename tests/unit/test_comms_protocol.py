from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gsrl import comms
from gsrl.comms.protocol import MessageProtocol


def protocol(**changes: Any) -> MessageProtocol:
    """Four meanings of two attributes; the third message stops early, the first two are the same."""
    settings: dict[str, Any] = {
        "messages": np.array([[2, 1], [2, 1], [1, 0], [1, 2]]),
        "lengths": np.array([2, 2, 1, 2]),
        "meanings": np.array([[0, 0], [0, 1], [1, 0], [1, 1]]),
        "accuracy": np.array([1.0, 0.0, 1.0, 1.0]),
        "probabilities": np.array([0.375, 0.125, 0.25, 0.25]),
    }
    return MessageProtocol(**{**settings, **changes})


def test_the_table_has_a_row_for_each_message() -> None:
    assert protocol().table() == [
        {"message": "1", "meanings": "1,0", "probability": 0.25, "accuracy": 1.0},
        {"message": "1-2", "meanings": "1,1", "probability": 0.25, "accuracy": 1.0},
        {"message": "2-1", "meanings": "0,0; 0,1", "probability": 0.5, "accuracy": 0.75},
    ]


def test_nothing_is_read_past_the_end() -> None:
    garbage = protocol(messages=np.array([[2, 1], [2, 1], [1, 2], [1, 2]]))
    assert garbage.words() == ["2-1", "2-1", "1", "1-2"]
    assert garbage.table() == protocol().table()
    assert np.array_equal(garbage.dependence(), protocol().dependence())
    assert protocol(lengths=np.array([0, 2, 1, 2])).words()[0] == "()"


def test_markdown_and_csv() -> None:
    assert protocol().to_markdown().splitlines() == [
        "| message | meanings | probability | accuracy |",
        "| --- | --- | ---: | ---: |",
        "| 1 | 1,0 | 0.25 | 1 |",
        "| 1-2 | 1,1 | 0.25 | 1 |",
        "| 2-1 | 0,0; 0,1 | 0.5 | 0.75 |",
    ]
    assert protocol().to_csv().splitlines()[:3] == [
        "message,meanings,probability,accuracy",
        '1,"1,0",0.25,1.0',
        '1-2,"1,1",0.25,1.0',
    ]


def test_csv_reaches_its_file(tmp_path: Path) -> None:
    text = protocol().to_csv(tmp_path / "language.csv")
    assert (tmp_path / "language.csv").read_text(encoding="utf-8") == text


def test_rich_shows_the_same_rows() -> None:
    table = protocol().rich("language")
    assert [list(column.cells) for column in table.columns][:2] == [["1", "1-2", "2-1"], ["1,0", "1,1", "0,0; 0,1"]]


def test_the_words_of_a_table_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    words = MessageProtocol.words

    def counted(self: MessageProtocol) -> list[str]:
        calls.append(self)
        return words(self)

    monkeypatch.setattr(MessageProtocol, "words", counted)
    assert len(protocol().table()) == 3
    assert len(calls) == 1


def test_the_inverse_of_numpy_2_0_is_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    unique = np.unique

    def of_numpy_2_0(x: Any, **settings: Any) -> Any:
        found = unique(x, **settings)
        if "return_inverse" in settings and "axis" in settings:
            *others, inverse = found
            return *others, inverse.reshape(-1, 1)
        return found

    shares = protocol().draw().axes[0].images[0].get_array()
    language = protocol()
    episodes = (language.messages, language.lengths, language.meanings, np.ones(4, np.bool_), language.probabilities)
    table = MessageProtocol.of_episodes(*episodes).table()
    monkeypatch.setattr(np, "unique", of_numpy_2_0)
    np.testing.assert_array_equal(protocol().draw().axes[0].images[0].get_array(), shares)
    assert MessageProtocol.of_episodes(*episodes).table() == table


def test_one_to_one_means_a_message_for_every_meaning() -> None:
    assert not protocol().is_one_to_one()
    assert protocol(messages=np.array([[2, 1], [2, 2], [1, 0], [1, 2]])).is_one_to_one()


def test_dependence_is_the_mutual_information_of_attribute_and_position() -> None:
    # Symbols at the second position: 1, 1, none, 2.
    np.testing.assert_allclose(protocol().dependence(), [[1.0, 1.0], [0.0, 0.5]], atol=1e-12)


def test_episodes_are_gathered_by_meaning_and_message() -> None:
    language = MessageProtocol.of_episodes(
        messages=np.array([[1], [2], [1], [1], [1]]),
        lengths=np.ones(5, np.int64),
        meanings=np.array([[0], [1], [0], [0], [1]]),
        correct=np.array([True, True, False, True, False]),
        weights=np.full(5, 0.2),
    )
    assert language.table() == [
        {"message": "1", "meanings": "0; 1", "probability": pytest.approx(0.8), "accuracy": pytest.approx(0.5)},
        {"message": "2", "meanings": "1", "probability": pytest.approx(0.2), "accuracy": 1.0},
    ]
    np.testing.assert_allclose(language.accuracy, [2 / 3, 0.0, 1.0])
    assert not language.is_one_to_one()


def test_pictures_show_the_numbers(tmp_path: Path) -> None:
    figure = protocol().draw(tmp_path / "language.png", "a language")
    axes = figure.axes[0]
    shares = axes.images[0].get_array()
    np.testing.assert_allclose(shares, [[0, 0, 1, 0], [0, 0, 0, 1], [0.75, 0.25, 0, 0]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "1-2", "2-1"]
    assert (tmp_path / "language.png").stat().st_size > 1000
    dependence_figure = protocol().draw_dependence()
    np.testing.assert_allclose(dependence_figure.axes[0].images[0].get_array(), protocol().dependence())


def test_of_one_attribute_bars_show_what_each_position_tells() -> None:
    # Four values; the first symbol tells which half, the second nothing.
    figure = protocol(
        messages=np.array([[1, 3], [1, 3], [2, 3], [2, 3]]),
        lengths=np.full(4, 2),
        meanings=np.arange(4)[:, None],
    ).draw_dependence(title="one attribute")
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([1.0, 0.0])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 2.0)  # log2(4)


@pytest.mark.parametrize("count", [2, 100])
def test_large_languages_are_drawn_without_labels(count: int) -> None:
    numbers = np.arange(count)
    figure = protocol(
        messages=numbers[:, None],
        lengths=np.ones(count, np.int64),
        meanings=numbers[:, None],
        accuracy=np.ones(count),
        probabilities=np.full(count, 1 / count),
    ).draw()
    assert len(figure.axes[0].get_yticks()) == (count if count < 60 else 0)


def test_an_earlier_name_warns() -> None:
    with pytest.warns(DeprecationWarning, match=r"gsrl\.comms\.Protocol is now gsrl\.comms\.MessageProtocol"):
        assert comms.Protocol is MessageProtocol
    with pytest.raises(AttributeError, match="has no attribute 'Language'"):
        _ = comms.Language
