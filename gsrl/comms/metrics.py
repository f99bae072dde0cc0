"""Measures of a language: pure functions of messages and of what they mean.

All functions share these conventions.

- ``messages`` are integers of at least 0, ``[N, L]``: symbols, a message a row.
- ``lengths`` are integers ``[N]``: how many symbols of each message count, its end symbol not among them. Nothing
  behind them is ever read. None: all of them count. :func:`message_lengths` finds them by the end symbol.
- ``meanings`` are integers ``[N, A]``, the values of A attributes, a meaning a row; ``[N]`` stands for A = 1.
- Every row counts the same. Rows drawn from a prior, or all meanings once, tell of different things: say which.
- Entropies and information are in **bits**, and those of the rows themselves (the plug-in estimate): no correction is
  made for N being small.
- Every result is finite. What a degenerate language (one message, for one) is worth, each function says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "accuracy",
    "attribute_information",
    "bag_of_symbols_disentanglement",
    "mean_length",
    "message_entropy",
    "message_lengths",
    "mutual_information",
    "positional_disentanglement",
    "redundancy",
    "topographic_similarity",
]

Ints = NDArray[np.int64]

SILENCE = -1
"""Stands at positions behind the end of a message."""


def message_lengths(messages: ArrayLike, end: int) -> Ints:
    """Finds how many symbols come before the first end symbol.

    Args:
        messages: ``[N, L]``.
        end: The end symbol. A message without it counts whole.

    Returns:
        ``[N]``, from 0 to L.

    Example:
        >>> message_lengths([[1, 0, 2], [1, 1, 1]], end=0)
        array([1, 3])
    """
    is_end = _integers("messages", messages, "[N, L]") == end
    return np.where(is_end.any(1), is_end.argmax(1), is_end.shape[1])


def accuracy(outputs: ArrayLike, meanings: ArrayLike) -> float:
    """Share of the rows in which every attribute was understood.

    Args:
        outputs: What was understood, of the shape of ``meanings``.
        meanings: What was meant.

    Example:
        >>> accuracy([[0, 1], [1, 1]], [[0, 1], [1, 0]])
        0.5
    """
    understood = _integers("outputs", outputs, "[N] or [N, A]")
    meant = _integers("meanings", meanings, "[N] or [N, A]")
    if understood.shape != meant.shape:
        raise ValueError(f"outputs must have the shape of meanings, {meant.shape}, but got shape {understood.shape}.")
    return float((_columns(understood) == _columns(meant)).all(1).mean())


def message_entropy(messages: ArrayLike, lengths: ArrayLike | None = None) -> float:
    r"""Entropy of whole messages, :math:`H(M) = -\sum_m p(m) \log_2 p(m)`, in bits.

    0 for a single message.

    Source: Shannon 1948, Section 6.

    Example:
        >>> round(message_entropy([[0], [0], [1], [1]]), 3)  # of two words at even odds, in bits
        1.0
    """
    return _entropy(_labels(_cut(messages, lengths)))


def mutual_information(messages: ArrayLike, meanings: ArrayLike, lengths: ArrayLike | None = None) -> float:
    r"""What whole messages tell of whole meanings, :math:`I(M; Z) = H(M) + H(Z) - H(M, Z)`, in bits.

    0 for a single message, or a single meaning; at most the entropy of either.

    Source: Shannon 1948, Section 12.

    Example:
        >>> mutual_information([[0], [1]], [0, 1])
        1.0
    """
    cut, meant = _language(messages, meanings, lengths)
    return _information(_labels(cut), _labels(meant))


def attribute_information(
    messages: ArrayLike, meanings: ArrayLike, lengths: ArrayLike | None = None
) -> NDArray[np.float64]:
    """What each position tells of each attribute: mutual information in bits, ``[A, L]``.

    The end of a message, and what is behind it, counts as one more symbol.

    Example:
        >>> meanings = [[0, 0], [0, 1], [1, 0], [1, 1]]
        >>> attribute_information(meanings, meanings).round(3)
        array([[1., 0.],
               [0., 1.]])
    """
    cut, meant = _language(messages, meanings, lengths)
    return _pairwise_information(meant, cut)


def topographic_similarity(messages: ArrayLike, meanings: ArrayLike, lengths: ArrayLike | None = None) -> float:
    """Whether similar meanings have similar messages: a rank correlation of distances, in [-1, 1].

    Spearman's coefficient, over all pairs of rows, of the Hamming distance of the meanings (attributes that differ) and
    the edit distance of the messages (Levenshtein's: insertions, deletions and substitutions, each 1). It is 0 where
    all distances of one kind are equal: for a single message, or where every message is as far from every other.
    Takes time and memory in the order of N².

    Source: Brighton & Kirby 2006, "Understanding linguistic evolution by visualizing the emergence of topographic
    mappings"; with Spearman's coefficient: Lazaridou et al. 2018 (1804.03984), Section 3.

    Example:
        >>> meanings = [[0, 0], [0, 1], [1, 0], [1, 1]]
        >>> round(topographic_similarity(meanings, meanings), 3)  # each symbol is an attribute
        1.0
    """
    cut, meant = _language(messages, meanings, lengths)
    first, second = np.triu_indices(len(cut), 1)
    between_meanings = np.zeros(len(first), np.int64)
    for attribute in meant.T:
        between_meanings += attribute[first] != attribute[second]
    # Rows often have the same message: distances are worked out between different ones.
    words, which = np.unique(cut, axis=0, return_inverse=True)
    between_messages = _edit_distances(words)[which.reshape(-1)[first], which.reshape(-1)[second]]
    return _correlation(_ranks(between_meanings), _ranks(between_messages))


def positional_disentanglement(messages: ArrayLike, meanings: ArrayLike, lengths: ArrayLike | None = None) -> float:
    r"""Whether each position speaks of one attribute alone, in [0, 1].

    .. math:: \frac1{|J|} \sum_{j \in J} \frac{I(s_j; a^j_1) - I(s_j; a^j_2)}{H(s_j)}

    ``J`` are the positions whose symbol varies, and :math:`a^j_1`, :math:`a^j_2` the attributes that position j tells
    most of. The end of a message, and what is behind it, counts as one more symbol. 0 where no position varies.

    Source: Chaabouni et al. 2020 (2004.09124).

    Raises:
        ValueError: There are fewer than two attributes.

    Example:
        >>> meanings = [[0, 0], [0, 1], [1, 0], [1, 1]]
        >>> round(positional_disentanglement(meanings, meanings), 3)
        1.0
    """
    cut, meant = _language(messages, meanings, lengths)
    return _disentanglement(meant, cut)


def bag_of_symbols_disentanglement(messages: ArrayLike, meanings: ArrayLike, lengths: ArrayLike | None = None) -> float:
    r"""Whether each symbol, wherever it stands, speaks of one attribute alone, in [0, 1].

    .. math:: \frac1{|S|} \sum_{s \in S} \frac{I(n_s; a^s_1) - I(n_s; a^s_2)}{H(n_s)}

    :math:`n_s` is how many times symbol s is in the message, ``S`` are the symbols for which that varies, and
    :math:`a^s_1`, :math:`a^s_2` the attributes that it tells most of. 0 where there is no such symbol.

    Source: Chaabouni et al. 2020 (2004.09124).

    Raises:
        ValueError: There are fewer than two attributes.

    Example:
        >>> meanings = [[0, 0], [0, 1], [1, 0], [1, 1]]
        >>> messages = [[0, 2], [0, 3], [1, 2], [1, 3]]  # a vocabulary for each attribute
        >>> round(bag_of_symbols_disentanglement(messages, meanings), 3)
        1.0
    """
    cut, meant = _language(messages, meanings, lengths)
    symbols = np.unique(cut[cut != SILENCE])
    counts = [(cut == symbol).sum(1) for symbol in symbols]
    return _disentanglement(meant, np.stack(counts, 1) if counts else cut[:, :0])


def mean_length(messages: ArrayLike, lengths: ArrayLike | None = None) -> float:
    """Symbols of a message, on average, its end symbol not among them.

    Example:
        >>> mean_length([[1, 0], [2, 2]], lengths=[1, 2])
        1.5
    """
    return float((_cut(messages, lengths) != SILENCE).sum(1).mean())


def redundancy(messages: ArrayLike, vocabulary: int, lengths: ArrayLike | None = None) -> float:
    r"""Share of what the symbols could have carried that the messages do not use, in [0, 1].

    .. math:: 1 - \frac{H(M)}{\bar\ell \log_2 v}

    :math:`\bar\ell` is how many symbols are sent for a message, on average, and v of how many kinds they are. Without
    ``lengths``, L of ``vocabulary`` kinds. With them, the end symbol is a symbol like the others: one kind more, and
    one more to send, unless the message fills all L positions. 1 for a single message, 0 where no symbol is wasted.

    Source: Shannon 1948, Section 7, "one minus the relative entropy".

    Args:
        messages: ``[N, L]``.
        vocabulary: Number of symbols to choose from, the end symbol not among them; at least 2.
        lengths: ``[N]``.

    Raises:
        ValueError: ``vocabulary`` is below 2, or below the number of symbols that were sent.

    Example:
        >>> round(redundancy([[0], [1]], vocabulary=2), 3)  # all symbols are used alike
        0.0
    """
    cut = _cut(messages, lengths)
    used = len(np.unique(cut[cut != SILENCE]))
    if vocabulary < max(2, used):
        raise ValueError(f"vocabulary must be at least 2, and not below the {used} symbols used, but got {vocabulary}.")
    if lengths is None:
        kinds, sent = vocabulary, float(cut.shape[1])
    else:
        kinds, sent = vocabulary + 1, float(np.minimum((cut != SILENCE).sum(1) + 1, cut.shape[1]).mean())
    return 1.0 - _entropy(_labels(cut)) / (sent * float(np.log2(kinds)))


# Checks


def _integers(name: str, values: ArrayLike, shape: str) -> Ints:
    """An array of a shape such as ``[N]``, or of one of two: ``[N] or [N, A]``."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, but got dtype {array.dtype}.")
    if array.ndim not in [each.count(",") + 1 for each in shape.split(" or ")] or 0 in array.shape:
        raise ValueError(f"{name} must have shape {shape}, and not be empty, but got shape {array.shape}.")
    return array.astype(np.int64)


