"""What the algorithms share: environments with masks, their own random numbers, saving and loading without pickle."""

from __future__ import annotations

import io
import math
import os
import pathlib
import warnings
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, VectorEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import check_for_correct_spaces, get_device, get_system_info
from stable_baselines3.common.vec_env import (
    SubprocVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecNormalize,
    is_vecenv_wrapped,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from gsrl import checkpoint
from gsrl._random import (
    default_generator_lent,
    environment_seed,
    environment_seeds,
    seed_of,
    seed_sequence,
)
from gsrl._settings import Setting
from gsrl._validation import is_number
from gsrl.algorithms.deferred import DeferredValues
from gsrl.algorithms.policies import ActorPolicy
from gsrl.algorithms.saving import DEFAULTS, SavedModule
from gsrl.masking import adapt, check_masks, current_masks, has_method, shows_masks
from gsrl.replay.checks import successor_observations
from gsrl.spaces import OneHotCodec
from gsrl.timing import Stopwatch
from gsrl.vec_env import GymnasiumVecEnv, StepWatch, SyncVecEnv, monitored, seed_environments

__all__ = ["Algorithm", "check_spaces"]

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="Algorithm")

COUNTERS = (
    "num_timesteps",
    "_total_timesteps",
    "_num_timesteps_at_start",
    "_episode_num",
    "_n_updates",
    "_current_progress_remaining",
)
"""Progress of the training, as Stable-Baselines3 names it."""


