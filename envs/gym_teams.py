"""Teams of Gymnasium, with tuples of spaces and lists of rewards, for PettingZoo: level-based foraging, for one.

``lbforaging`` and ``rware`` are such; they register their environments when they are imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

__all__ = ["GymTeamEnv"]


class GymTeamEnv(ParallelEnv[str, Any, Any]):
    """A Gymnasium environment of several agents, of PettingZoo's Parallel interface. Agents are ``agent_0`` and so on.

    Args:
        env_id: Gymnasium's name of the environment, ``module:name`` of one that a module registers; its spaces are
            ``Tuple``, a part for each agent.
        time_limit: Steps after which an episode of it ends by itself: there all agents are truncated, whatever the
            environment calls it.

    Raises:
        TypeError: Its spaces are others.

    Example:
        >>> env = GymTeamEnv("lbforaging:Foraging-8x8-2p-2f-coop-v3", time_limit=50)  # doctest: +SKIP
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "gym_team_v0", "render_modes": []}

    def __init__(self, env_id: str, time_limit: int) -> None:
        module, colon, name = env_id.rpartition(":")
        if colon:
            import_module(module)
        self.env: Any = gym.make(name, disable_env_checker=True).unwrapped
        self.time_limit = time_limit
        seen, choices = self.env.observation_space, self.env.action_space
        if not isinstance(seen, spaces.Tuple) or not isinstance(choices, spaces.Tuple):
            raise TypeError(f"spaces of {env_id} must be Tuple, one part for each agent, but are {seen} and {choices}.")
        self.render_mode = None
        self.possible_agents = [f"agent_{i}" for i in range(len(choices.spaces))]
        self.agents: list[str] = []
        self._seen = dict(zip(self.possible_agents, seen.spaces, strict=True))
        self._choices = dict(zip(self.possible_agents, choices.spaces, strict=True))

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """Of an agent."""
        return self._seen[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """Of an agent."""
        return self._choices[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Begins an episode."""
        observations, _ = self.env.reset(seed=seed, options=options)
        self.agents, self.steps = list(self.possible_agents), 0
        return self._named(observations), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        """Lets all agents act.

        Returns:
            Observations, rewards, terminated, truncated and infos.
        """
        agents, self.steps = self.agents, self.steps + 1
        observations, rewards, terminated, truncated, _ = self.env.step(tuple(int(actions[agent]) for agent in agents))
        is_over = bool(np.all(terminated) or np.all(truncated))
        was_cut = is_over and (bool(np.all(truncated)) or self.steps >= self.time_limit)
        if is_over:
            self.agents = []
        named = {agent: float(reward) for agent, reward in zip(agents, list(rewards), strict=True)}
        ends = (dict.fromkeys(agents, is_over and not was_cut), dict.fromkeys(agents, was_cut))
        return self._named(observations), named, *ends, {agent: {} for agent in agents}

    def _named(self, observations: Any) -> dict[str, Any]:
        return {
            agent: np.asarray(each, np.float32) for agent, each in zip(self.possible_agents, observations, strict=True)
        }

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()