def _columns(array: Ints) -> Ints:
    return array.reshape(len(array), -1)


def _cut(messages: ArrayLike, lengths: ArrayLike | None) -> Ints:
    """Messages ``[N, L]`` with :data:`SILENCE` behind their ends: all that is read of them."""
    symbols = _integers("messages", messages, "[N, L]")
    N, L = symbols.shape
    ends = np.full(N, L) if lengths is None else _integers("lengths", lengths, "[N]")
    if len(ends) != N or ends.min() < 0 or ends.max() > L:
        raise ValueError(
            f"lengths must be one for each of {N} messages, from 0 to {L}, "
            f"but got {len(ends)}, from {ends.min()} to {ends.max()}."
        )
    counts = np.arange(L) < ends[:, None]
    if (symbols[counts] < 0).any():
        raise ValueError(f"messages must hold symbols of at least 0, but got {symbols[counts].min()}.")
    return np.where(counts, symbols, SILENCE)


def _language(messages: ArrayLike, meanings: ArrayLike, lengths: ArrayLike | None) -> tuple[Ints, Ints]:
    """Messages ``[N, L]``, cut, and meanings ``[N, A]``."""
    cut, meant = _cut(messages, lengths), _columns(_integers("meanings", meanings, "[N] or [N, A]"))
    if len(meant) != len(cut):
        raise ValueError(f"meanings must be one for each of {len(cut)} messages, but got {len(meant)}.")
    return cut, meant


