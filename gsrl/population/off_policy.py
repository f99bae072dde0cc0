"""Populations of agents with replay: one array of transitions, one update of all."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import TrainFrequencyUnit
from torch import Tensor

from gsrl.algorithms.discrete_sac import DiscreteSAC
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Estimator, make_estimator
from gsrl.estimators.base import draw_noise_in_lockstep
from gsrl.masking import current_masks, to_matrix
from gsrl.normalization import Normalization
from gsrl.population.base import Population, PopulationCallback
from gsrl.relaxations import gumbel_noise
from gsrl.replay import PersistentExploration, ReplayBatch, ReplayBuffer, stack_of
from gsrl.replay.checks import successor_observations
from gsrl.spaces import OneHotCodec

__all__ = ["OffPolicyPopulation"]


class OffPolicyPopulation(Population, of=DiscreteSAC):
    """A :class:`gsrl.Population` of :class:`gsrl.DiscreteSAC`: one update serves all members.

    Attributes:
        replay_buffer: The transitions of all members.

    Example:
        >>> settings = {"learning_starts": 4, "batch_size": 4}
        >>> population = gsrl.Population(gsrl.DiscreteSAC, "CartPole-v1", seeds=range(3), **settings)
        >>> isinstance(population, OffPolicyPopulation)
        True
        >>> population.learn(6).sample().rewards.shape  # a batch of each member
        torch.Size([3, 4, 3])
    """

    def _make_member(self, index: int, environments: Sequence[gym.Env], device: torch.device | str) -> DiscreteSAC:
        member: DiscreteSAC = super()._make_member(index, environments, device)
        frequency: Any = member.train_freq  # a TrainFreq by now
        if frequency.unit is not TrainFrequencyUnit.STEP:
            raise ValueError(
                f"train_freq must count steps in a population, but got {self.settings[index]['train_freq']!r}: the "
                "episodes of members end at different times."
            )
        return member

    def _member_arguments(self, settings: dict[str, Any]) -> dict[str, Any]:
        estimator, temperature = settings.pop("estimator", None), settings.pop("temperature")
        return {**settings, "estimator": self._make_estimator(estimator, temperature)}

    def _make_estimator(self, estimator: str | Estimator | None, temperature: float | None) -> str | Estimator:
        """A member's own estimator."""
        if estimator is None:
            estimator = str(inspect.signature(self.algorithm).parameters["estimator"].default)
        if isinstance(estimator, Estimator):
            if temperature is not None:
                raise ValueError(f"temperature must be None where estimator is an object, but got {temperature}.")
            return copy.deepcopy(estimator)
        if temperature is None:
            return estimator
        codec = OneHotCodec(self._environments[0].action_space)
        try:
            return make_estimator(estimator, shape=(codec.n, codec.K), temperature=temperature)
        except TypeError as error:
            raise ValueError(f"temperature must be None for {estimator}, but got {temperature}: {error}") from error

    def _begin(self) -> None:
        self._num_updates = 0
        self.replay_buffer = self._make_replay_buffer(masked=False)

    def _make_replay_buffer(self, *, masked: bool, once: bool | None = None) -> ReplayBuffer:
        first = self._members[0]
        once = first.optimize_memory_usage if once is None else once
        return ReplayBuffer(
            first.buffer_size,
            first.observation_space,
            first.action_space,
            self.device,
            self.n_envs,
            gamma=[member.gamma for member in self._members],
            reward_scale=[1.0 if each.reward_scale == "auto" else each.reward_scale for each in self._members],
            n_steps=[member.n_steps for member in self._members],
            stepwise=first.n_step_correction,
            masked=masked,
            stack=stack_of(self.env) if once else None,
            generator=[member._replay_generator for member in self._members],
            num_members=len(self._members),
        )

    def _prepare(self) -> None:
        super()._prepare()
        members: list[DiscreteSAC] = self._members
        for member in members:
            member.replay_buffer = None  # it would only take memory: the population's has the rows of all
        self._normalization = Normalization.stacked([member._normalization for member in members])
        # Estimators without a state have nothing to advance.
        self._stepped = [(i, member.estimator) for i, member in enumerate(members) if member.estimator.state_dict()]
        self._template = members[0]._template
        self._target_entropy = torch.stack([member._target_entropy for member in members])
        ratios = [member._target_entropy_ratio for member in members]
        self._target_entropy_ratio = torch.tensor(ratios, device=self.device)[:, None, None]
        self._scheduled = [(i, member.ent_coef) for i, member in enumerate(members) if callable(member.ent_coef)]
        rates = [member.learning_rate for member in members]
        self._constant_learning_rate = None
        if not any(map(callable, rates)):
            self._constant_learning_rate = torch.tensor(rates, dtype=torch.float64, device=self.device)
        self._exploration = None
        if any(member.exploration_eps > 0 for member in members):
            self._exploration = PersistentExploration.stacked([member._exploration for member in members])
        self._tau = torch.tensor([member.tau for member in members], dtype=torch.float64, device=self.device)

    # Training

    def _before_reset(self) -> None:
        self.replay_buffer.end_episodes()
        self._normalization.cut()

    def _set_masked(self, masked: bool) -> None:
        super()._set_masked(masked)
        if masked != self.replay_buffer.masked:
            if len(self.replay_buffer):
                raise ValueError("env gives action masks at some resets and not at others.")
            self.replay_buffer = self._make_replay_buffer(masked=masked)

    def _advance(self, callback: PopulationCallback) -> int:
        first: DiscreteSAC = self._members[0]
        steps = self._collect(callback)
        # Here, not after the updates: actions were read back, so that no device needs to be waited for.
        self._report_diverged()
        if self.num_timesteps > first.learning_starts:
            policies = [member.policy for member in self._members]
            self._normalization.renew(policies, [steps is None for steps in self.stopped_at])
            for _ in range(first.gradient_steps if first.gradient_steps >= 0 else steps):
                self.update(self._normalization.normalized(self.sample()))
        return steps

    def _collect(self, callback: PopulationCallback) -> int:
        """Takes the steps between two updates; returns how many of each member."""
        steps = self._members[0].train_freq.frequency
        for _ in range(steps):
            if self._watch.is_disturbed():
                self._before_reset()
                self._begin_episodes()
                self.stopwatch.lap("environment")
            actions = self._act()
            self.stopwatch.lap("acting")
            observations, rewards, dones, infos = self.env.step(actions)
            count, masks = self._watch.count(), current_masks(self.env, infos, dones)  # callbacks may go on stepping
            self.stopwatch.lap("environment")
            self.num_timesteps += self.n_envs
            if dones.any():
                self._end_episodes(callback, dones, infos)
                self.stopwatch.lap("callbacks")
            successors = successor_observations(observations, dones, infos, None)
            self.replay_buffer.add(self._last_obs, successors, actions, rewards, dones, infos, self._last_masks)
            self._normalization.add(self._last_obs, rewards, dones, infos)
            self._last_obs = observations
            self._set_next_masks(masks)
            self._watch.settle(count)
            self.stopwatch.lap("replay")
        return steps * self.n_envs

    def _act(self) -> NDArray[Any]:
        """Actions of all sub-environments: of the policies, or random ones before learning starts."""
        if self.num_timesteps >= self._members[0].learning_starts:
            return super()._act()
        head = self._members[0].policy.actor.head
        legal = head.mask
        if self._last_masks is not None:
            matrix = to_matrix(head.codec, self._last_masks)
            legal = self._grouped(torch.as_tensor(matrix, device=self.device))
        noise = self._acting_noise()
        uniform = FactoredCategorical(torch.zeros_like(noise), legal, validate_args=False)
        return self._members[0].policy.actor.to_actions(uniform.sample_indices(noise=noise).cpu().numpy())

    def _acting_noise(self) -> Tensor:
        if self._exploration is None:
            return super()._acting_noise()
        return self._exploration.advance(self.lockstep.generators)

    def sample(self) -> ReplayBatch:
        """Draws a batch of transitions for each member, ``[S, B, ...]``."""
        batch = self.replay_buffer.sample(self._members[0].batch_size)
        self.stopwatch.lap("replay")
        return batch

    def update(self, batch: ReplayBatch) -> None:
        """Does one update of all members.

        Args:
            batch: With a leading dimension of members.
        """
        first = self._members[0]
        first.policy.set_training_mode(True)
        if self._template.batch_shape != batch.actions.shape[1:-1]:
            zeros = torch.zeros(*batch.actions.shape[1:-1], *self._template.event_shape, device=self.device)
            self._template = FactoredCategorical(zeros, validate_args=False)
        noise, next_noise = draw_noise_in_lockstep(first.estimator, self._template, self.lockstep.generators), None
        if first.policy.critic.form == "network":
            next_noise = self._draw_next_noise(batch.rewards.shape[1:])
        target_entropy = self._target_entropy
        if batch.action_mask is not None:
            target_entropy = self._target_entropy_ratio * batch.action_mask.sum(-1).log()
        for index, ent_coef in self._scheduled:
            if self.stopped_at[index] is None:
                self._members[index].entropy_coefficient.fill_(ent_coef(self._remaining()))
        for member, stopped_at in zip(self._members, self.stopped_at, strict=True):
            member._n_updates += stopped_at is None
        self._num_updates += 1
        is_due = self._num_updates % first.target_update_interval == 0
        metrics = self.lockstep.update(
            batch,
            noise,
            target_entropy,
            next_noise,
            learning_rate=self._learning_rate(),
            tau=self._tau if is_due else None,
            noise=self.lockstep.draw_noise(batch.actions.shape[1:-1]),
        )
        for index, estimator in self._stepped:
            if self.stopped_at[index] is None:
                estimator.step(metrics["expected_q"][index])
        self.stopwatch.lap("update")

    def _draw_next_noise(self, shape: torch.Size) -> Tensor:
        """Gumbel noise ``[S, B * N, n, K]`` for the steps of windows; each member draws what it would draw alone."""
        event_shape = self._template.event_shape
        lengths = [1 if len(shape) == 1 else member.n_steps for member in self._members]
        if len(set(lengths)) == 1:
            return gumbel_noise((len(self), shape.numel(), *event_shape), generator=self.lockstep.generators)
        noise = torch.zeros(len(self), *shape, *event_shape, device=self.device)  # beyond a window, any will do
        for own, length, generator in zip(noise, lengths, self.lockstep.generators, strict=True):
            own[:, :length] = gumbel_noise((shape[0], length, *event_shape), generator=generator)
        return noise.flatten(1, 2)

    def _learning_rate(self) -> Tensor:
        """Of each member, float64 ``[S]``."""
        if self._constant_learning_rate is not None:
            return self._constant_learning_rate
        rates = [member.lr_schedule(self._remaining()) for member in self._members]
        return torch.tensor(rates, dtype=torch.float64).to(self.device, non_blocking=True)

    def _remaining(self) -> float:
        """Share of the training that is to come; a single agent's ``_current_progress_remaining``."""
        return max(0.0, 1.0 - self.num_timesteps / self._total_timesteps) if self._total_timesteps else 1.0

    def _training_scalars(self) -> list[dict[str, float]]:
        metrics = self.lockstep.metrics
        if not metrics:
            return [{} for _ in self._members]
        largest, target_entropy = metrics["q"].reshape(len(self), -1).amax(-1), metrics["target_entropy"].sum(-1)
        rows = self.lockstep.scalars(target_entropy=target_entropy, q_max=largest)
        for row, member, learning_rate in zip(rows, self._members, self._learning_rate().tolist(), strict=True):
            row |= {"train/learning_rate": learning_rate, "train/n_updates": float(member._n_updates)}
        return rows

    # Members and state

    def _agent_state(self, index: int) -> dict[str, Any]:
        return {**super()._agent_state(index), "replay_buffer": self.replay_buffer.member_state(index)}

    def _keep(self, indices: Sequence[int]) -> None:
        before = self.replay_buffer
        self.replay_buffer = self._make_replay_buffer(masked=before.masked, once=before.stack is not None)
        self.replay_buffer.load_members(before, indices)

    def _own_state(self) -> dict[str, Any]:
        return {"replay_buffer": self.replay_buffer.state_dict(), "num_updates": self._num_updates}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        once = "frames" in state["replay_buffer"]
        self.replay_buffer = self._make_replay_buffer(masked=state["masked"], once=once)
        self.replay_buffer.load_state_dict(state["replay_buffer"])
        self._num_updates = state["num_updates"]