class Algorithm(BaseAlgorithm):
    """A Stable-Baselines3 algorithm over discrete actions that owns its random numbers and heeds action masks.

    Its state is tensors and numbers: files are read without running any code, and an agent that was restored goes on as
    if nothing had happened.

    Settings can be assigned: ``model.gamma = 0.9`` holds from the next step on, and is checked as by the constructor. A
    setting that what is built depends on is :attr:`FIXED`, and raises ``AttributeError``.

    Attributes:
        generator: Torch generator of actions and noise.
        masked: Whether the environments give action masks.
        stopwatch: The :class:`gsrl.timing.Stopwatch` of the training.

    Example:
        >>> model = gsrl.Reinforce("MlpPolicy", "CartPole-v1", seed=0)
        >>> isinstance(model, Algorithm), model.masked
        (True, False)
        >>> model.gamma = 0.9  # holds from the next step on
        >>> model.gamma = 2.0
        Traceback (most recent call last):
            ...
        ValueError: gamma must be in [0, 1], but got 2.0.
    """

    SETTINGS: ClassVar[tuple[str, ...]]
    """Constructor arguments that a saved model holds; each is an attribute of the same name."""
    EARLIER: ClassVar[Mapping[str, Any]] = {}
    """Settings whose defaults have changed, or that are new, and what they were: see :meth:`earlier_settings`."""
    EARLIER_THAN_2: ClassVar[Mapping[str, Any]] = {}
    """The same of those that changed from the first to the second set of defaults that files name."""
    REFUSED: ClassVar[Mapping[str, str]]
    """Arguments of Stable-Baselines3, or of its policies, that the algorithm does not have, and why."""
    FIXED: ClassVar[Mapping[str, str]] = {
        "policy_kwargs": "the networks are built",
        "seed": "random numbers go on from where they are; set_random_seed begins anew",
    }
    """Settings that cannot change once the agent is built, and why."""
    COUNTERS: ClassVar[tuple[str, ...]] = COUNTERS
    """Numbers that advance with the training."""
    INCLUDED: ClassVar[tuple[str, ...]] = ()
    """Large parts of the state that are saved where they are asked for."""

    policy: ActorPolicy
    generator: torch.Generator
    is_built: bool
    """Whether the networks are there."""
    _init_seed: int

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy or a pickle: without the logger, whose files are open. Training makes a new one.

        Raises:
            TypeError: The environment cannot be copied whole.
        """
        kind = _uncopyable(self.env)
        if kind is not None:
            raise TypeError(
                f"an agent whose environment is a {kind} cannot be copied, for the copy would have none: save and load "
                "it with an environment of its own."
            )
        state = {name: value for name, value in self.__dict__.items() if name != "_logger"}
        return {**state, "_custom_logger": False}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Makes settings of the arguments."""
        super().__init_subclass__(**kwargs)
        for name in (*cls.__dict__.get("SETTINGS", ()), *cls.__dict__.get("FIXED", ())):
            if not hasattr(cls, name):
                setting = Setting()
                setting.__set_name__(cls, name)
                setattr(cls, name, setting)

    def change_setting(self, name: str, value: Any) -> None:
        """Assigns a setting of an agent that is built; ``agent.name = value`` does so.

        Args:
            name: One of :attr:`SETTINGS`.
            value: As of the constructor.

        Raises:
            AttributeError: It is :attr:`FIXED`, and the value another one.
            TypeError, ValueError: The value is not one that the constructor takes; nothing has changed then.
        """
        before = getattr(self, name)
        if value is before or (type(value) is type(before) and not isinstance(value, np.ndarray) and value == before):
            return
        if name in self.FIXED:
            raise AttributeError(f"{name} must stay what it was when the agent was built: {self.FIXED[name]}.")
        self.is_built = False  # settings are plain attributes while one is changed
        setattr(self, name, value)
        try:
            self._check_settings()
            self._apply_setting(name)
        except Exception:
            setattr(self, name, before)
            raise
        finally:
            self.is_built = True

    def _apply_setting(self, name: str) -> None:
        """Passes a setting that was changed on to what has taken it over."""
        if name == "learning_rate":
            self._setup_lr_schedule()

    def _refuse(self, arguments: Mapping[str, Any]) -> None:
        for name in sorted(arguments.keys() - _asking_for_nothing(arguments)):
            reason = f": {self.REFUSED[name]}" if name in self.REFUSED else ""
            raise TypeError(f"{type(self).__name__} has no argument {name!r}{reason}.")

    def _check_settings(self) -> None:
        """Raises before any work is lost."""
        if not hasattr(self, "action_space"):
            raise ValueError(
                f"env must be an environment, but got None; {type(self).__name__}.load needs none to predict."
            )
        base = self.policy_aliases["MlpPolicy"]
        if not (isinstance(self.policy_class, type) and issubclass(self.policy_class, base)):
            names = ", ".join(map(repr, self.policy_aliases))
            given = getattr(self.policy_class, "__name__", self.policy_class)
            raise TypeError(f"policy must be {names} or a subclass of {base.__name__}, but got {given}.")
        for name in sorted((self.policy_kwargs.keys() & self.REFUSED.keys()) - _asking_for_nothing(self.policy_kwargs)):
            raise ValueError(f"policy_kwargs must not hold {name!r}: {self.REFUSED[name]}.")
        rate: Any = self.learning_rate
        if not callable(rate) and not (isinstance(rate, int | float | np.floating) and 0 < rate < math.inf):
            raise ValueError(f"learning_rate must be a positive number or a function, but got {rate!r}.")

    def _check_integers(self, *names: str, least: int) -> None:
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, but got {value!r}.")

    def _begin_setup(self) -> None:
        """The first part of ``_setup_model``, once settings are checked: generators, seeded."""
        self.is_built = False
        self._setup_lr_schedule()
        self.generator = torch.Generator(self.device)
        self.masked = False
        self._is_reset = False
        self._last_masks: np.ndarray | None = None
        self._watch: StepWatch | None = None
        self._last_episodes: dict[int, Any] = {}  # counted ones, by environment
        self.stopwatch = Stopwatch()
        self.set_random_seed(self.seed)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seeds the agent's generators, its action space and its environments; no global generator.

        Each has a stream of its own: those of environment j of one seed are no environment's of another seed.

        Args:
            seed: A non-negative integer; None: entropy of the operating system, and the environment stays as it is.
        """
        # In place: the policy holds the same generator.
        self.generator.manual_seed(seed_of(seed_sequence(seed, "noise")))
        self._init_seed = seed_of(seed_sequence(seed, "initialisation"))
        self._seed_data(seed_sequence(seed, "data"))
        if seed is not None:
            self.action_space.seed(environment_seed(seed, "actions"))
            if self.env is not None:
                seed_environments(self.env, environment_seeds(self.env.num_envs, seed, "environment"))

    def _seed_resumed_environments(self) -> None:
        """Seeds environments that begin anew in the middle of a training: not with the episodes it began with."""
        if self.env is not None and self.seed is not None and self.num_timesteps:
            seeds = environment_seeds(self.env.num_envs, self.seed, "resumption", self.num_timesteps)
            seed_environments(self.env, seeds)

    def _make_policy(self) -> None:
        with default_generator_lent(self._init_seed):
            policy: Any = self._new_policy()
        self.policy = policy.to(self.device)
        self.policy.generator = self.generator

    def _new_policy(self, **arguments: Any) -> BasePolicy:
        """The policy, with arguments beside those of every policy."""
        ignored = _asking_for_nothing(self.policy_kwargs) & self.REFUSED.keys()
        arguments |= {name: value for name, value in self.policy_kwargs.items() if name not in ignored}
        return self.policy_class(self.observation_space, self.action_space, self.lr_schedule, **arguments)

    def _check_saved_policy(self, parameters: Mapping[str, Any]) -> None:
        """Compares saved parameters with the networks of these settings, before those take any memory.

        Args:
            parameters: What :meth:`get_parameters` returned.

        Raises:
            gsrl.checkpoint.CheckpointError: They are of other networks.
        """
        stored = checkpoint.Stored.of(parameters)
        stored.check(self.policy_kwargs, "policy_kwargs")
        stored.check([self.observation_space, self.action_space], "the agent")
        self._check_settings()
        self._setup_lr_schedule()
        float(self.lr_schedule(1.0))  # it may be any callable of a file's
        checkpoint.check_module(parameters["policy"], self._new_policy, "parameters.policy")

    def _seed_data(self, sequence: np.random.SeedSequence) -> None:
        """Seeds the choice of what is learned from, where an algorithm makes one."""

    @staticmethod
    def _wrap_env(env: GymEnv | VectorEnv | str, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """Takes the id of an environment, Gymnasium's vector environments, and the masks that environments give."""
        env = adapt(gym.make(env) if isinstance(env, str) else env)
        check_spaces(env.observation_space, env.action_space)
        if isinstance(env, gym.Env):
            single = monitored(env) if monitor_wrapper else env
            env = SyncVecEnv([lambda: single])
        return BaseAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    @property
    def stats_window_size(self) -> int:
        """Episodes that the logged return is averaged over."""
        return self._stats_window_size

    @stats_window_size.setter
    def stats_window_size(self, value: int) -> None:
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"stats_window_size must be an integer of at least 1, but got {value!r}.")
        self._stats_window_size = int(value)
        for name in ("ep_info_buffer", "ep_success_buffer"):
            if getattr(self, name) is not None:
                setattr(self, name, deque(getattr(self, name), maxlen=int(value)))

    # Training

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self.env is None:
            raise ValueError(
                f"env must be set before {type(self).__name__} learns: by set_env, or load(path, env=...)."
            )
        self._is_reset = reset_num_timesteps or self._last_obs is None
        if self._is_reset:
            self._before_reset()
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        if reset_num_timesteps:
            self.stopwatch = Stopwatch()
        self.stopwatch.start()
        return result

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        # The last part of Stable-Baselines3's _setup_learn: what callbacks do with the environments comes later.
        if self._is_reset:
            self._after_reset()
        return super()._init_callback(callback, progress_bar)

    def _after_reset(self) -> None:
        """Takes the masks of the first actions, once the environments were reset for a training."""
        assert self.env is not None
        self._watch_of(self.env).settle()
        self._last_masks = current_masks(self.env)
        if self._last_masks is None and (has_method(self.env) or shows_masks(self.observation_space)):
            warnings.warn(
                "The environments give action masks by a method or in their observations, which are not heeded: "
                "put gsrl.masking.ActionMasker around each before they are vectorised.",
                stacklevel=5,
            )
        self._set_masked(self._last_masks is not None)

    def _watch_of(self, env: VecEnv) -> StepWatch:
        """What tells whether somebody else has stepped these environments since the last observation."""
        if self._watch is None or self._watch.env is not env:
            self._watch = StepWatch(env)
        return self._watch

    def _begin_episodes(self, env: VecEnv) -> None:
        """Resets all environments in the middle of a training.

        Raises:
            ValueError: They give masks at some resets and steps only.
        """
        self._before_reset()
        observations: Any = env.reset()  # of no tuple
        self._last_obs = observations
        self._last_episode_starts = np.ones(env.num_envs, np.bool_)
        if self._vec_normalize_env is not None:
            self._last_original_obs = self._vec_normalize_env.get_original_obs()
        self._set_next_masks(current_masks(env))
        self._watch_of(env).settle()

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # Environments that step together, or whole episodes, may go beyond the total; schedules end at 0.
        self._current_progress_remaining = max(0.0, 1.0 - num_timesteps / total_timesteps)

    def _before_reset(self) -> None:
        """Called before the environments are reset."""
        if self.env is not None and isinstance(self.env.unwrapped, GymnasiumVecEnv):
            if self.env.unwrapped.has_dummy_steps and is_vecenv_wrapped(self.env, VecFrameStack):
                raise ValueError(
                    "env must not be a VecFrameStack of a vector environment with dummy steps: the stack would keep "
                    "the final frame of an episode for the next; stack in the environments, by "
                    "gymnasium.wrappers.FrameStackObservation."
                )
            self.env.unwrapped.allow_dummy_steps()  # they are dropped

    def _set_masked(self, masked: bool) -> None:
        """Called when it is known whether the environments give masks."""
        self.masked = masked

    def _unnormalized(
        self, new_obs: VecEnvObs, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> tuple[Any, Any, np.ndarray]:
        """What the step just taken shows unnormalised: observations, those that actions led to, and rewards."""
        normalized = self._vec_normalize_env
        if normalized is not None:
            new_obs, rewards = normalized.get_original_obs(), normalized.get_original_reward()
        return new_obs, successor_observations(new_obs, dones, infos, normalized), rewards

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        """Counts the episodes that ended, each once: an info that an environment returns again still tells of one."""
        assert self.ep_info_buffer is not None  # learn has made them
        assert self.ep_success_buffer is not None
        for i, info in enumerate(infos):
            is_done = dones is not None and bool(dones[i])
            episode = info.get("episode")
            if episode is not None and (is_done or episode != self._last_episodes.get(i)):
                self._last_episodes[i] = episode
                self.ep_info_buffer.append(episode)
            if is_done and info.get("is_success") is not None:
                self.ep_success_buffer.append(info["is_success"])

    def _set_next_masks(self, masks: np.ndarray | None) -> None:
        """Goes on to the masks of the next actions.

        Raises:
            ValueError: The environments give masks at some resets and steps only.
        """
        self._last_masks = masks
        if (masks is not None) != self.masked:
            raise ValueError(
                'env must give info["action_mask"] at every reset and step, or never, but left it out here.'
            )

    def training_scalars(self) -> dict[str, float]:
        """What there is to log of the last update, as means over its batch; nothing before the first."""
        raise NotImplementedError

    def _defer_log(self) -> None:
        """Lets the logger hold the figures of the last update, which are read when it is asked for them."""
        if hasattr(self, "_logger"):  # else there has been no learn
            DeferredValues.of(self._logger).record = lambda: self._record_training(self.training_scalars())

    def _record_training(self, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self.logger.record(f"train/{name}", value)
        if scalars:
            self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _log_training(self) -> None:
        """Logs the figures of the last update.

        Raises:
            FloatingPointError: One is NaN or infinite; the networks are lost.
        """
        scalars = self.training_scalars()
        for name, value in scalars.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} after {self._n_updates} updates: the training diverged. "
                    "Try a lower learning_rate, smaller rewards, or max_grad_norm."
                )
        DeferredValues.of(self.logger).record = None
        self._record_training(scalars)

    # Acting

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Returns actions, see :meth:`ActorPolicy.predict`.

        Warns if the agent has learned with action masks and none are given: it may then take illegal actions.
        :func:`gsrl.evaluation.evaluate_policy` gives them.

        Raises:
            ValueError: ``action_masks`` are neither one for all observations nor one for each, have another length or
                entries other than 0 and 1, or leave a factor without a legal choice.
        """
        if self.masked and action_masks is None:
            warnings.warn(
                "this agent learned with action masks, but predict was called without action_masks: evaluate it by "
                "gsrl.evaluation.evaluate_policy and gsrl.callbacks.EvalCallback.",
                stacklevel=2,
            )
        try:
            return self.policy.predict(observation, state, episode_start, deterministic, action_masks)
        except ValueError:
            if action_masks is not None:
                self._check_masks(observation, action_masks)  # here, so that it costs nothing where all is well
            raise

    def _check_masks(self, observation: Any, action_masks: Any) -> None:
        """Raises if these masks are not for these observations."""
        codec = OneHotCodec(self.action_space)
        shape = check_masks(codec, action_masks, "action_masks").shape
        observations, _ = self.policy.obs_to_tensor(observation)
        count = len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
        if math.prod(shape[:-1]) not in (1, count):
            raise ValueError(
                f"action_masks must have shape [{shape[-1]}] or [{count}, {shape[-1]}] for {codec.space} and this "
                f"observation, but got {list(shape)}."
            )

    # State

    def set_parameters(
        self,
        load_path_or_dict: str | dict[str, Any],
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """Loads parameters from a saved model or from what :meth:`get_parameters` returned.

        Args:
            load_path_or_dict: Path, or a state dict for each name that :meth:`get_parameters` returns.
            exact_match: Whether all, and each of their entries, must be there.
            device: Unused: parameters stay where they are.

        Raises:
            gsrl.checkpoint.CheckpointError: The file is not a saved model, or does not fit this one.
            KeyError: Entries of the optimiser's state do not match.
            RuntimeError: Entries of a module's state dict do not match.
            ValueError: With ``exact_match``, the names do not match.
        """
        if isinstance(load_path_or_dict, dict):
            super().set_parameters(load_path_or_dict, exact_match)
            return
        # Settings are not needed: what the file cannot tell of them is no reason to refuse it.
        tree = self._read(load_path_or_dict, self.device, False, dict.fromkeys(self.SETTINGS))
        with checkpoint.fitting(load_path_or_dict):
            own = self.get_parameters()
            checkpoint.check_entries(tree, {"parameters": own if exact_match else None})
            if tree["parameters"].keys() - own.keys():  # Stable-Baselines3 would take them for paths of attributes
                raise ValueError(f"parameters must be of {sorted(own)}, but got {sorted(tree['parameters'])}")
            super().set_parameters(tree["parameters"], exact_match)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while the agent learns, as a tree that :func:`gsrl.checkpoint.save` stores.

        It is a copy, which does not change with its owner.
        """
        state: dict[str, Any] = {
            "parameters": self.get_parameters(),
            "counters": {name: getattr(self, name) for name in self.COUNTERS},
            "generator": {"device": self.device.type, "state": self.generator.get_state()},
            "ep_info_buffer": self.ep_info_buffer,
            "ep_success_buffer": self.ep_success_buffer,
            "last_obs": self._last_obs,
            "last_original_obs": self._last_original_obs,
            "last_episode_starts": self._last_episode_starts,
            "last_masks": self._last_masks,
            "masked": self.masked,
        }
        return checkpoint.copied(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`, of an agent with the same settings.

        The state of a generator only fits its own kind of device: on another one, this agent's stays as it is.

        Raises:
            gsrl.checkpoint.CheckpointError: An entry is missing or has another shape; nothing is restored then.
        """
        expected = self._saved_state(())
        expected["generator"]["state"] = None  # its size is that of its kind of device
        checkpoint.check_entries(state, expected)
        self.set_parameters(state["parameters"])
        for name in self.COUNTERS:
            setattr(self, name, state["counters"][name])
        if state["generator"]["device"] == self.device.type:
            self.generator.set_state(state["generator"]["state"].cpu())
        for name in ("ep_info_buffer", "ep_success_buffer"):
            setattr(self, name, None if state[name] is None else deque(state[name], maxlen=self.stats_window_size))
        self._last_obs = state["last_obs"]
        self._last_original_obs = state["last_original_obs"]
        self._last_episode_starts = state["last_episode_starts"]
        self._last_masks, self.masked = state["last_masks"], state["masked"]
        if self.env is not None:
            self._watch_of(self.env).settle()  # they are where this observation was, or will be reset

    def _saved_state(self, included: Collection[str]) -> dict[str, Any]:
        """:meth:`state_dict`, with those of the large parts alone that are asked for."""
        return self.state_dict()

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Saves the agent as tensors and JSON: loading such a file runs no code.

        Args:
            path: Path, ``.zip`` is added where it has no suffix; or a binary file object.
            exclude: Names of settings to leave out, which then take their defaults on loading.
            include: Parts that are otherwise left out, of :attr:`INCLUDED`; or settings, which then are not excluded.

        Raises:
            ValueError: ``exclude`` or ``include`` names something else.
        """
        excluded, included = set(exclude or ()), set(include or ())
        if not (excluded <= set(self.SETTINGS) and included <= {*self.SETTINGS, *self.INCLUDED}):
            parts = " or ".join(map(repr, self.INCLUDED))
            raise ValueError(
                f"exclude must name settings, {self.SETTINGS}, and include those{f' or {parts}' if parts else ''}, "
                f"but got exclude={sorted(excluded)}, include={sorted(included)}."
            )
        excluded -= included
        tree: dict[str, Any] = {
            "algorithm": type(self).__name__,
            "policy_class": self.policy_class,
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "n_envs": self.n_envs,
            "defaults": DEFAULTS,
            **{name: getattr(self, name) for name in self.SETTINGS if name not in excluded},
            **self._saved_state(included),
        }
        checkpoint.save(_zip_path(path), tree)

    @classmethod
    def load(
        cls: type[SelfAlgorithm],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | VectorEnv | str | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trusted: bool = False,
        **kwargs: Any,
    ) -> SelfAlgorithm:
        """Loads a saved agent.

        Args:
            path: Path (``.zip`` may be left out) or binary file object.
            env: Environment to go on learning in, or its id; None: only to predict.
            device: Of the networks; where there is no GPU, the CPU.
            custom_objects: Values that take the place of saved settings, such as a learning-rate function.
            print_system_info: Whether versions are printed.
            force_reset: Whether the environment is reset before learning.
            trusted: Whether classes that gsrl does not know are imported. This runs code of the file's choosing.
            **kwargs: Settings to change.

        Raises:
            gsrl.checkpoint.CheckpointError: The file is damaged, foreign, of another algorithm or a newer format, needs
                ``custom_objects``, or lacks what this version of gsrl restores.
            ValueError: ``env`` has other spaces than the agent, or the parameters do not fit the changed settings.

        Warns:
            UserWarning: Parameters are not finite, or the file says where ``learn`` writes its TensorBoard log.
        """
        if print_system_info:
            get_system_info()
        tree = cls._read(path, get_device(device) if device != "auto" else "cpu", trusted, custom_objects or {})
        if tree["algorithm"] != cls.__name__:
            raise checkpoint.CheckpointError(f"{path} holds a {tree['algorithm']}, but {cls.__name__}.load was called.")
        settings = {name: tree[name] for name in cls.SETTINGS if name in tree}
        with checkpoint.fitting(path):
            settings = cls.earlier_settings(settings, tree["policy_class"], tree.get("defaults", 0))
        if not custom_objects:
            with checkpoint.fitting(path):
                _check_saved(tree)
                model = cls._of_saved(tree, None, device, settings | {"verbose": 0})
                model._check_saved_policy(tree["parameters"])
        settings |= kwargs
        if env is not None:
            env = cls._wrap_env(env, settings.get("verbose", 0))
            check_for_correct_spaces(env, tree["observation_space"], tree["action_space"])
        changed = sorted({*kwargs, *(custom_objects or {})})
        with nullcontext() if changed else checkpoint.fitting(path):
            model = cls._of_saved(tree, env, device, settings)
            model._setup_model()
        try:
            with checkpoint.fitting(path):
                model._drop_misfits(tree)
                model.load_state_dict(tree)
                model._check_restored(tree["n_envs"])
        except checkpoint.CheckpointError as error:
            if not changed:
                raise
            raise ValueError(f"the saved parameters do not fit the changed settings {changed}: {error}") from error
        checkpoint.check_finite(model.policy.state_dict(), str(path))
        if model.tensorboard_log is not None and "tensorboard_log" not in changed and not trusted:
            warnings.warn(
                f"{path} says that learn writes its TensorBoard log to {model.tensorboard_log!r}: give "
                "tensorboard_log= to load, None for no log, unless that is meant.",
                stacklevel=2,
            )
        if "seed" in kwargs:
            model.set_random_seed(kwargs["seed"])
        else:
            model._seed_resumed_environments()
        if env is None or force_reset or model.n_envs != tree["n_envs"]:
            model._last_obs = None
        return model

    @classmethod
    def earlier_settings(cls, settings: Mapping[str, Any], policy_class: Any, defaults: int) -> dict[str, Any]:
        """Settings of a file, completed by the defaults of when it was written; 0: by those that had no number yet."""
        if defaults < 2:
            settings = {**cls.EARLIER_THAN_2, **settings}
        if defaults > 0:
            return dict(settings)
        settings = {**cls.EARLIER, **settings}
        kwargs = settings.get("policy_kwargs") or {}
        if isinstance(policy_class, type) and issubclass(policy_class, SavedModule) and isinstance(kwargs, Mapping):
            settings["policy_kwargs"] = policy_class.earlier_arguments(kwargs)
        return settings

    @classmethod
    def _of_saved(
        cls: type[SelfAlgorithm],
        tree: dict[str, Any],
        env: VecEnv | None,
        device: torch.device | str,
        settings: dict[str, Any],
    ) -> SelfAlgorithm:
        """An agent of a saved tree whose networks are not built yet."""
        make: Any = cls  # whose constructor has the arguments of a subclass
        model: SelfAlgorithm = make(
            policy=tree["policy_class"], env=env, device=device, _init_setup_model=False, **settings
        )
        model.observation_space, model.action_space = tree["observation_space"], tree["action_space"]
        model.n_envs = tree["n_envs"] if env is None else env.num_envs
        return model

    def _check_restored(self, n_envs: int) -> None:
        """Raises if what was restored of the training is nothing that the training could go on with."""
        for name in self.COUNTERS:
            if not is_number(getattr(self, name)):
                raise ValueError(f"counters.{name} must be a number, but got {getattr(self, name)!r}")
        if not isinstance(self.masked, bool):
            raise ValueError(f"masked must be a boolean, but got {self.masked!r}")
        for episode in self.ep_info_buffer or ():
            if not (isinstance(episode, dict) and all(is_number(episode.get(name)) for name in ("r", "l"))):
                raise ValueError(f"ep_info_buffer must hold returns and lengths, but got {episode!r}")
        if not all(isinstance(success, int | float | np.generic) for success in self.ep_success_buffer or ()):
            raise ValueError("ep_success_buffer must hold numbers")
        codec = OneHotCodec(self.action_space)
        arrays = {
            "last_obs": (self._last_obs, self.observation_space),
            "last_original_obs": (self._last_original_obs, self.observation_space),
            "last_episode_starts": (self._last_episode_starts, spaces.Discrete(2)),
            "last_masks": (self._last_masks, spaces.MultiBinary(sum(codec.sizes))),
        }
        for name, (value, space) in arrays.items():
            if value is not None:
                _check_array(name, value, space, n_envs)

    def _drop_misfits(self, tree: dict[str, Any]) -> None:
        """Takes out of a saved tree what this agent, in its environments, cannot use."""

    @classmethod
    def _read(cls, path: Any, device: torch.device | str, trusted: bool, replace: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(path, str | os.PathLike) and not pathlib.Path(path).exists():
            path = _zip_path(path)
        tree = checkpoint.load(path, device=device, trusted=trusted, replace=replace)
        if not isinstance(tree, dict) or "algorithm" not in tree:
            raise checkpoint.other_kind(path, cls.__name__, tree)
        needed = ("policy_class", "observation_space", "action_space", "n_envs")
        with checkpoint.fitting(path):
            checkpoint.check_entries(tree, dict.fromkeys(needed))
        return tree


def _asking_for_nothing(arguments: Mapping[str, Any]) -> set[str]:
    """Names of Stable-Baselines3's arguments whose values ask for what is done anyway.

    Its algorithms write some of them into the ``policy_kwargs`` that they were given, which may be given to ours next.
    """
    harmless: dict[str, Any] = dict.fromkeys(("use_sde", "optimize_memory_usage", "use_sde_at_warmup"), False)
    harmless |= dict.fromkeys(("action_noise", "replay_buffer_class", "replay_buffer_kwargs"))
    harmless |= dict.fromkeys(("rollout_buffer_class", "rollout_buffer_kwargs", "optimizer_kwargs"))
    harmless |= {"sde_sample_freq": -1, "share_features_extractor": False, "optimizer_class": torch.optim.Adam}
    names = {name for name, value in harmless.items() if name in arguments and arguments[name] in (value, {})}
    if arguments.get("replay_buffer_kwargs") == {"handle_timeout_termination": True}:
        names.add("replay_buffer_kwargs")
    # What A2C, whose own optimiser it is, leaves there.
    of_a2c = (torch.optim.RMSprop, {"alpha": 0.99, "eps": 1e-5, "weight_decay": 0})
    if (arguments.get("optimizer_class"), arguments.get("optimizer_kwargs")) == of_a2c:
        names |= {"optimizer_class", "optimizer_kwargs"}
    return names


def _check_saved(tree: Mapping[str, Any]) -> None:
    """Raises unless the entries of a saved tree by which an agent is built are of their kinds."""
    policy, count = tree["policy_class"], tree["n_envs"]
    if not (isinstance(policy, type) and issubclass(policy, ActorPolicy)):
        raise TypeError(f"policy_class must be a policy of gsrl, but got {policy!r}")
    for name in ("observation_space", "action_space"):
        if not isinstance(tree[name], spaces.Space):
            raise TypeError(f"{name} must be a space, but got {tree[name]!r}")
    check_spaces(tree["observation_space"], tree["action_space"])
    last = tree.get("last_obs")
    rows = len(next(iter(last.values())) if isinstance(last, dict) else last) if last is not None else None
    if not isinstance(count, int) or count < 1 or count > (checkpoint.SMALL if rows is None else rows):
        raise ValueError(f"n_envs must be an integer of at least 1, and that of last_obs, but got {count!r}")
    settings = {"verbose": int, "stats_window_size": int, "tensorboard_log": str | None, "seed": int | None}
    for name, kind in settings.items():
        if not isinstance(tree.get(name), kind | None) or (isinstance(tree.get(name), int) and tree[name] < 0):
            raise TypeError(f"{name} must be of {kind}, but got {tree[name]!r}")
    if not isinstance(tree.get("policy_kwargs"), dict | None):
        raise TypeError(f"policy_kwargs must be a dict, but got {tree['policy_kwargs']!r}")


def _check_array(name: str, value: Any, space: spaces.Space[Any], count: int) -> None:
    """Raises unless a value holds as many elements of a space."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, dict) or value.keys() != space.keys():
            raise ValueError(f"{name} must have the entries {sorted(space.keys())}")
        for key, each in space.items():
            _check_array(f"{name}.{key}", value[key], each, count)
    elif not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf" or len(value) != count:
        raise ValueError(f"{name} must be an array of {count} rows of numbers")
    elif value.size != count * math.prod(space.shape or ()):
        raise ValueError(f"{name} must have shape {[count, *(space.shape or ())]}, but got {list(value.shape)}")


def check_spaces(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """Refuses what neither our networks nor the preprocessing of Stable-Baselines3 can take.

    Raises:
        TypeError: A space is of another kind.
        ValueError: A space of observations is empty, does not start at 0, or has too many dimensions.

    Example:
        >>> from gymnasium import spaces
        >>> check_spaces(spaces.Box(-1, 1, (2,)), spaces.Discrete(3))
    """
    if not isinstance(action_space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise TypeError(f"env must have a Discrete, MultiDiscrete or MultiBinary action space, but got {action_space}.")
    parts = [*observation_space.values()] if isinstance(observation_space, spaces.Dict) else [observation_space]
    if not parts:
        raise ValueError(f"env must have observations with an entry, but got {observation_space}.")
    for space in parts:
        if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            raise TypeError(
                "env must have observations that are a Box, Discrete, MultiDiscrete or MultiBinary, or a Dict of "
                f"these, but got {space}."
            )
        if isinstance(space, spaces.Box) and space.shape == ():
            raise ValueError(f"env must have observations with a dimension, but got {space}.")
        if 0 in (space.shape or ()):
            raise ValueError(f"env must have observations that are not empty, but got {space}.")
        if isinstance(space, spaces.MultiDiscrete) and len(space.shape) > 1:
            raise ValueError(f"env must have MultiDiscrete observations of one dimension, but got {space}.")
        if np.any(getattr(space, "start", 0)):
            raise ValueError(f"env must have observations that start at 0, but got {space}.")


def _zip_path(path: Any) -> Any:
    """Adds ``.zip`` to a path without a suffix, as Stable-Baselines3 does."""
    if isinstance(path, str | os.PathLike):
        path = pathlib.Path(path)
        return path if path.suffix else path.with_suffix(".zip")
    return path


def _uncopyable(env: VecEnv | None) -> str | None:
    """The class of what is in an environment and does not survive a copy; None: there is nothing of the kind.

    Processes do not; and what ``VecNormalize`` normalises, it leaves out of its own state.
    """
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecNormalize):
            return type(env).__name__
        env = env.venv
    inner = env.vector_env.unwrapped if isinstance(env, GymnasiumVecEnv) else env
    return type(inner).__name__ if isinstance(inner, SubprocVecEnv | AsyncVectorEnv) else None
