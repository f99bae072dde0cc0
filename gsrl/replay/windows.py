"""Windows of n-step returns: which steps they have, where they close, what they are worth. Functions of arrays alone.

A window of m <= N steps starts at a transition and goes on in its environment. Transitions are known by flat indices,
of any shape ``[...]``: ``(member * rows + row) * n_envs + environment`` in a ring whose members have ``capacity``
entries each. Their first dimension is that of the members wherever a setting has one value a member.

An agent of a team, whose steps end when it leaves, is to its environment what that is to a row: the index of its part
of a transition is ``index * A + agent``, with ``n_envs * A`` and ``capacity * A`` in place of ``n_envs`` and
``capacity``.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Groups",
    "bootstrap_discounts",
    "closing_steps",
    "discounts",
    "groups",
    "last_indices",
    "returns",
    "reward_weights",
    "step_indices",
]

Groups: TypeAlias = list[tuple[int, slice | NDArray[np.int64]]]
"""Largest lengths of windows, and which members have windows of this length."""


def groups(lengths: NDArray[np.int64]) -> Groups:
    """Members by the largest length of their windows, of one for all ``[]`` or one a member ``[S]``.

    Example:
        >>> groups(np.array([1, 3, 1]))  # members 0 and 2 have windows of one step, member 1 of up to three
        [(1, array([0, 2])), (3, array([1]))]
    """
    if (lengths == lengths.max()).all():
        return [(int(lengths.max()), slice(None))]
    return [(int(length), np.flatnonzero(lengths == length)) for length in np.unique(lengths)]


def discounts(gammas: NDArray[np.floating], longest: int) -> NDArray[np.float32]:
    """What the value after m steps counts for, by m - 1: gamma to gamma^N, ``[N]``; of ``gammas [S]``, ``[S, N]``.

    Example:
        >>> discounts(np.array([0.5]), 3)
        array([[0.5  , 0.25 , 0.125]], dtype=float32)
    """
    return _powers(gammas, longest)[..., 1:]


def reward_weights(gammas: NDArray[np.floating], scales: NDArray[np.float32], longest: int) -> NDArray[np.float32]:
    """What the rewards of m steps count for, by m - 1: scale times 1 to gamma^(m - 1), then 0.

    ``[N, N]``; of ``gammas [S]`` and ``scales [S]``, ``[S, N, N]``.

    Example:
        >>> reward_weights(np.array([0.5]), np.ones(1, np.float32), 3)
        array([[[1.  , 0.  , 0.  ],
                [1.  , 0.5 , 0.  ],
                [1.  , 0.5 , 0.25]]], dtype=float32)
    """
    weights = scales[..., None] * _powers(gammas, longest)[..., :-1]
    return np.tril(np.broadcast_to(weights[..., None, :], (*weights.shape, longest)))


def _powers(gammas: NDArray[np.floating], longest: int) -> NDArray[np.float32]:
    rows = [float(gamma) ** np.arange(longest + 1) for gamma in gammas.flat]
    return np.reshape(rows, (*gammas.shape, longest + 1)).astype(np.float32)


def step_indices(
    starts: NDArray[np.int64], longest: int, n_envs: int, capacity: int, first: int | NDArray[np.int64] = 0
) -> NDArray[np.int64]:
    """Indices ``[..., N]`` of the N steps that begin at ``starts [...]``, round the end of their ring.

    Args:
        starts: Where windows start.
        longest: N.
        n_envs: How far the next step of an environment is.
        capacity: Of a ring.
        first: Where the ring of each start begins; of members ``[S, 1, ...]``.

    Example:
        >>> step_indices(np.array([0, 7]), 3, n_envs=2, capacity=10)  # two environments, five rows
        array([[0, 2, 4],
               [7, 9, 1]])
    """
    windows = starts[..., None] + n_envs * np.arange(longest)
    broken = starts >= first + (capacity - n_envs * (longest - 1))  # the few that run over the end
    if broken.any():
        begin = starts[broken] // capacity * capacity
        windows[broken] = begin[:, None] + windows[broken] % capacity
    return windows


def closing_steps(closed: NDArray[np.bool_], groups: Groups) -> NDArray[np.int64]:
    """The last step of each window, m - 1: the first that is closed, or the last that is wanted.

    Args:
        closed: Whether the steps of windows are such that none follows, ``[..., N]``. Written to.
        groups: See :func:`groups`.

    Example:
        >>> closed = np.array([[False, True, False], [False, False, False]])
        >>> closing_steps(closed, groups(np.array(3)))  # the first window ends with its second step
        array([1, 2])
    """
    for length, members in groups:
        closed[members, ..., length - 1] = True
    return closed.argmax(-1)


def last_indices(windows: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of windows ``[..., N]``, the index at a step ``[...]`` of each.

    Example:
        >>> windows = step_indices(np.array([0, 2]), 3, n_envs=1, capacity=10)
        >>> last_indices(windows, np.array([1, 2]))
        array([1, 4])
    """
    return windows.take(np.arange(0, windows.size, windows.shape[-1]).reshape(steps.shape) + steps)


def returns(
    rewards: NDArray[np.float32], steps: NDArray[np.int64], weights: NDArray[np.float32], groups: Groups
) -> NDArray[np.float32]:
    """Sums of the rewards of windows up to their last steps, ``[...]``.

    Args:
        rewards: Of the steps of each window, ``[..., N]``.
        steps: The last one of each, ``[...]``.
        weights: See :func:`reward_weights`.
        groups: See :func:`groups`.

    Example:
        >>> weights = reward_weights(np.array(0.5), np.array(1.0, np.float32), 3)
        >>> rewards = np.array([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]], np.float32)
        >>> returns(rewards, np.array([1, 2]), weights, groups(np.array(3)))  # 1 + .5 * 2, and .25 * 4 more
        array([2., 3.], dtype=float32)
    """
    longest = rewards.shape[-1]
    weighted = rewards * weights.reshape(-1, longest).take(_rows(steps, weights[..., 0]), axis=0)
    sums = np.empty(steps.shape, np.float32)
    for length, members in groups:  # apart: NumPy's order of summation depends on the number of terms
        sums[members] = weighted[members][..., :length].sum(-1)
    return sums


def bootstrap_discounts(
    steps: NDArray[np.int64], terminated: NDArray[np.bool_], discounts: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What the value after each window counts for, gamma^m, or 0 where its last step terminated.

    Args:
        steps: The last step of each, m - 1, ``[...]``.
        terminated: Whether that terminated, ``[...]``.
        discounts: See :func:`discounts`.

    Example:
        >>> bootstrap_discounts(np.array([0, 1, 1]), np.array([False, False, True]), discounts(np.array(0.5), 2))
        array([0.5 , 0.25, 0.  ], dtype=float32)
    """
    return discounts.take(_rows(steps, discounts)) * ~terminated


def _rows(steps: NDArray[np.int64], table: NDArray[np.float32]) -> NDArray[np.int64]:
    """Where steps are in a flat table ``[N]``, or in one a member, ``[S, N]``."""
    if table.ndim == 1:
        return steps
    members, longest = table.shape
    return steps + longest * np.arange(members).reshape(-1, *[1] * (steps.ndim - 1))
