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
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray
from pettingzoo import ParallelEnv

from gsrl.comms.dial import SILENCE, Turn

__all__ = ["NOTHING", "TELL", "SwitchRiddle", "SwitchRiddleEnv", "all_visits", "optimal_return"]

NOTHING, TELL = 0, 1
"""Actions."""

Visits = NDArray[np.int64]


def optimal_return(prisoners: int) -> float:
    r"""The oracle's expected return: the probability that all have been in the room in time.

    .. math:: \sum_{k=0}^{n} (-1)^k \binom{n}{k} \left(\frac{n - k}{n}\right)^{4n - 6}
    """
    n, days = prisoners, 4 * prisoners - 6
    return sum((-1) ** k * math.comb(n, k) * ((n - k) / n) ** days for k in range(n + 1))


def all_visits(prisoners: int) -> Visits:
    """Every order of visits, equally likely, ``[n ** days, days]``: 729 for three prisoners, 1,048,576 for four."""
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


class SwitchRiddleEnv(ParallelEnv[str, NDArray[np.int64], NDArray[np.int64]]):
    """The riddle for PettingZoo, with the switch in it.

    An action is ``MultiDiscrete([2, 2])``: :data:`NOTHING` or :data:`TELL`, and how the switch is left. What prisoners
    do who are not in the room has no effect; ``info["action_mask"]`` says so, ``[2 + 2]``, 1 where legal.
    An observation is ``MultiDiscrete([2, 3])``: whether one is in the room, and the switch, 1 or 2 as the last visitor
    has left it, by choice 0 or 1; 0 where there is nothing to see, on the first day and outside.

    Args:
        prisoners: ``n``, at least 3.
        render_mode: ``"ansi"``: :meth:`render` returns a line about the day; None: there is nothing to see.
    """

    metadata = {"name": "switch_riddle_v0", "render_modes": ["ansi"]}  # noqa: RUF012 (PettingZoo's own form)

    def __init__(self, prisoners: int = 3, render_mode: str | None = None) -> None:
        self.riddle = SwitchRiddle(prisoners)
        self.render_mode = render_mode
        self.possible_agents = [f"prisoner_{i}" for i in range(prisoners)]
        self.agents: list[str] = []
        self.observation_spaces: dict[str, spaces.Space[Any]] = {
            agent: spaces.MultiDiscrete([2, 3]) for agent in self.possible_agents
        }
        self.action_spaces: dict[str, spaces.Space[Any]] = {
            agent: spaces.MultiDiscrete([2, 2]) for agent in self.possible_agents
        }
        self._rng = np.random.default_rng()

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """Whether one is in the room, and the switch."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """Whether one tells, and how the switch is left."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.int64]], dict[str, dict[str, Any]]]:
        """Begins the first day."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self.switch = 0
        return self._observe(self.riddle.reset(1, self._rng))

    def step(self, actions: dict[str, NDArray[np.int64]]) -> tuple[dict[str, Any], ...]:
        """Ends the day.

        Returns:
            Observations, rewards, terminated, truncated and infos; that the days are over is a termination.
        """
        chosen = np.array([actions[agent] for agent in self.agents])
        self.switch = 1 + int(chosen[self.riddle.visits[0, self.riddle.day], 1])
        turn, rewards, ended = self.riddle.step(chosen[None, :, 0])
        observations, infos = self._observe(turn)
        agents = self.agents
        if ended[0]:
            self.agents = []
        return (
            observations,
            {agent: float(reward) for agent, reward in zip(agents, rewards[0], strict=True)},
            dict.fromkeys(agents, bool(ended[0])),
            dict.fromkeys(agents, False),
            infos,
        )

    def render(self) -> str | None:
        """A line about the day, with ``render_mode="ansi"``."""
        if self.render_mode is None:
            return None
        day = self.riddle.day
        if day >= self.riddle.horizon or self.riddle.ended[0]:
            return f"day {day}: over"
        switch = ("untouched", "off", "on")[self.switch]
        return f"day {day + 1} of {self.riddle.horizon}: prisoner_{self.riddle.visits[0, day]}, switch {switch}"

    def _observe(self, turn: Turn) -> tuple[dict[str, NDArray[np.int64]], dict[str, dict[str, Any]]]:
        is_in = turn.observations[0, :, 0].astype(np.int64)
        seen = np.stack([is_in, is_in * self.switch], 1)
        masks = np.concatenate([turn.masks[0], np.ones((len(seen), 1)), is_in[:, None]], 1).astype(np.int8)
        observations = dict(zip(self.agents, seen, strict=True))
        infos = {agent: {"action_mask": mask} for agent, mask in zip(self.agents, masks, strict=True)}
        return observations, infos
