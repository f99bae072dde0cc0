from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from gsrl.comms import metrics

PAIRS = np.array(list(itertools.product(range(4), range(4))))
"""Two attributes of four values, every meaning once."""

BAG = np.array(
    [
        [[0, 0, 4], [0, 0, 5], [0, 0, 6], [0, 0, 7]],
        [[1, 4, 1], [1, 5, 1], [1, 6, 1], [1, 7, 1]],
        [[2, 4, 2], [2, 5, 2], [2, 6, 2], [2, 7, 2]],
        [[3, 4, 3], [3, 3, 5], [3, 3, 6], [3, 3, 7]],
    ]
).reshape(16, 3)
"""The language of 2004.09124, appendix: which symbols there are says all, where they stand nothing."""

LANGUAGE_METRICS = [
    metrics.message_entropy,
    lambda messages, lengths: metrics.mutual_information(messages, PAIRS[: len(messages)], lengths),
    lambda messages, lengths: metrics.attribute_information(messages, PAIRS[: len(messages)], lengths).tolist(),
    lambda messages, lengths: metrics.topographic_similarity(messages, PAIRS[: len(messages)], lengths),
    lambda messages, lengths: metrics.positional_disentanglement(messages, PAIRS[: len(messages)], lengths),
    lambda messages, lengths: metrics.bag_of_symbols_disentanglement(messages, PAIRS[: len(messages)], lengths),
    metrics.mean_length,
    lambda messages, lengths: metrics.redundancy(messages, 10, lengths),
]


def test_lengths_end_before_the_first_end_symbol() -> None:
    messages = np.array([[3, 0, 0], [0, 2, 1], [1, 2, 3], [1, 2, 0]])
    assert metrics.message_lengths(messages, end=0).tolist() == [1, 0, 3, 2]
    assert metrics.message_lengths(messages, end=9).tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize("metric", LANGUAGE_METRICS)
def test_nothing_behind_the_end_is_read(metric) -> None:
    rng = np.random.default_rng(0)
    messages, lengths = rng.integers(0, 4, (16, 5)), rng.integers(0, 6, 16)
    garbage = np.where(np.arange(5) < lengths[:, None], messages, rng.integers(-9, 10, (16, 5)))
    assert metric(garbage, lengths) == metric(messages, lengths)
    assert metric(messages, None) != metric(messages, lengths)  # it does heed the lengths


def test_accuracy_asks_for_all_attributes() -> None:
    assert metrics.accuracy([0, 1, 2, 2], [0, 1, 1, 2]) == 0.75
    assert metrics.accuracy([[0, 1], [1, 1]], [[0, 1], [1, 0]]) == 0.5


def test_entropy_of_messages_in_bits() -> None:
    assert metrics.message_entropy([[0, 0], [0, 1], [1, 0], [1, 1]]) == 2.0
    assert metrics.message_entropy([[0, 0], [0, 0], [1, 0], [1, 1]]) == 1.5
    # The same two symbols, but of different lengths: two messages.
    assert metrics.message_entropy([[0, 0], [0, 0]], lengths=[1, 2]) == 1.0


def test_mutual_information_in_bits() -> None:
    # Two meanings share each message: one bit is left of two.
    assert metrics.mutual_information([[0], [0], [1], [1]], [0, 1, 2, 3]) == pytest.approx(1.0)
    # Synonyms tell no more than the meaning.
    assert metrics.mutual_information([[0], [1], [2], [3]], [0, 0, 1, 1]) == pytest.approx(1.0)
    # p(m, z) = 3/8, 1/8, 1/8, 3/8: 1 - H(1/4).
    messages = [[0]] * 4 + [[1]] * 4
    expected = 1 + 0.25 * math.log2(0.25) + 0.75 * math.log2(0.75)
    assert metrics.mutual_information(messages, [0, 0, 0, 1, 0, 1, 1, 1]) == pytest.approx(expected)
    # Independent.
    assert metrics.mutual_information([[0], [1], [0], [1]], [0, 0, 1, 1]) == pytest.approx(0.0, abs=1e-12)


