"""The switch riddle: prisoners who can tell each other one bit a day, by a light switch.

Each day one of ``n`` prisoners, drawn uniformly, is taken to the interrogation room. There they see the switch as the
last visitor left it, and set it. They may also *tell*, that every prisoner has been in the room by now: if that is so,
all are freed (reward 1 for each), otherwise all die (-1). After ``4 n - 6`` days without a word it is over (0).

Who has been in the room before and who has not, no prisoner sees: only the switch can say. For ``n = 3``:

| strategy | expected return | normalised |
|---|---|---|
| an oracle, which tells as soon as all have been there | 540/729 = .7407 | 1 |
| the best one without the switch | 390/729 = .5350 | .7222 |
| tell on the last day | 351/729 = .4815 | .65 |

Source: Foerster et al. 2016 (1605.06676), Section 6.1, and its code: a prisoner who is not in the room sees nothing and
has one action, to do nothing; on the first day the switch says nothing.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gsrl.comms.dial import SILENCE, Turn

__all__ = ["NOTHING", "TELL", "SwitchRiddle", "all_visits", "optimal_return"]

NOTHING = 0
"""What a prisoner does who does not tell."""

TELL = 1
"""Says that all have been in the room."""

Visits = NDArray[np.int64]


def optimal_return(prisoners: int) -> float:
    r"""The oracle's expected return: the probability that all have been in the room in time.

    .. math:: \sum_{k=0}^{n} (-1)^k \binom{n}{k} \left(\frac{n - k}{n}\right)^{4n - 6}

    Example:
        >>> round(optimal_return(3), 3)
        0.741
    """
    n, days = prisoners, 4 * prisoners - 6
    return sum((-1) ** k * math.comb(n, k) * ((n - k) / n) ** days for k in range(n + 1))


def all_visits(prisoners: int) -> Visits:
    """Every order of visits, equally likely, ``[n ** days, days]``: 729 for three prisoners, 1,048,576 for four.

    Example:
        >>> all_visits(3).shape
        (729, 6)
    """
    return np.array(list(itertools.product(range(prisoners), repeat=4 * prisoners - 6)))


class SwitchRiddle:
    """Many episodes at once, without the switch: a :class:`gsrl.comms.TalkingEnv`.

    Args:
        prisoners: ``n``, at least 3.
        visits: Orders of visits ``[N, days]`` that episodes take in turn, from the first one at every reset; None: each
            is drawn. With those of :func:`all_visits`, as many episodes are all there are.

    Attributes:
        n_agents: The prisoners.
        n_actions: 2: :data:`NOTHING` and :data:`TELL`.
        n_features: 1: whether one is in the room.
        n_ears: 1: the switch, which the last visitor has set.
        horizon: Days.

    Raises:
        ValueError: There are fewer than three prisoners, or ``visits`` has another shape or names others.

    Example:
        >>> env = SwitchRiddle(3, visits=[[0, 1, 2, 0, 1, 2]])
        >>> _ = env.reset(1, np.random.default_rng(0))
        >>> for action in (NOTHING, NOTHING, TELL):  # on the third day all have been in the room
        ...     _, rewards, over = env.step(np.full((1, 3), action))
        >>> rewards, over
        (array([[1., 1., 1.]], dtype=float32), array([ True]))
    """

    n_actions = 2
    n_features = 1
    n_ears = 1

    def __init__(self, prisoners: int = 3, visits: ArrayLike | None = None) -> None:
        if not isinstance(prisoners, int) or prisoners < 3:
            raise ValueError(f"prisoners must be an integer of at least 3, but got {prisoners!r}.")
        self.n_agents = prisoners
        self.horizon = 4 * prisoners - 6
        self._given = None if visits is None else np.asarray(visits)
        if self._given is not None:
            if self._given.ndim != 2 or self._given.shape[1] != self.horizon or not len(self._given):
                raise ValueError(f"visits must have shape [N, {self.horizon}], but got shape {self._given.shape}.")
            if self._given.dtype.kind not in "iu" or self._given.min() < 0 or self._given.max() >= prisoners:
                raise ValueError(f"visits must name prisoners, integers from 0 to {prisoners - 1}.")
        self.visits: Visits = np.zeros((0, self.horizon), np.int64)
        """Who is in the room, of each episode and day, ``[B, days]``."""

    def reset(self, batch_size: int, rng: np.random.Generator) -> Turn:
        """Begins episodes."""
        if self._given is None:
            self.visits = rng.integers(self.n_agents, size=(batch_size, self.horizon))
        else:
            self.visits = self._given[np.arange(batch_size) % len(self._given)].astype(np.int64)
        self.day = 0
        self.ended = np.zeros(batch_size, np.bool_)
        self._have_been = np.zeros((batch_size, self.n_agents), np.bool_)
        self._rows = np.arange(batch_size)
        return self._turn()

    def step(self, actions: NDArray[np.int64]) -> tuple[Turn, NDArray[np.float32], NDArray[np.bool_]]:
        """Lets the visitors speak or not, ``[B, n]``; what the others do has no effect.

        Returns:
            The next day, the rewards ``[B, n]``, and whether episodes are over ``[B]``.
        """
        visitors = self.visits[:, self.day]
        tells = (actions[self._rows, visitors] == TELL) & ~self.ended
        rewards = np.where(tells, np.where(self._have_been.all(1), 1.0, -1.0), 0.0)
        self.day += 1
        self.ended = self.ended | tells | (self.day == self.horizon)
        return self._turn(), np.repeat(rewards[:, None], self.n_agents, 1).astype(np.float32), self.ended

    def best_returns(self) -> NDArray[np.float64]:
        """What the oracle would get in these episodes, ``[B]``."""
        visited = (self.visits[:, :, None] == np.arange(self.n_agents)).any(1)
        return visited.all(1).astype(np.float64)

    def _turn(self) -> Turn:
        """What is seen: nothing any more once the last day is over."""
        is_in = np.zeros((len(self.visits), self.n_agents), np.bool_)
        heard = np.full((len(self.visits), self.n_agents, 1), SILENCE)
        if self.day < self.horizon:
            visitors = self.visits[:, self.day]
            is_in[self._rows, visitors] = True
            if self.day > 0:
                heard[self._rows, visitors, 0] = self.visits[:, self.day - 1]
            self._have_been |= is_in
        return Turn(is_in[..., None].astype(np.float32), heard, np.stack([np.ones_like(is_in), is_in], -1))
