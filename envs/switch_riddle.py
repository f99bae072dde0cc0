"""The switch riddle of :mod:`gsrl.comms.riddle` for PettingZoo, with the switch in it."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from gsrl.comms.dial import Turn
from gsrl.comms.riddle import SwitchRiddle

__all__ = ["SwitchRiddleEnv"]


class SwitchRiddleEnv(ParallelEnv[str, NDArray[np.int64], NDArray[np.int64]]):
    """The riddle, with the switch in it.

    An action is ``MultiDiscrete([2, 2])``: choice 0, nothing, or 1, to tell, and how the switch is left. What prisoners
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
