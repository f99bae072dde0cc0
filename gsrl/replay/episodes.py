"""Rollouts of whole episodes, for on-policy algorithms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor

from gsrl._trees import map_arrays
from gsrl.masking import to_matrix
from gsrl.spaces import OneHotCodec

__all__ = ["Episodes", "Rollout"]


class Rollout(NamedTuple):
    """Whole episodes, one after the other: E episodes of B steps in all.

    Example:
        >>> of_steps, of_episodes = torch.zeros(3, 1), torch.zeros(2, 1)
        >>> episode, time = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])  # an episode of two steps, and one of one
        >>> rollout = Rollout(
        ...     of_steps, of_steps.long(), torch.ones(3), episode, time, of_episodes, torch.zeros(2).bool()
        ... )
        >>> rollout.padded(rollout.rewards)
        tensor([[1., 1.],
                [1., 0.]])
    """

    observations: Tensor | dict[str, Tensor]
    """``[B, ...]``."""
    actions: Tensor
    """Index of the choice of every factor, int64 ``[B, n]``."""
    rewards: Tensor
    """float32 ``[B]``."""
    episode: Tensor
    """Which episode a step belongs to, int64 ``[B]``."""
    time: Tensor
    """Its place there, int64 ``[B]``."""
    final_observations: Tensor | dict[str, Tensor]
    """What the last step of each episode led to, ``[E, ...]``."""
    truncated: Tensor
    """Which episodes were cut off there, bool ``[E]``; the others terminated."""
    action_mask: Tensor | None = None
    """True where a choice is legal, bool ``[B, n, K]``; None: all are."""

    def padded(self, values: Tensor) -> Tensor:
        """Values ``[B]`` as a row an episode, ``[E, T]``, with zeros after its end."""
        rows = values.new_zeros(len(self.truncated), int(self.time.max()) + 1)
        rows[self.episode, self.time] = values
        return rows


class Episodes:
    """The episodes of a rollout while they are played: equally many of each environment, from beginning to end.

    Args:
        n_episodes: How many in all.
        n_envs: Environments, which divide them.

    Example:
        >>> from gymnasium import spaces
        >>> episodes = Episodes(n_episodes=1, n_envs=1)
        >>> for t, done in enumerate([False, True]):
        ...     infos = [{"terminal_observation": np.array([9])}]
        ...     kept = episodes.add(np.array([[t]]), np.array([0]), np.array([1.0]), np.array([done]), infos, None)
        >>> rollout = episodes.rollout(OneHotCodec(spaces.Discrete(2)), torch.device("cpu"))
        >>> episodes.are_complete(), rollout.rewards, rollout.final_observations
        (True, tensor([1., 1.]), tensor([[9]]))
    """

    def __init__(self, n_episodes: int, n_envs: int) -> None:
        self._left = np.full(n_envs, n_episodes // n_envs)
        self._steps: list[dict[str, Any]] = []
        self._finals: list[list[Any]] = [[] for _ in range(n_envs)]
        self._truncated: list[list[bool]] = [[] for _ in range(n_envs)]
        self._began = np.zeros(n_envs, np.int64)  # at which step each open episode did

    def __len__(self) -> int:
        """Steps of all environments so far."""
        return len(self._steps)

    def are_complete(self) -> bool:
        """Whether all are over."""
        return not self._left.any()

    def add(
        self,
        observations: Any,
        actions: NDArray[Any],
        rewards: NDArray[Any],
        dones: NDArray[Any],
        infos: Sequence[Mapping[str, Any]],
        masks: NDArray[Any] | None,
    ) -> NDArray[np.bool_]:
        """Keeps a step of all environments; returns of which, ``[n_envs]``.

        The others are through with their episodes, or were only being reset (``infos[i]["dummy_step"]``).

        Raises:
            ValueError: An episode ended without a final observation.
        """
        kept = (self._left > 0) & [not info.get("dummy_step", False) for info in infos]
        step = {"actions": actions, "rewards": rewards, "dones": dones, "kept": kept, "masks": masks}
        # A copy: whoever made the array may write over it.
        self._steps.append({"observations": map_arrays(np.array, observations), **step})
        if dones.any():
            ended = dones & kept
            for i in np.flatnonzero(ended).tolist():
                if "terminal_observation" not in infos[i]:
                    raise ValueError("env must give infos[i]['terminal_observation'] where an episode ends.")
                self._finals[i].append(infos[i]["terminal_observation"])
                self._truncated[i].append(bool(infos[i].get("TimeLimit.truncated", False)))
            self._left -= ended
            self._began[dones] = len(self)
        return kept

    def longest_open(self) -> int:
        """Steps of the longest of the episodes that are wanted and not over."""
        return int((len(self) - self._began).max(where=self._left > 0, initial=0))

    def cut(self, observations: Any) -> NDArray[np.bool_]:
        """Truncates the open episodes where they are, as their environments are about to be reset or left.

        Args:
            observations: What the last step led to.

        Returns:
            Of which environments one was cut, ``[n_envs]``. Those without a step are not there yet.
        """
        if not self._steps:
            return np.zeros_like(self._left, np.bool_)
        last = self._steps[-1]
        is_open = last["kept"] & ~last["dones"]
        last["dones"] = last["dones"] | is_open
        for i in np.flatnonzero(is_open).tolist():
            self._finals[i].append(map_arrays(lambda array, i=i: np.array(array[i]), observations))
            self._truncated[i].append(True)
        self._left -= is_open
        self._began[:] = len(self)
        return is_open

    def finish(self, observations: Any) -> NDArray[np.bool_]:
        """Truncates the open episodes, and goes without those that have not begun; see :meth:`cut`."""
        is_open = self.cut(observations)
        self._left[:] = 0
        return is_open

    def rollout(self, codec: OneHotCodec, device: torch.device) -> Rollout:
        """What was kept, environment by environment.

        Args:
            codec: Of the action space.
            device: Where the tensors go.
        """
        kept = np.stack([step["kept"] for step in self._steps], 1)  # [n_envs, T]

        def flat(*steps: NDArray[Any]) -> NDArray[Any]:
            return np.stack(steps, 1)[kept]

        def column(name: str) -> NDArray[Any]:
            return flat(*(step[name] for step in self._steps))

        ends = column("dones")
        episode = np.cumsum(ends) - ends
        first = np.concatenate([[0], np.flatnonzero(ends)[:-1] + 1])
        observations = map_arrays(flat, *(step["observations"] for step in self._steps))
        finals = [final for of_env in self._finals for final in of_env]
        final_observations = map_arrays(lambda array, *each: np.stack(each).astype(array.dtype), observations, *finals)
        mask = None if self._steps[0]["masks"] is None else to_matrix(codec, column("masks"))
        return Rollout(
            obs_as_tensor(observations, device),
            torch.as_tensor(codec.to_indices(column("actions")), device=device),
            torch.as_tensor(column("rewards"), dtype=torch.float32, device=device),
            torch.as_tensor(episode, device=device),
            torch.as_tensor(np.arange(len(episode)) - first[episode], device=device),
            obs_as_tensor(final_observations, device),
            torch.tensor([each for of_env in self._truncated for each in of_env], device=device),
            None if mask is None else torch.as_tensor(mask, device=device),
        )

    def state_dict(self) -> dict[str, Any]:
        """What was played so far, as a tree that :func:`gsrl.checkpoint.save` stores."""
        steps = None if not self._steps else map_arrays(lambda *each: np.stack(each), *self._steps)
        finals = [[map_arrays(np.array, final) for final in of_env] for of_env in self._finals]
        truncated = [list(of_env) for of_env in self._truncated]
        return {"left": self._left.copy(), "steps": steps, "finals": finals, "truncated": truncated}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`, of as many environments."""
        self._left = state["left"].copy()
        self._finals = [list(of_env) for of_env in state["finals"]]
        self._truncated = [list(of_env) for of_env in state["truncated"]]
        count = 0 if state["steps"] is None else len(state["steps"]["dones"])
        self._steps = [map_arrays(lambda column, t=t: column[t], state["steps"]) for t in range(count)]
        for t, step in enumerate(self._steps, start=1):
            self._began[step["dones"]] = t