def test_information_of_positions_about_attributes() -> None:
    messages = np.stack([PAIRS[:, 1], PAIRS[:, 0] // 2, PAIRS[:, 0] % 2], 1)
    information = metrics.attribute_information(messages, PAIRS)
    np.testing.assert_allclose(information, [[0, 1, 1], [2, 0, 0]], atol=1e-12)


def test_topographic_similarity_by_hand() -> None:
    assert metrics.topographic_similarity(PAIRS, PAIRS) == pytest.approx(1.0)
    # Pairs (1,2) (1,3) (2,3): meanings differ in 1, 2, 1 attributes, messages in 2, 1, 1 symbols; ranks 1.5 3 1.5 and
    # 3 1.5 1.5; correlation (-.5 1 -.5)(1 -.5 -.5) / 1.5.
    assert metrics.topographic_similarity([[0, 0], [1, 1], [0, 1]], [[0, 0], [0, 1], [1, 1]]) == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("kitten", "sitting", 3), ("abc", "bcd", 2), ("", "abc", 3), ("ab", "ba", 2), ("saturday", "sunday", 3)],
)
def test_edit_distance(one: str, other: str, distance: int) -> None:
    words = np.full((2, 9), metrics.SILENCE)
    for row, word in zip(words, (one, other), strict=True):
        row[: len(word)] = [ord(letter) for letter in word]
    assert metrics._edit_distances(words).tolist() == [[0, distance], [distance, 0]]


def test_ranks_share_ties() -> None:
    assert metrics._ranks(np.array([3, 1, 3, 2, 3])).tolist() == [4, 1, 4, 2, 4]


def test_positional_disentanglement_agrees_with_eggs_doctest() -> None:
    generator = torch.Generator().manual_seed(0)
    attributes = torch.cat([torch.randint(0, 10, (1000, 1), generator=generator) for _ in range(2)], 1).numpy()
    assert round(metrics.positional_disentanglement(attributes, attributes), 6) == 0.978656
    longer = np.concatenate([attributes, np.zeros_like(attributes)], 1)  # positions that never vary do not count
    assert round(metrics.positional_disentanglement(longer, attributes), 6) == 0.978656
    ended = metrics.positional_disentanglement(longer, attributes, lengths=np.full(1000, 2))
    assert round(ended, 6) == 0.978656


def test_disentanglement_of_positions_and_of_bags() -> None:
    assert metrics.positional_disentanglement(PAIRS, PAIRS) == pytest.approx(1.0)
    assert metrics.bag_of_symbols_disentanglement(BAG, PAIRS) == pytest.approx(1.0)
    assert metrics.positional_disentanglement(BAG, PAIRS) < 0.5
    # Symbols that mean either attribute: those of PAIRS, where position decides.
    assert metrics.bag_of_symbols_disentanglement(PAIRS, PAIRS) == pytest.approx(0.0, abs=1e-12)
    # One position of two speaks of one attribute (gap 2 of 2 bits), the other of both alike (xor, gap 0).
    messages = np.stack([PAIRS[:, 0], PAIRS[:, 0] ^ PAIRS[:, 1]], 1)
    assert metrics.positional_disentanglement(messages, PAIRS) == pytest.approx(0.5)


def test_mean_length() -> None:
    assert metrics.mean_length(BAG) == 3.0
    assert metrics.mean_length([[1, 1], [1, 1], [1, 1]], lengths=[0, 1, 2]) == 1.0


