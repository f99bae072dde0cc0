"""Many agents in lock-step, whatever they learn by: acting, evaluation, members that come and go, saving."""

from __future__ import annotations

import inspect
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from types import MappingProxyType
from typing import Any, BinaryIO, ClassVar, Literal, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gsrl import checkpoint
from gsrl._progress import show_progress
from gsrl._random import environment_seeds
from gsrl._settings import fixed
from gsrl._trees import map_arrays
from gsrl.algorithms.base import Algorithm
from gsrl.algorithms.saving import DEFAULTS
from gsrl.checkpoint import copied
from gsrl.checks import check_finite, raise_non_finite, to_numpy
from gsrl.distributions import FactoredCategorical
from gsrl.evaluation import EpisodeLimit
from gsrl.learning import Lockstep, Mapped
from gsrl.learning.trace import is_worth_compiling
from gsrl.masking import adapt, current_masks, to_matrix
from gsrl.relaxations import gumbel_noise
from gsrl.timing import Stopwatch
from gsrl.vec_env import LONGEST_EPISODE, StepWatch, SyncVecEnv, has_time_limit, monitored

__all__ = ["VECTORS", "Episode", "Population", "PopulationCallback"]

EnvFactory: TypeAlias = str | Callable[[], gym.Env]

VECTORS = (
    "learning_rate",
    "gamma",
    "reward_scale",
    "tau",
    "ent_coef",
    "target_entropy",
    "target_entropy_ratio",
    "temperature",
    "n_steps",
    "exploration_eps",
    "n_episodes",
    "gae_lambda",
    "normalize_advantage",
    "critic_updates",
)
"""Settings that may differ between members, where the algorithm has them: those that change no shape."""


REFUSED = {
    "seed": "each member has one of seeds",
    "tensorboard_log": "a PopulationCallback writes what Population.scalars returns",
    "_init_setup_model": "members are built at once",
}
"""Arguments of the algorithm that a population does not take, and why."""


class Episode(NamedTuple):
    """A training episode that ended.

    Example:
        >>> Episode(member=0, steps=20, episode_return=20.0, length=20).episode_return
        20.0
    """

    member: int
    """Index of the member."""
    steps: int
    """Steps of the member by then."""
    episode_return: float
    """Undiscounted."""
    length: int
    """In steps."""


class PopulationCallback:
    """What is called while a population learns; override what is needed.

    Example:
        >>> class Returns(PopulationCallback):
        ...     def __init__(self):
        ...         self.returns = []
        ...
        ...     def on_episodes(self, population, episodes):
        ...         self.returns += [episode.episode_return for episode in episodes]
        >>> callback = Returns()
        >>> _ = Population(gsrl.Reinforce, "CartPole-v1", seeds=range(2), n_episodes=1).learn(100, callback)
        >>> len(callback.returns) > 1
        True
    """

    def on_rollout_start(self, population: Population) -> bool | None:
        """Called between updates and the next steps, where nothing is under way. False ends the training."""

    def on_episodes(self, population: Population, episodes: Sequence[Episode]) -> None:
        """Called when episodes have ended, after the step in which they did."""


