"""Environments of PettingZoo in another form. PettingZoo itself is not needed: what is around an environment is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from gsrl.checks import EnvironmentDataError
from gsrl.masking import MASK_KEY
from gsrl.multi_agent.vec_env import ACTIVE_KEY, given_mask
from gsrl.spaces import OneHotCodec

__all__ = ["ParallelWrapper", "Returned", "TurnBased"]

Returned: TypeAlias = tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]
"""Observations, rewards, terminated, truncated and infos, by agent."""


class ParallelWrapper:
    """What PettingZoo asks of a Parallel environment, and what a wrapper leaves as it is.

    Args:
        env: The environment within.

    Example:
        >>> from envs.mpe import SpreadEnv
        >>> class Halved(ParallelWrapper):
        ...     def step(self, actions):
        ...         observations, rewards, *rest = self.env.step(actions)
        ...         return observations, {agent: reward / 2 for agent, reward in rewards.items()}, *rest
        >>> str(Halved(SpreadEnv())), Halved(SpreadEnv()).max_num_agents
        ('Halved<spread_v0>', 3)
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self.possible_agents: list[str] = list(env.possible_agents)
        self.agents: list[str] = []
        self.metadata: dict[str, Any] = dict(getattr(env, "metadata", {}))
        self.render_mode: str | None = getattr(env, "render_mode", None)
        if hasattr(env, "state_space"):
            self.state_space: spaces.Space[Any] = env.state_space
        self.observation_spaces: dict[str, spaces.Space[Any]] = {
            agent: env.observation_space(agent) for agent in self.possible_agents
        }
        self.action_spaces: dict[str, spaces.Space[Any]] = {
            agent: env.action_space(agent) for agent in self.possible_agents
        }

    @property
    def unwrapped(self) -> Any:
        """The environment without any wrapper."""
        return self.env.unwrapped

    @property
    def num_agents(self) -> int:
        """How many agents there are now."""
        return len(self.agents)

    @property
    def max_num_agents(self) -> int:
        """How many agents there may be."""
        return len(self.possible_agents)

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """Of an agent."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """Of an agent."""
        return self.action_spaces[agent]

    def render(self) -> Any:
        """Whatever the environment within shows."""
        return self.env.render()

    def state(self) -> Any:
        """Of the environment within."""
        return self.env.state()

    def close(self) -> None:
        """Closes the environment within."""
        self.env.close()

    def __str__(self) -> str:
        return f"{type(self).__name__}<{self.env}>"


class TurnBased(ParallelWrapper):
    """A game in turns, of PettingZoo's AEC interface, as a Parallel environment in which one agent at a time is active.

    A step takes the action of the agent on turn; those of the others have no effect. ``info["active"]`` says who is on
    turn, from the reset on. The others have one legal choice, the first of each factor, in ``info["action_mask"]`` and
    in an entry ``"action_mask"`` of their observations.

    An agent's rewards add up until its next turn, or the end of its part, and come with the step that leads there, as
    ``last()`` of the AEC interface gives them. In between its reward is 0. So an agent's return is the same, and its
    time is counted in turns of its own.

    PettingZoo's ``turn_based_aec_to_parallel`` names the agent on turn in infos after steps alone, and leaves the masks
    of the others as they are: empty in connect four and Hanabi, those of the agent on turn in Leduc hold'em.

    Args:
        aec_env: The game.

    Raises:
        TypeError: It has not the AEC interface.
        EnvironmentDataError: At a step: an agent whose part has ended stays.

    Example:
        >>> from pettingzoo.classic import tictactoe_v3
        >>> game = TurnBased(tictactoe_v3.env())
        >>> observations, infos = game.reset(seed=0)
        >>> [info["active"] for info in infos.values()]
        [True, False]
        >>> _, _, _, _, infos = game.step({"player_1": 4, "player_2": 0})
        >>> infos["player_2"]["action_mask"]  # all but the middle
        array([1, 1, 1, 1, 0, 1, 1, 1, 1], dtype=int8)
    """

    def __init__(self, aec_env: Any) -> None:
        if not all(hasattr(aec_env, name) for name in ("agent_iter", "last", "possible_agents")):
            raise TypeError(f"aec_env must be an AEC environment of PettingZoo, but got {aec_env}.")
        super().__init__(aec_env)
        self.metadata["is_parallelizable"] = True
        self._off_turn: dict[str, NDArray[np.int8]] = {}
        self._all: dict[str, NDArray[np.int8]] = {}
        for agent, space in self.action_spaces.items():
            codec = OneHotCodec(space)
            self._all[agent] = np.ones(sum(codec.sizes), np.int8)
            self._off_turn[agent] = np.zeros(sum(codec.sizes), np.int8)
            self._off_turn[agent][codec.first_choices] = 1

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Begins a game."""
        self.env.reset(seed=seed, options=options)
        self.agents = list(self.env.agents)
        return self._look()

    def step(self, actions: Mapping[str, Any]) -> Returned:
        """Takes the action of the agent on turn.

        Returns:
            Observations, rewards, terminated, truncated and infos, of all agents that were there.
        """
        env, agents = self.env, self.agents
        env.step(actions[env.agent_selection])
        rewards: dict[str, Any] = dict.fromkeys(agents, 0.0)
        terminated, truncated = dict.fromkeys(agents, False), dict.fromkeys(agents, False)
        final: dict[str, Any] = {}
        final_infos: dict[str, Any] = {}
        while env.agents:
            agent = env.agent_selection
            if agent in final:
                raise EnvironmentDataError(f"agents must not keep those whose part has ended, but keeps {agent}")
            observation, reward, has_terminated, was_truncated, info = env.last()
            rewards[agent] = reward
            if not (has_terminated or was_truncated):
                break
            terminated[agent], truncated[agent] = bool(has_terminated), bool(was_truncated)
            final[agent], final_infos[agent] = observation, dict(info)
            env.step(None)  # which lets it leave
        self.agents = list(env.agents)
        observations, infos = self._look()
        return {**observations, **final}, rewards, terminated, truncated, {**infos, **final_infos}

    def _look(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Observations and infos of all that are there."""
        observations, infos = {}, {}
        for agent in self.agents:
            observation, info = self.env.observe(agent), self.env.infos.get(agent, {})
            is_on = agent == self.env.agent_selection
            mask: NDArray[Any] | None = self._off_turn[agent]
            if is_on:
                mask = given_mask(observation, info)
            elif isinstance(observation, Mapping) and MASK_KEY in observation:
                observation = {**observation, MASK_KEY: self._off_turn[agent].copy()}
            observations[agent] = observation
            infos[agent] = {**info, ACTIVE_KEY: is_on, MASK_KEY: np.array(self._all[agent] if mask is None else mask)}
        return observations, infos
