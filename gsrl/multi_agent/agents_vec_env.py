"""All agents of many worlds as environments of Stable-Baselines3: for learners that know of a single agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from gsrl.multi_agent.vec_env import Joint, ParallelVecEnv

__all__ = ["AgentsVecEnv"]


class AgentsVecEnv(VecEnv):
    """Worlds in which each agent is an environment of its own: one learner acts for all, with the same parameters.

    Environment ``b * A + i`` is agent i of world b. It observes what the agent does, with zeros behind it up to the
    longest observation, and which agent it is, one-hot. Actions have the choices of the longest; one that is illegal
    means a legal one, of which as many as there are take turns. An episode's return is the agent's.

    Args:
        make_env: A function that makes a world, see :class:`gsrl.multi_agent.ParallelVecEnv`; all agents must act at
            every step, to the end.
        n_envs: Worlds.
        seed: See there.

    Raises:
        TypeError: ``make_env`` makes no Parallel environment with discrete actions.
        ValueError: ``n_envs`` is below 1; at a step: an agent does not act.

    Example:
        >>> from envs.mpe import SpreadEnv
        >>> from stable_baselines3 import PPO
        >>> env = AgentsVecEnv(SpreadEnv, 8)
        >>> env.num_envs, env.reset().shape  # three agents in each of eight worlds
        (24, (24, 21))
        >>> model = PPO("MlpPolicy", env)
    """

    def __init__(self, make_env: Callable[[], Any], n_envs: int, seed: int = 0) -> None:
        self.worlds = ParallelVecEnv(make_env, n_envs, (seed,))
        team = self.worlds.spaces
        self.agents, self.n_worlds = len(team.agents), n_envs
        self._numbers = np.broadcast_to(np.eye(self.agents, dtype=np.float32), (n_envs, self.agents, self.agents))
        shape = (team.O + self.agents,)
        observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)
        action_space: spaces.Space[Any] = spaces.Discrete(team.K)
        if team.n > 1:
            action_space = spaces.MultiDiscrete([team.K] * team.n)
        super().__init__(n_envs * self.agents, observation_space, action_space)
        self._returns, self._lengths = np.zeros((n_envs, self.agents)), np.zeros(n_envs, np.int64)
        self._choices = np.zeros((n_envs, self.agents, team.n), np.int64)

    def reset(self) -> NDArray[np.float32]:
        """Begins all worlds anew, each with the seed of its first agent if there are seeds."""
        seeds: list[Any] = list(self._seeds[:: self.agents])
        if seeds[0] is not None:
            self.worlds.seed_each(seeds)
        self._reset_seeds()
        self._returns[:], self._lengths[:] = 0.0, 0
        return self._observed(self.worlds.reset())

    def step_async(self, actions: NDArray[Any]) -> None:
        """Takes actions ``[n_envs A]`` or ``[n_envs A, n]``."""
        masks = self.worlds.joint.masks
        if not self.worlds.joint.active.all():
            world, agent = np.argwhere(~self.worlds.joint.active)[0].tolist()
            raise ValueError(
                f"env must let all agents act at every step, but {self.worlds.spaces.agents[agent]} of world {world} "
                "does not: a learner of single agents knows no turns."
            )
        choices = np.asarray(actions, np.int64).reshape(masks.shape[:-1])
        legal_first = np.argsort(~masks, -1, kind="stable")
        meant = np.take_along_axis(legal_first, (choices % masks.sum(-1))[..., None], -1)[..., 0]
        is_legal = np.take_along_axis(masks, choices[..., None], -1)[..., 0]
        self._choices = np.where(is_legal, choices, meant)

    def step_wait(self) -> tuple[Any, NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        """Lets the worlds make the step."""
        after, rewards, terminated, truncated = self.worlds.step(self._choices)
        self._returns += rewards
        self._lengths += 1
        over = self.worlds.over
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if over.any():
            final = self._observed(after)
            for world in np.flatnonzero(over).tolist():
                for agent in range(self.agents):
                    infos[world * self.agents + agent] = {
                        "terminal_observation": final[world * self.agents + agent],
                        "TimeLimit.truncated": bool(truncated[world, agent] and not terminated[world, agent]),
                        "episode": {"r": float(self._returns[world, agent]), "l": int(self._lengths[world]), "t": 0.0},
                    }
            self._returns[over], self._lengths[over] = 0.0, 0
        dones = np.repeat(over, self.agents)
        return self._observed(self.worlds.joint), rewards.astype(np.float32).ravel(), dones, infos

    def _observed(self, joint: Joint) -> NDArray[np.float32]:
        return np.concatenate([joint.observations, self._numbers], -1).reshape(self.num_envs, -1)

    def state_dict(self) -> dict[str, Any]:
        """Where all worlds are in their episodes, see :meth:`gsrl.multi_agent.ParallelVecEnv.state_dict`."""
        own = {"returns": self._returns.copy(), "lengths": self._lengths.copy()}
        return {**own, "worlds": self.worlds.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Brings as many worlds to where those of :meth:`state_dict` were, see there."""
        self.worlds.load_state_dict(state["worlds"])
        self._returns[...], self._lengths[...] = state["returns"], state["lengths"]

    def close(self) -> None:
        """Closes all worlds."""
        self.worlds.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Of worlds that are not shown there is no attribute but that they are not."""
        if attr_name == "render_mode":
            return [None for _ in self._get_indices(indices)]
        raise AttributeError(attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuses: agents of a world are no objects."""
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Refuses: agents of a world are no objects."""
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: VecEnvIndices = None) -> list[bool]:
        """Whether it does what a wrapper would: it tells of episodes as ``Monitor`` does."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]