@fixed("algorithm", "policy", "n_envs", "compile", "seeds", "settings")
class Population:
    """S members that learn in lock-step, each by itself: independent seeds, or settings, in one batched computation.

    Networks are stacked, and one update serves all members; there is one replay array, and one vectorised environment
    of S times ``n_envs`` sub-environments. Members share nothing that one could notice: each has the networks, random
    numbers and environments that ``algorithm(policy, env, seed=seed)`` would have. So its streams of random numbers do
    not depend on its company at all, and its parameters only by rounding.

    A member whose loss or policy is not finite is reported by a warning and frozen; the others go on.

    What is made is an object of the subclass for the algorithm: :class:`gsrl.population.OffPolicyPopulation` or
    :class:`gsrl.population.OnPolicyPopulation`.

    Args:
        algorithm: :class:`gsrl.DiscreteSAC`, :class:`gsrl.Reinforce`, or a subclass that changes its construction
            alone.
        env: Gymnasium's name of the environment, or a function that makes one.
        seeds: Seed of each member.
        policy: See the algorithm.
        n_envs: Environments of each member.
        temperature: Of the estimator named by ``estimator``, where the algorithm has one; None: the estimator's own
            default.
        device: Of networks and noise.
        compile: Whether acting and updates in lock-step are compiled, see :class:`gsrl.learning.Learner`. ``"auto"``:
            from the first ``learn`` on that has enough steps to come, see
            :func:`gsrl.learning.trace.is_worth_compiling`; with ``verbose`` it says so.
        **settings: Of the algorithm. Each of :data:`VECTORS` may be a sequence with a value for each member.

    Attributes:
        seeds: The same, as a list.
        settings: The settings of each member, which cannot be changed.
        env: The vectorised environment, the members' one after another.
        num_timesteps: Steps of each member.
        lockstep: What members have in common: their learners, and who of them still learns.
        stopped_at: Steps after which each member was frozen, by :meth:`stop` or because it diverged; None: it learns.
        stopwatch: Where the time went.

    Raises:
        TypeError: ``algorithm`` is another one; ``env`` is an environment instead of a way to make many; an argument is
            of another kind.
        ValueError: A setting is out of range, has another length than ``seeds``, or must be the same for all members.

    Example:
        >>> population = Population(gsrl.Reinforce, "CartPole-v1", seeds=range(2), n_episodes=1).learn(10)
        >>> population.evaluate(n_eval_episodes=1).shape
        (2, 1)
        >>> type(population.member(0)).__name__
        'Reinforce'
    """

    _vec_env_class: ClassVar[type[SyncVecEnv]] = SyncVecEnv
    _implementations: ClassVar[dict[type[Algorithm], type[Population]]] = {}

    def __init_subclass__(cls, of: type[Algorithm] | None = None) -> None:
        """Adds a subclass to those that :class:`Population` makes, for the algorithm that it is ``of``."""
        super().__init_subclass__()
        if of is not None:
            Population._implementations[of] = cls

    def __new__(cls, algorithm: type[Algorithm], *args: Any, **kwargs: Any) -> Population:
        """Makes an object of the subclass for the algorithm."""
        if cls is not Population:
            return super().__new__(cls)
        for of, implementation in cls._implementations.items():
            if isinstance(algorithm, type) and issubclass(algorithm, of):
                return super().__new__(implementation)
        names = " or ".join(of.__name__ for of in cls._implementations)
        raise TypeError(f"algorithm must be {names}, or a subclass, but got {algorithm!r}.")

    def __init__(
        self,
        algorithm: type[Algorithm],
        env: EnvFactory,
        seeds: Iterable[int],
        *,
        policy: str | type = "MlpPolicy",
        n_envs: int = 1,
        temperature: float | Sequence[float] | None = None,
        device: torch.device | str = "auto",
        compile: bool | Literal["auto"] = False,
        **settings: Any,
    ) -> None:
        if not (isinstance(env, str) or callable(env)) or isinstance(env, gym.Env | VecEnv):
            raise TypeError(
                "env must be the name of an environment or a function that makes one, since every member needs its "
                f"own, but got {type(env).__name__}."
            )
        self.seeds = _checked_seeds("seeds", seeds)
        if not self.seeds:
            raise ValueError("seeds must hold at least one seed, but got none.")
        if not isinstance(n_envs, int) or n_envs < 1:
            raise ValueError(f"n_envs must be an integer of at least 1, but got {n_envs!r}.")
        for name in settings.keys() & REFUSED.keys():
            raise TypeError(f"Population has no argument {name!r}: {REFUSED[name]}.")
        self.algorithm = algorithm
        if compile not in (False, True, "auto"):
            raise ValueError(f"compile must be True, False or 'auto', but got {compile!r}.")
        self.policy = policy
        self.n_envs = n_envs
        self.compile = compile
        self._make_env = _factory(env)
        self.settings = _settings_of_members({"temperature": temperature, **settings}, len(self.seeds))
        environments = [self._make_env() for _ in range(len(self.seeds) * n_envs)]
        self._environments = environments
        self._members = [
            self._make_member(index, environments[index * n_envs : (index + 1) * n_envs], device)
            for index in range(len(self.seeds))
        ]
        self.device = self._members[0].device
        self.num_timesteps = 0
        self.stopped_at: list[int | None] = [None] * len(self.seeds)
        self.stopwatch = Stopwatch()
        self._last_obs: Any = None
        self._last_masks: NDArray[Any] | None = None
        self._masked = False
        self._total_timesteps = 0
        self._is_learning = False
        self._final_states: list[dict[str, Any] | None] = [None] * len(self.seeds)  # of members that were frozen
        self._make_env_of_all([each for seed in self.seeds for each in environment_seeds(n_envs, seed, "environment")])
        self._lock()
        self._begin()
        self.is_built = True

    # Construction

    def _make_member(self, index: int, environments: Sequence[gym.Env], device: torch.device | str) -> Any:
        settings = dict(self.settings[index])
        if index > 0:
            settings["verbose"] = 0  # what it says, the first one has said
        vec_env = SyncVecEnv([_given(env) for env in environments])
        arguments = self._member_arguments(settings)
        member: Any = self.algorithm(self.policy, vec_env, seed=self.seeds[index], device=device, **arguments)
        member.ep_info_buffer, member.ep_success_buffer = (deque(maxlen=member.stats_window_size) for _ in range(2))
        return member

    def _member_arguments(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The algorithm's arguments, from a member's settings, which may be written to."""
        raise NotImplementedError

    def _begin(self) -> None:
        """Makes what is there before the first step, beside the members."""
        raise NotImplementedError

    def _make_env_of_all(self, seeds: Sequence[int | None]) -> None:
        env = self._vec_env_class([_given(env) for env in self._environments])
        env._seeds = list(seeds)  # of the first reset
        self.env: VecEnv = self.algorithm._wrap_env(env)
        self._watch = StepWatch(self.env)
        self._longest_episode = None if has_time_limit(env) else LONGEST_EPISODE

    def _lock(self) -> None:
        """Makes the members' networks rows of those in lock-step."""
        members = self._members
        generators = [member.generator for member in members]
        try:
            self.lockstep = Lockstep(
                [member.learner for member in members], self.seeds, generators, compile=self.compile is True
            )
        except ValueError as error:
            raise ValueError(f"settings that change networks must be the same for all members: {error}") from error
        for module in members[0].learner.loss.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                raise ValueError("members must not have networks with dropout: they have no generators for it.")
        self._prepare()

    def _prepare(self) -> None:
        """Makes what is of the members as they are now, beside their environments."""
        self._choices = Mapped(self.lockstep, _scores, ["actor"], "the choice of actions")

    @property
    def diverged(self) -> list[bool]:
        """Whether each member was frozen because its loss was not finite."""
        return list(self.lockstep.diverged)

    # Training

    def learn(
        self,
        total_timesteps: int,
        callback: PopulationCallback | None = None,
        *,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Population:
        """Trains every member for ``total_timesteps`` more steps.

        Args:
            total_timesteps: Environment steps of each member.
            callback: Called along the way.
            reset_num_timesteps: Whether steps and episodes are counted from 0, and new episodes begin.
            progress_bar: Whether a progress bar is shown; needs tqdm.

        Returns:
            This population.
        """
        callback = callback or PopulationCallback()
        if self.compile == "auto":
            self._weigh_compiling(total_timesteps)
        self._set_up(total_timesteps, reset=reset_num_timesteps)
        self.stopwatch.start()
        self._is_learning = True
        try:
            with show_progress(self._total_timesteps, self.num_timesteps, shown=progress_bar) as bar:
                while self.num_timesteps < self._total_timesteps and None in self.stopped_at:
                    if callback.on_rollout_start(self) is False:
                        break
                    self.stopwatch.lap("callbacks")
                    steps = self._advance(callback)
                    bar.update(steps)
        finally:
            self._is_learning = False
        self._report_diverged()
        return self

    def _weigh_compiling(self, total_timesteps: int) -> None:
        rounds = total_timesteps / self.n_envs
        if is_worth_compiling(rounds, in_lockstep=True) and not self.lockstep.compile:
            self.lockstep.compile_updates()
            self._prepare()
            if self._members[0].verbose:
                print(f"acting and updates are compiled: {rounds:,.0f} of them earn back the time that takes")

    def _set_up(self, total_timesteps: int, *, reset: bool) -> None:
        self._total_timesteps = total_timesteps
        if reset:
            self.num_timesteps = 0
            self.stopwatch = Stopwatch()
            for member in self._members:
                member._episode_num = 0
                for buffer in (member.ep_info_buffer, member.ep_success_buffer):
                    buffer.clear()
        else:
            self._total_timesteps += self.num_timesteps
        if reset or self._last_obs is None:
            self._before_reset()
            self._last_obs = self.env.reset()
            self._watch.settle()
            self._last_masks = current_masks(self.env)
            self._set_masked(self._last_masks is not None)

    def _before_reset(self) -> None:
        """Called before all environments are reset."""
        raise NotImplementedError

    def _begin_episodes(self) -> None:
        """Resets all environments in the middle of a training, since somebody else has reset or stepped them."""
        self._last_obs = self.env.reset()
        self._set_next_masks(current_masks(self.env))
        self._watch.settle()

    def _set_next_masks(self, masks: NDArray[Any] | None) -> None:
        self._last_masks = masks
        if (masks is not None) != self._masked:
            raise ValueError('env must give info["action_mask"] at every reset and step, or never.')

    def _set_masked(self, masked: bool) -> None:
        """Called when it is known whether the environments give masks."""
        self._masked = masked

    def _advance(self, callback: PopulationCallback) -> int:
        """Takes a step or more, and learns; returns how many steps of each member."""
        raise NotImplementedError

    def _end_episodes(self, callback: PopulationCallback, dones: NDArray[Any], infos: list[dict[str, Any]]) -> None:
        """Counts the episodes that ended, and tells of them."""
        episodes = []
        for i in dones.nonzero()[0].tolist():
            member = i // self.n_envs
            self._members[member]._episode_num += 1
            self._members[member]._update_info_buffer([infos[i]], dones[i : i + 1])
            ended = infos[i].get("episode")  # not if a wrapper around Monitor ended it
            if ended is not None:
                episodes.append(Episode(member, self.num_timesteps, float(ended["r"]), int(ended["l"])))
        if episodes:
            callback.on_episodes(self, episodes)

    def _act(self) -> NDArray[Any]:
        """Actions of all sub-environments, of the policies."""
        return self._choose(obs_as_tensor(self._last_obs, self.device), self._last_masks, self._acting_noise())

    def predict(
        self, observations: Any, action_masks: NDArray[Any] | None = None, *, deterministic: bool = False
    ) -> NDArray[Any]:
        """Returns the actions of all members, each at its own observations.

        Args:
            observations: ``[S * m, ...]``, those of a member next to each other; an array, or a dict of arrays.
            action_masks: Flat masks ``[S * m, L]``, see :mod:`gsrl.masking`.
            deterministic: Whether the most probable choices are taken; else they are sampled.

        Raises:
            gsrl.checks.NonFiniteError: An observation or a parameter is not finite; the message says which.
            ValueError: There are not equally many observations of each member.
        """
        tensors, _ = self._members[0].policy.obs_to_tensor(observations)
        count = len(tree_leaves(tensors)[0])
        if count % len(self):
            raise ValueError(f"observations must be equally many of each of {len(self)} members, but got {count}.")
        check_finite(tensors, (count,))
        noise = None if deterministic else self._action_noise(count // len(self))
        return self._choose(tensors, action_masks, noise, freeze=False)

    def _choose(
        self, tensors: Any, action_masks: NDArray[Any] | None, noise: Tensor | None, *, freeze: bool = True
    ) -> NDArray[Any]:
        """:meth:`predict` for observations that are tensors, and known to fit; without noise, the most probable.

        Args:
            tensors: Observations.
            action_masks: Flat masks.
            noise: Gumbel noise, or None.
            freeze: Whether a member whose parameters are not finite, or too large, is frozen; otherwise it is an error.
        """
        first = self._members[0]
        first.policy.set_training_mode(False)
        mask = None
        if action_masks is not None:
            matrix = to_matrix(first.policy.actor.head.codec, action_masks)
            mask = self._grouped(torch.as_tensor(matrix, device=self.device))
        tensors = map_arrays(self._grouped, tensors)
        with torch.no_grad():
            scores = self._choices(tensors, mask, noise)
        values, is_nan = to_numpy(scores)
        if is_nan:
            values = self._without_nan(values, tensors, mask, freeze=freeze)
        return first.policy.actor.to_actions(values.argmax(-1))

    def _without_nan(
        self, scores: NDArray[Any], observations: Any, mask: Tensor | None, *, freeze: bool
    ) -> NDArray[Any]:
        """Scores ``[S, m, n, K]`` by which members that are frozen, or are frozen now, take legal choices, any."""
        check_finite(observations, scores.shape[:2])
        lost = np.isnan(scores).any((1, 2, 3))
        if not freeze and (lost & self.lockstep.alive.cpu().numpy()).any():
            raise_non_finite(scores, observations, self._named_tensors())
        self.lockstep.alive.logical_and_(torch.as_tensor(~lost, device=self.device))
        self._report_diverged()
        uniform = torch.zeros(scores.shape[1:])
        for index in np.flatnonzero(lost):
            legal = self._members[0].policy.actor.head.legal(None if mask is None else mask[index])
            scores[index] = uniform if legal is None else uniform.masked_fill(~legal.cpu(), -torch.inf)
        return scores

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers that actions depend on, of each member."""
        for name, stacked in self.lockstep.tensors("actor").items():
            for index, tensor in enumerate(stacked):
                yield f"{name} of member {index}", tensor

    def _action_noise(self, count: int) -> Tensor:
        """Gumbel noise of ``count`` actions of each member."""
        codec = self._members[0].policy.actor.head.codec
        return gumbel_noise((len(self), count, codec.n, codec.K), generator=self.lockstep.generators)

    def _acting_noise(self) -> Tensor:
        """That of the next actions of all sub-environments."""
        return self._action_noise(self.n_envs)

    def _grouped(self, tensor: Tensor) -> Tensor:
        """``[S * m, ...]`` as ``[S, m, ...]``."""
        return tensor.view(len(self._members), -1, *tensor.shape[1:])

    def scalars(self) -> list[dict[str, float]]:
        """What the algorithm's ``dump_logs`` logs, of each member: of its episodes, and of the last update.

        Names are the same. Times are left out, and so is what is not finite.
        """
        rows = self._training_scalars()
        for row, member in zip(rows, self._members, strict=True):
            episodes = member.ep_info_buffer or ()
            figures = {
                "ep_len_mean": [episode["l"] for episode in episodes],
                "ep_rew_mean": [episode["r"] for episode in episodes],
                "success_rate": member.ep_success_buffer,
            }
            row |= {f"rollout/{name}": float(np.mean(values)) for name, values in figures.items() if values}
        return [{name: value for name, value in sorted(row.items()) if np.isfinite(value)} for row in rows]

    def _training_scalars(self) -> list[dict[str, float]]:
        """Those of the last update of each member, if there was one."""
        raise NotImplementedError

    def _report_diverged(self) -> None:
        """Warns of the members that the last updates have frozen."""
        for index in self.lockstep.newly_diverged():
            self._freeze(index)
            warnings.warn(
                f"member {index}, of seed {self.seeds[index]}, diverged at {self.num_timesteps} steps: its loss is not "
                "finite. It is frozen, the others go on. Try a lower learning_rate, smaller rewards, or max_grad_norm.",
                stacklevel=3,
            )

    def _freeze(self, index: int) -> None:
        """Remembers all of a member but its replay, as it is."""
        self._final_states[index] = self._member_state(index)
        self.stopped_at[index] = self.num_timesteps

    # Members

    def __len__(self) -> int:
        """S, the number of members."""
        return len(self._members)

    def member(self, index: int) -> Algorithm:
        """Returns a copy of a member as it is now: an ordinary agent, with replay and an environment of its own.

        It predicts, saves and goes on learning alone, from new episodes. A member that was frozen is as it was then,
        with the replay of now, if there is one.

        Args:
            index: Of the member, from 0.
        """
        index = range(len(self))[index]
        agent: Algorithm = self._make_member(index, [self._make_env() for _ in range(self.n_envs)], self.device)
        agent.load_state_dict(self._agent_state(index))
        agent._seed_resumed_environments()
        return agent

    def _agent_state(self, index: int) -> dict[str, Any]:
        """The state of a member as an agent by itself."""
        return self._member_state(index)

    def stop(self, index: int) -> None:
        """Freezes a member as it is, for good; the others go on.

        Its environments are stepped still, into its replay if there is one, and to no other effect.
        """
        self._report_diverged()
        index = range(len(self))[index]
        if self.stopped_at[index] is None:
            self._freeze(index)
            self.lockstep.freeze(index)

    def keep(self, indices: Sequence[int]) -> None:
        """Goes on with some of the members alone, which then cost less; they are numbered anew, in this order.

        Not to be called in the middle of a step, as by :meth:`PopulationCallback.on_episodes`.

        Args:
            indices: Of the members to keep.

        Raises:
            ValueError: There is none, or one is named twice.
        """
        indices = [range(len(self))[index] for index in indices]
        if not indices or len(set(indices)) < len(indices):
            raise ValueError(f"indices must name at least one member, and each once, but got {indices}.")
        for index in indices:
            self._synchronise(index)
        resets = [self.env.unwrapped.reset_infos[row] for row in self._rows(indices)]
        self._environments = [self._environments[row] for row in self._rows(indices)]
        if self._last_obs is not None:
            self._last_obs = map_arrays(lambda array: array[self._rows(indices)], self._last_obs)
        if self._last_masks is not None:
            self._last_masks = self._last_masks[self._rows(indices)]
        seeds = [self.env.unwrapped._seeds[row] for row in self._rows(indices)]
        is_disturbed = self._watch.is_disturbed()
        self.is_built = False  # of other members now
        for name in ("_members", "seeds", "settings", "stopped_at", "_final_states"):
            values = getattr(self, name)
            setattr(self, name, [values[index] for index in indices])
        self.is_built = True
        self._make_env_of_all(seeds)
        if self._last_obs is not None:
            self.env.unwrapped.reset_infos = resets
        if not is_disturbed:
            self._watch.settle()
        self.lockstep.keep(indices)
        self._prepare()
        self._keep(indices)

    def _keep(self, indices: Sequence[int]) -> None:
        """The part of :meth:`keep` that is about what there is beside the members."""
        raise NotImplementedError

    def evaluate(
        self,
        n_eval_episodes: int = 10,
        *,
        seeds: Sequence[int] | None = None,
        n_envs: int = 5,
        deterministic: bool = True,
        max_episode_steps: int | None = None,
        callback: Callable[[], None] = lambda: None,
    ) -> NDArray[np.float64]:
        """Evaluates all members at once, each in environments of its own.

        What a member gets is what :func:`gsrl.evaluation.evaluate_policy` gives it in ``n_envs`` environments. Their
        episodes are not those of the training, and the same at each call with the same seeds.

        Args:
            n_eval_episodes: Episodes of each member.
            seeds: From which those of each member's environments are derived; the members' own if None.
            n_envs: Environments that a member's episodes are shared out to.
            deterministic: Whether the most probable actions are taken.
            max_episode_steps: Steps after which an episode is cut off, see :func:`gsrl.evaluation.evaluate_policy`.
            callback: Called at every step.

        Returns:
            The undiscounted returns, ``[S, n_eval_episodes]``.

        Raises:
            ValueError: An argument is out of range; the message names it.
        """
        for name, value in (("n_eval_episodes", n_eval_episodes), ("n_envs", n_envs)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, but got {value}.")
        seeds = self.seeds if seeds is None else _checked_seeds("seeds", seeds)
        if len(seeds) != len(self):
            raise ValueError(f"seeds must be one for each of {len(self)} members, but got {len(seeds)}.")
        if not self._is_learning:
            self.stopwatch.start()
        sub_environments = SyncVecEnv([self._make_env] * (len(self) * n_envs))
        sub_environments._seeds = [each for seed in seeds for each in environment_seeds(n_envs, seed, "evaluation")]
        env = self.algorithm._wrap_env(sub_environments)
        left = np.array([(n_eval_episodes + row % n_envs) // n_envs for row in range(env.num_envs)])
        limit = EpisodeLimit(env, max_episode_steps)
        returns: list[list[float]] = [[] for _ in range(len(self))]
        observations, masks = env.reset(), current_masks(env)
        while left.any():
            tensors, _ = self._members[0].policy.obs_to_tensor(observations)
            noise = None if deterministic else self._action_noise(n_envs)
            actions = self._choose(tensors, masks, noise)
            observations, rewards, dones, infos = env.step(actions)
            masks = current_masks(env, infos, dones)
            limit.add(rewards)
            over = {
                row: infos[row]["episode"]["r"]
                for row in dones.nonzero()[0].tolist()
                if left[row] and not limit.waiting[row] and "episode" in infos[row]
            }
            limit.end([*over])
            over |= limit.cut(left > 0)
            for row, episode_return in over.items():
                left[row] -= 1
                returns[row // n_envs].append(episode_return)
            callback()
            if limit.is_reached_by_all(left > 0):
                observations, masks = env.reset(), current_masks(env)
        limit.warn()
        env.close()
        self.stopwatch.lap("evaluation")
        return np.array(returns, dtype=np.float64)

    # State

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while the population learns, as a tree that :func:`gsrl.checkpoint.save` stores.

        It is a copy, which does not change with its owner. It does not hold where the environments are.
        """
        return {
            "members": [self._member_state(index) for index in range(len(self))],
            "masked": self._masked,
            "num_timesteps": self.num_timesteps,
            "total_timesteps": self._total_timesteps,
            "alive": self.lockstep.alive.clone(),
            "stopped_at": self.stopped_at.copy(),
            "diverged": self.diverged,
            "last_obs": copied(self._last_obs),
            "last_masks": copied(self._last_masks),
            **self._own_state(),
        }

    def _own_state(self) -> dict[str, Any]:
        """What a subclass adds to :meth:`state_dict`."""
        raise NotImplementedError

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        """Restores it, from the state of all."""
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`, of a population of the same members.

        Raises:
            gsrl.checkpoint.CheckpointError: An entry is missing or has another shape.
            ValueError: There is another number of members.
        """
        own = ("num_timesteps", "total_timesteps", "alive", "stopped_at", "diverged", *self._own_state())
        checkpoint.check_entries(state, dict.fromkeys(("members", "masked", "last_obs", "last_masks", *own)))
        if len(state["members"]) != len(self):
            raise ValueError(f"state must hold {len(self)} members, but got {len(state['members'])}.")
        checkpoint.check_counts(state, "num_timesteps", "total_timesteps")
        counts = {len(state[name]) for name in ("alive", "stopped_at", "diverged")}
        if not isinstance(state["masked"], bool) or counts != {len(self)}:
            raise ValueError(f"masked, alive, stopped_at and diverged must be of {len(self)} members.")
        for member, member_state in zip(self._members, state["members"], strict=True):
            member.load_state_dict(member_state)
        self.lockstep.restore(state["alive"], state["diverged"], [each is not None for each in state["stopped_at"]])
        self._masked = state["masked"]
        self._load_own_state(state)
        self.num_timesteps, self._total_timesteps = state["num_timesteps"], state["total_timesteps"]
        self.stopped_at = list(state["stopped_at"])
        self._last_obs, self._last_masks = state["last_obs"], state["last_masks"]
        self._watch.settle()  # they are where these observations were, or will be reset
        self._final_states = [
            None if stopped_at is None else copied(member_state)
            for member_state, stopped_at in zip(state["members"], self.stopped_at, strict=True)
        ]

    def save(self, path: str | os.PathLike[str] | BinaryIO) -> None:
        """Saves the population with all that it has, as tensors and JSON: loading such a file runs no code.

        Args:
            path: Path or binary file object.
        """
        settings = [dict(each) for each in self.settings]
        members = {"seeds": self.seeds, "settings": settings, "n_envs": self.n_envs, "policy": self.policy}
        kind = {"population": self.algorithm.__name__, "defaults": DEFAULTS}
        checkpoint.save(path, {**kind, **members, **self.state_dict()})

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | BinaryIO,
        algorithm: type[Algorithm],
        env: EnvFactory,
        *,
        device: torch.device | str = "auto",
        compile: bool | Literal["auto"] = False,
        custom_objects: dict[str, Any] | None = None,
        trusted: bool = False,
    ) -> Population:
        """Loads a saved population, which goes on where it was, with new episodes.

        Args:
            path: What :meth:`save` wrote.
            algorithm: Of the members, as it was.
            env: See :class:`Population`.
            device: Of networks and noise.
            compile: Whether the update is compiled.
            custom_objects: Values that take the place of saved ones, such as ``settings`` with learning-rate functions.
            trusted: Whether classes that gsrl does not know are imported. This runs code of the file's choosing.

        Raises:
            gsrl.checkpoint.CheckpointError: The file is damaged, is no saved population, or its members are of another
                algorithm.
        """
        tree = checkpoint.load(path, trusted=trusted, replace=custom_objects or {})
        with checkpoint.fitting(path):
            names = ("population", "seeds", "settings", "n_envs", "policy", "members")
            checkpoint.check_entries(tree, dict.fromkeys(names))
        if tree["population"] != algorithm.__name__:
            raise checkpoint.CheckpointError(
                f"{path} holds members that are {tree['population']}, but algorithm is {algorithm.__name__}."
            )
        with closing(_factory(env)()) as example:
            spaces = example.observation_space, example.action_space
        with checkpoint.fitting(path):
            policy_class, defaults = (
                algorithm.policy_aliases.get(tree["policy"], tree["policy"]),
                tree.get("defaults", 0),
            )
            tree["settings"] = [algorithm.earlier_settings(each, policy_class, defaults) for each in tree["settings"]]
            merged = _merged_settings(tree)
            if not custom_objects:
                _check_saved(algorithm, spaces, tree)
            population = cls(
                algorithm,
                env,
                tree["seeds"],
                policy=tree["policy"],
                n_envs=tree["n_envs"],
                device=device,
                compile=compile,
                **merged,
            )
            population.load_state_dict(tree)
            for index, member in enumerate(population._members):
                member._check_restored(population.n_envs)
                checkpoint.check_finite(member.policy.state_dict(), f"member {index} of {path}")
        population.begin_anew()
        return population

    def begin_anew(self) -> None:
        """Lets the training go on with new episodes, whose seeds are derived from each member's and its steps."""
        self._last_obs = None
        if self.num_timesteps:
            self.env.unwrapped._seeds = [
                each
                for seed in self.seeds
                for each in environment_seeds(self.n_envs, seed, "resumption", self.num_timesteps)
            ]

    def close(self) -> None:
        """Closes the environments."""
        self.env.close()

    def __getstate__(self) -> dict[str, Any]:
        """Refused, for copies and pickles: members would no longer be rows of the learner's tensors."""
        raise TypeError("a population cannot be copied: save and load it, or take copies of its members.")

    def _rows(self, indices: Sequence[int]) -> list[int]:
        """The sub-environments of some members."""
        return [index * self.n_envs + j for index in indices for j in range(self.n_envs)]

    def _synchronise(self, index: int) -> None:
        """Tells a member what only the population has counted."""
        member = self._members[index]
        member.num_timesteps = self.num_timesteps
        member._total_timesteps = self._total_timesteps
        if self._total_timesteps:
            member._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        member.masked = self._masked

    def _member_state(self, index: int) -> dict[str, Any]:
        final = self._final_states[index]
        if final is not None:
            return copied(final)
        self._synchronise(index)
        state: dict[str, Any] = self._members[index]._saved_state(())
        return state


def _merged_settings(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of all members of a saved population, as the constructor takes them."""
    seeds, settings, members = (tree[name] for name in ("seeds", "settings", "members"))
    if not len(seeds) == len(settings) == len(members):
        raise ValueError(
            f"seeds, settings and members must be as many, but got {len(seeds)}, {len(settings)} and {len(members)}"
        )
    values = {name: [each.get(name) for each in settings] for name in settings[0]}
    return {name: each if name in VECTORS else each[0] for name, each in values.items()}


def _check_saved(algorithm: type[Algorithm], spaces: Sequence[gym.Space[Any]], tree: Mapping[str, Any]) -> None:
    """Compares the networks of saved settings with the parameters that are there, before they take any memory."""
    names = set(inspect.signature(algorithm).parameters)
    settings = {name: value for name, value in tree["settings"][0].items() if name in names}
    make: Any = algorithm  # whose constructor has the arguments of a subclass
    agent = make(tree["policy"], None, _init_setup_model=False, **settings | {"verbose": 0})
    agent.observation_space, agent.action_space = spaces
    for member in tree["members"]:
        agent._check_saved_policy(member["parameters"])
    count, last = tree["n_envs"], tree.get("last_obs")
    if isinstance(last, dict):
        last = next(iter(last.values()))
    most = checkpoint.SMALL if last is None else len(last)
    if not isinstance(count, int) or not 1 <= count <= most // len(tree["members"]):
        raise ValueError(f"n_envs must be an integer of at least 1, and that of last_obs, but got {count!r}")


def _given(env: gym.Env) -> Callable[[], gym.Env]:
    """A function that returns the environment, for what makes them by functions."""
    return lambda: env


def _factory(env: EnvFactory) -> Callable[[], gym.Env]:
    """A function that makes an environment as the algorithm would wrap it."""

    def make() -> gym.Env:
        made = adapt(gym.make(env) if isinstance(env, str) else env())
        return monitored(made)

    return make


def _checked_seeds(name: str, seeds: Iterable[int]) -> list[int]:
    if not isinstance(seeds, Iterable):
        raise TypeError(f"{name} must be several seeds, one a member, but got {seeds!r}.")
    checked = list(seeds)
    for seed in checked:
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise ValueError(f"{name} must be integers of at least 0, but got {seed!r}.")
    return [int(seed) for seed in checked]


def _settings_of_members(settings: dict[str, Any], count: int) -> list[Mapping[str, Any]]:
    """The settings of each member."""
    for name, value in settings.items():
        if isinstance(value, np.ndarray | Tensor) and value.ndim == 0:
            settings[name] = value.item()
            continue
        if not isinstance(value, list | np.ndarray | Tensor | range) and not (
            isinstance(value, tuple) and name in VECTORS
        ):
            continue
        if name not in VECTORS:
            raise ValueError(
                f"{name} must be the same for all members, but got {value!r}: what may differ is {', '.join(VECTORS)}."
            )
        if len(value) != count:
            raise ValueError(f"{name} must be one value, or one for each of {count} members, but got {len(value)}.")
        settings[name] = value.tolist() if isinstance(value, np.ndarray | Tensor) else list(value)
    temperatures = settings["temperature"]
    for temperature in temperatures if isinstance(temperatures, list) else [temperatures]:
        if not isinstance(temperature, int | float | None):
            raise TypeError(
                f"temperature must be a number, but got {type(temperature).__name__}: a schedule is given to an "
                "estimator, by gsrl.make_estimator."
            )
    members: list[Mapping[str, Any]] = [
        MappingProxyType({k: value[index] if isinstance(value, list) else value for k, value in settings.items()})
        for index in range(count)
    ]
    # What is a number, and what begins with one word, has one form of loss.
    for name in ("ent_coef", "reward_scale"):
        forms = {
            str(value).partition("_")[0] if isinstance(value, str) else "" for value in (m.get(name) for m in members)
        }
        if len(forms) > 1:
            raise ValueError(f"{name} must be a number for all members, or the same word, but got {settings[name]}.")
    return members


def _scores(loss: Any, observations: Any, mask: Tensor | None, noise: Tensor | None) -> Tensor:
    """What a member's choices are made by, ``[m, n, K]``: logits, or logits and noise."""
    policy: FactoredCategorical = loss.actor(observations, mask)
    return policy.logits if noise is None else policy.perturbed(noise=noise)
