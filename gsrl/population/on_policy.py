"""Populations of agents that learn from whole episodes: they act together, and each learns when its own are over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from gsrl._trees import map_arrays
from gsrl.algorithms.reinforce import Reinforce, warn_of_endless_episode
from gsrl.masking import current_masks
from gsrl.population.base import Population, PopulationCallback
from gsrl.replay import Episodes
from gsrl.replay.checks import checked_transition, successor_observations
from gsrl.vec_env import SyncVecEnv

__all__ = ["OnPolicyPopulation"]


class _PartlyReset(SyncVecEnv):
    """Environments of which some are reset while the others stay where they are.

    Attributes:
        rows: Which ones the next reset is of; None: all.
    """

    rows: Sequence[int] | None = None

    def reset(self) -> VecEnvObs:
        """Returns the first observations of those that are reset; what it returns of the others means nothing."""
        if self.rows is None:
            return super().reset()
        for i in self.rows:
            observation, self.reset_infos[i] = self.envs[i].reset()
            self._save_obs(i, observation)
        return self._obs_from_buf()


class OnPolicyPopulation(Population, of=Reinforce):
    """A :class:`gsrl.Population` of :class:`gsrl.Reinforce`: members act in one batch, and learn one by one.

    Episodes of members end at different times. When those of a member's rollout are over, it learns from them, as it
    would alone; the others do not wait for it. After ``total_timesteps`` steps the training pauses where it is: what is
    there of a rollout is kept, also by :meth:`state_dict`, and is finished when the training goes on. So a member is
    what an agent would be that a callback ends after as many steps.

    Example:
        >>> population = gsrl.Population(gsrl.Reinforce, "CartPole-v1", seeds=range(2), n_episodes=1).learn(5)
        >>> isinstance(population, OnPolicyPopulation)
        True
        >>> population.predict(np.zeros((2, 4), np.float32)).shape
        (2,)
    """

    _vec_env_class = _PartlyReset

    def _member_arguments(self, settings: dict[str, Any]) -> dict[str, Any]:
        temperature = settings.pop("temperature")
        if temperature is not None:
            raise ValueError(
                f"temperature must be None, but got {temperature}: {self.algorithm.__name__} has no estimator with one."
            )
        return settings

    def _begin(self) -> None:
        for member in self._members:
            member.check_n_episodes()
        self._rollouts = [self._new_rollout(index) for index in range(len(self))]
        self._scalars: list[dict[str, float]] = [{} for _ in self._members]  # of the last update of each
        self._episode_starts = np.ones(len(self) * self.n_envs, np.bool_)

    def _new_rollout(self, index: int) -> Episodes:
        return Episodes(self._members[index].n_episodes, self.n_envs)

    # Training

    def _before_reset(self) -> None:
        self._begin()

    def _set_masked(self, masked: bool) -> None:
        if self._masked and not masked:
            raise ValueError("env gives action masks at some resets and not at others.")
        super()._set_masked(masked)

    def _advance(self, callback: PopulationCallback) -> int:
        if self._watch.is_disturbed():
            for index, _ in self._learning():
                self._members[index]._episode_num += int(self._cut(index, Episodes.cut).sum())
            self._learn_from_complete()
            self._begin_episodes()
            self._episode_starts = np.ones_like(self._episode_starts)
        self._reset_those_that_begin()
        self.stopwatch.lap("environment")
        actions = self._act()
        self.stopwatch.lap("acting")
        observations, rewards, dones, infos = self.env.step(actions)
        count, next_masks = self._watch.count(), current_masks(self.env, infos, dones)  # callbacks may go on stepping
        self.stopwatch.lap("environment")
        self.num_timesteps += self.n_envs
        successors = successor_observations(observations, dones, infos, None)
        checked_transition(self._members[0]._layout, len(dones), self._last_obs, successors, rewards, dones)
        ended = np.zeros_like(dones)
        for index, rows in self._learning():
            masks = None if self._last_masks is None else self._last_masks[rows]
            last_obs = map_arrays(itemgetter(rows), self._last_obs)
            step = (actions[rows], rewards[rows], dones[rows], infos[rows], masks)
            ended[rows] = dones[rows] & self._rollouts[index].add(last_obs, *step)
        self._last_obs, self._episode_starts = observations, dones
        self._set_next_masks(next_masks)
        self._watch.settle(count)
        is_cut = self._longest_episode is not None and self._cut_what_does_not_end(self._longest_episode)
        self.stopwatch.lap("acting")
        if ended.any():
            self._end_episodes(callback, ended, infos)
            self.stopwatch.lap("callbacks")
        if is_cut or ended.any():
            self._learn_from_complete()
            self._report_diverged()
        return self.n_envs

    def _cut(self, index: int, how: Callable[[Episodes, Any], NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """Truncates the open episodes of a member, by a method of its rollout."""
        rows = slice(index * self.n_envs, (index + 1) * self.n_envs)
        return how(self._rollouts[index], map_arrays(itemgetter(rows), self._last_obs))

    def _cut_what_does_not_end(self, longest: int) -> bool:
        """Cuts off rollouts with an episode of so many steps, as :class:`gsrl.Reinforce` does; whether there were."""
        is_cut = False
        for index, _ in self._learning():
            rollout = self._rollouts[index]
            if len(rollout) >= longest and rollout.longest_open() >= longest:
                warn_of_endless_episode(longest)
                self._members[index]._episode_num += int(self._cut(index, Episodes.finish).sum())
                is_cut = True
        return is_cut

    def _learn_from_complete(self) -> None:
        """Lets those members learn whose rollouts are complete."""
        for index, _ in self._learning():
            if self._rollouts[index].are_complete():
                self._update(index)

    def _learning(self) -> list[tuple[int, slice]]:
        """Members that are not frozen, and their environments."""
        return [
            (index, slice(index * self.n_envs, (index + 1) * self.n_envs))
            for index, stopped_at in enumerate(self.stopped_at)
            if stopped_at is None
        ]

    def _reset_those_that_begin(self) -> None:
        """Resets the environments of members that begin a rollout, unless all of a member's begin an episode."""
        rows = [
            row
            for index, own in self._learning()
            if not self._rollouts[index] and not self._episode_starts[own].all()
            for row in range(own.start, own.stop)
        ]
        if not rows:
            return
        venv = self.env.unwrapped
        assert isinstance(venv, _PartlyReset)
        venv.rows = rows
        first = self.env.reset()
        venv.rows = None

        def take(latest: NDArray[Any], first: NDArray[Any]) -> NDArray[Any]:
            latest = latest.copy()
            latest[rows] = first[rows]
            return latest

        self._last_obs = map_arrays(take, self._last_obs, first)
        masks = current_masks(self.env)
        if self._last_masks is not None and masks is not None:
            self._last_masks = take(self._last_masks, masks)
        self._episode_starts = take(self._episode_starts, np.ones_like(self._episode_starts))
        self._watch.settle()

    def _update(self, index: int) -> None:
        """Lets a member learn from its rollout, and freezes it as it was if that is not finite."""
        member: Reinforce = self._members[index]
        before = self._member_state(index)
        member.train(self._rollouts[index].rollout(member.policy.actor.head.codec, self.device))
        self._rollouts[index] = self._new_rollout(index)
        if not all(bool(p.isfinite().all()) for p in member.policy.parameters()):
            member.load_state_dict(before)
            self.lockstep.alive[index] = False
        else:
            scalars = {**member.training_scalars(), "n_updates": float(member._n_updates)}
            self._scalars[index] = {f"train/{name}": value for name, value in scalars.items()}
        self.stopwatch.lap("update")

    def _training_scalars(self) -> list[dict[str, float]]:
        return [dict(scalars) for scalars in self._scalars]

    # Members and state

    def _keep(self, indices: Sequence[int]) -> None:
        self._rollouts = [self._rollouts[index] for index in indices]
        self._scalars = [self._scalars[index] for index in indices]
        rows = [index * self.n_envs + j for index in indices for j in range(self.n_envs)]
        self._episode_starts = self._episode_starts[rows]

    def _own_state(self) -> dict[str, Any]:
        return {
            "rollouts": [rollout.state_dict() for rollout in self._rollouts],
            "episode_starts": self._episode_starts.copy(),
            "scalars": self._training_scalars(),
        }

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        for rollout, rollout_state in zip(self._rollouts, state["rollouts"], strict=True):
            rollout.load_state_dict(rollout_state)
        self._episode_starts = state["episode_starts"].copy()
        self._scalars = [dict(scalars) for scalars in state["scalars"]]