# Information


def _labels(rows: Ints) -> Ints:
    """Numbers equal rows ``[N, ...]`` alike, ``[N]``."""
    labels: Ints = np.unique(rows, axis=0, return_inverse=True)[1]
    return labels.reshape(-1)


def _entropy(labels: Ints) -> float:
    """Entropy in bits of labels ``[N]``, small integers of at least 0."""
    counts = np.bincount(labels)
    p = counts[counts > 0] / len(labels)
    return max(0.0, float(-(p * np.log2(p)).sum()))


def _information(x: Ints, y: Ints) -> float:
    """Mutual information in bits of labels ``[N]``."""
    joint = _labels(x * (y.max() + 1) + y)
    return max(0.0, _entropy(x) + _entropy(y) - _entropy(joint))


def _pairwise_information(meanings: Ints, parts: Ints) -> NDArray[np.float64]:
    """Mutual information of attributes ``[N, A]`` and parts of messages ``[N, J]``, ``[A, J]`` in bits."""
    attributes, pieces = ([_labels(column) for column in array.T] for array in (meanings, parts))
    rows = [[_information(attribute, piece) for piece in pieces] for attribute in attributes]
    return np.array(rows, np.float64).reshape(len(attributes), len(pieces))


def _disentanglement(meanings: Ints, parts: Ints) -> float:
    """Mean gap between the two attributes that a part ``[N, J]`` tells most of, in units of the part's entropy."""
    if meanings.shape[1] < 2:
        raise ValueError(f"meanings must have at least two attributes, [N, A], but got {meanings.shape[1]}.")
    entropies = np.array([_entropy(_labels(part)) for part in parts.T])
    varies = entropies > 0
    if not varies.any():
        return 0.0
    information = np.sort(_pairwise_information(meanings, parts[:, varies]), axis=0)
    return float(((information[-1] - information[-2]) / entropies[varies]).mean())


# Distances and ranks


def _edit_distances(words: Ints) -> Ints:
    """Levenshtein distances between all rows ``[U, L]`` up to their ends, ``[U, U]``."""
    lengths = (words != SILENCE).sum(1)
    U, L = words.shape
    distances = np.zeros((U, U), np.int64)
    # row[j] is the distance of the first i symbols of one word and the first j of the other. These symbols alone
    # decide it: what is behind an end has no part in the entries that are taken.
    row = [np.full((U, U), j) for j in range(L + 1)]
    for i in range(L + 1):
        if i > 0:
            above, row = row, [np.full((U, U), i)]
            for j in range(1, L + 1):
                substitution = above[j - 1] + (words[:, None, i - 1] != words[None, :, j - 1])
                row.append(np.minimum(substitution, np.minimum(above[j], row[j - 1]) + 1))
        for j in range(L + 1):
            end_here = (lengths[:, None] == i) & (lengths[None, :] == j)
            distances[end_here] = row[j][end_here]
    return distances


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Ranks ``[N]`` from 1, equal values sharing the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which.reshape(-1)]


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Pearson's coefficient of ``[N]``; 0 where one is constant."""
    if len(x) < 2:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(np.clip(x @ y / norm, -1.0, 1.0)) if norm > 0 else 0.0