def test_redundancy() -> None:
    # Four messages of two symbols out of four, fixed length: 2 bits of 4.
    assert metrics.redundancy([[0, 0], [1, 1], [2, 2], [3, 3]], vocabulary=4) == pytest.approx(0.5)
    assert metrics.redundancy(PAIRS, vocabulary=4) == pytest.approx(0.0)
    # With an end symbol there are three kinds; the messages a., b., and "." are sent as 2, 2, 1 symbols of L = 2.
    expected = 1 - math.log2(3) / (5 / 3 * math.log2(3))
    assert metrics.redundancy([[0, 0], [1, 0], [0, 0]], vocabulary=2, lengths=[1, 1, 0]) == pytest.approx(expected)
    # A message that fills all positions needs no end symbol: "a", "b", "." of L = 1 waste nothing.
    assert metrics.redundancy([[0], [1], [0]], vocabulary=2, lengths=[1, 1, 0]) == pytest.approx(0.0)


@pytest.mark.parametrize("lengths", [None, [2] * 16, [0] * 16])
def test_a_language_of_one_message_has_documented_values(lengths: list[int] | None) -> None:
    messages = np.full((16, 3), 7)
    assert metrics.message_entropy(messages, lengths) == 0.0
    assert metrics.mutual_information(messages, PAIRS, lengths) == 0.0
    assert metrics.topographic_similarity(messages, PAIRS, lengths) == 0.0
    assert metrics.positional_disentanglement(messages, PAIRS, lengths) == 0.0
    assert metrics.bag_of_symbols_disentanglement(messages, PAIRS, lengths) == 0.0
    assert metrics.redundancy(messages, 10, lengths) == 1.0
    assert not metrics.attribute_information(messages, PAIRS, lengths).any()


def test_a_single_row_has_finite_values() -> None:
    assert metrics.topographic_similarity([[1]], [[0, 1]]) == 0.0
    assert metrics.positional_disentanglement([[1]], [[0, 1]]) == 0.0
    assert metrics.mutual_information([[1]], [3]) == 0.0


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: metrics.message_entropy([[0.5]]), TypeError, "messages must be integers"),
        (lambda: metrics.message_entropy([1, 2]), ValueError, r"messages must have shape \[N, L\]"),
        (lambda: metrics.message_entropy([[-1]]), ValueError, "messages must hold symbols of at least 0"),
        (lambda: metrics.message_entropy([[1], [2]], [1]), ValueError, "lengths must be one for each of 2 messages"),
        (lambda: metrics.message_entropy([[1]], [2]), ValueError, "lengths must be .* from 0 to 1"),
        (lambda: metrics.mutual_information([[1]], [1, 2]), ValueError, "meanings must be one for each of 1 messages"),
        (lambda: metrics.positional_disentanglement([[1]], [1]), ValueError, "at least two attributes"),
        (lambda: metrics.redundancy([[1]], 1), ValueError, "vocabulary must be at least 2"),
        (lambda: metrics.redundancy([[0, 1, 2]], 2), ValueError, "not below the 3 symbols"),
        (lambda: metrics.accuracy([1], [1, 2]), ValueError, "outputs must have the shape of meanings"),
    ],
)
def test_wrong_input_is_named(call, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_agrees_with_emlangkit() -> None:
    peer = pytest.importorskip("emlangkit.metrics")
    rng = np.random.default_rng(1)
    meanings = np.array(list(itertools.product(range(3), range(4), range(2))))
    for messages in (rng.integers(0, 3, (24, 4)), np.concatenate([meanings, meanings[:, :1]], 1), BAG[:, [0, 1, 2, 0]]):
        about = meanings if len(messages) == 24 else PAIRS
        assert metrics.message_entropy(messages) == pytest.approx(peer.compute_entropy(messages))
        information = metrics.mutual_information(messages, about)
        assert information == pytest.approx(peer.compute_mutual_information(messages, about))
        similarity = metrics.topographic_similarity(messages, about)
        assert similarity == pytest.approx(peer.compute_topographic_similarity(messages, about)[0])
        positional = metrics.positional_disentanglement(messages, about)
        assert positional == pytest.approx(peer.compute_posdis(messages, about))
        bag = metrics.bag_of_symbols_disentanglement(messages, about)
        # It counts symbols under one column of each occurrence, of which all but one stay empty and do not count.
        assert bag == pytest.approx(peer.compute_bosdis(messages, about))
