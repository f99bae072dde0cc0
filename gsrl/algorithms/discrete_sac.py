"""Discrete soft actor-critic, as a Stable-Baselines3 algorithm."""

from __future__ import annotations

import copy
import io
import math
import os
import pathlib
import time
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import (
    GymEnv,
    MaybeCallback,
    RolloutReturn,
    Schedule,
    TrainFreq,
    TrainFrequencyUnit,
)
from stable_baselines3.common.utils import check_for_correct_spaces, get_system_info, should_collect_more_steps
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize, is_vecenv_wrapped
from torch import Tensor

from gsrl import checkpoint
from gsrl.algorithms.policies import CnnPolicy, DiscreteSACPolicy, MlpPolicy, MultiInputPolicy
from gsrl.buffers import ReplayBatch, ReplayBuffer
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Estimator, Pathwise, make_estimator
from gsrl.learner import Learner
from gsrl.losses import EntropyCoefficient, SACLoss
from gsrl.masking import adapt, check_masks, current_masks, shows_masks, to_matrix
from gsrl.relaxations import gumbel_noise
from gsrl.spaces import OneHotCodec
from gsrl.temperature import Temperature
from gsrl.timing import Stopwatch
from gsrl.values import CriticCombination
from gsrl.vec_env import GymnasiumVecEnv, SyncVecEnv

__all__ = ["DiscreteSAC"]

SelfDiscreteSAC = TypeVar("SelfDiscreteSAC", bound="DiscreteSAC")

SETTINGS = (
    "learning_rate",
    "buffer_size",
    "learning_starts",
    "batch_size",
    "tau",
    "gamma",
    "train_freq",
    "gradient_steps",
    "n_steps",
    "reward_scale",
    "estimator",
    "ent_coef",
    "target_entropy",
    "target_entropy_ratio",
    "critics",
    "entropy_in_target",
    "q_clip",
    "max_grad_norm",
    "target_update_interval",
    "policy_kwargs",
    "tensorboard_log",
    "verbose",
    "seed",
)
"""Constructor arguments that a saved model holds; each is an attribute of the same name."""

COUNTERS = (
    "num_timesteps",
    "_total_timesteps",
    "_num_timesteps_at_start",
    "_episode_num",
    "_n_updates",
    "_current_progress_remaining",
    "_stats_window_size",
)
"""Progress of the training, as Stable-Baselines3 names it."""

REFUSED = {
    "action_noise": "the policy explores by its own entropy",
    "replay_buffer_class": "the agent has its own replay buffer",
    "replay_buffer_kwargs": "the agent has its own replay buffer",
    "optimize_memory_usage": "the replay buffer keeps final observations apart, which truncation needs",
    "use_sde": "generalised state-dependent exploration is for continuous actions",
    "sde_sample_freq": "generalised state-dependent exploration is for continuous actions",
    "use_sde_at_warmup": "generalised state-dependent exploration is for continuous actions",
    "optimizer_class": "the optimiser is the learner's Adam",
    "optimizer_kwargs": "the optimiser is the learner's Adam",
    "share_features_extractor": "actor and critics have features of their own",
}
"""Arguments of Stable-Baselines3, or of its policies, that this algorithm does not have, and why."""


class DiscreteSAC(OffPolicyAlgorithm):
    r"""Soft actor-critic for discrete actions, with a choice of the actor's gradient estimator.

    The actor maximises :math:`\mathbb{E}_{a \sim \pi}[Q(s, a)] + \alpha\, \mathcal{H}(\pi(\cdot | s))`; the gradient of
    the expectation is the ``estimator``'s, entropies are exact. An action is a matrix of one-hot rows, one for each
    factor of the space; each factor has an alpha of its own. What critics know of an action is chosen by
    ``policy_kwargs={"critic": ...}``, see :class:`gsrl.algorithms.policies.DiscreteSACPolicy`. Constructor, ``learn``,
    ``predict``, ``save``, ``load``, callbacks and logging are those of Stable-Baselines3's off-policy algorithms.

    Random numbers come from two generators of the agent's own (``generator`` for actions and noise, the replay buffer's
    for sampling), both derived from ``seed``; no global one is read or seeded.

    Source: Christodoulou 2019 (1910.07207), on Haarnoja et al. 2018 (1812.05905).

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, or a subclass of ``DiscreteSACPolicy``.
        env: Environment with a ``Discrete``, ``MultiDiscrete`` or ``MultiBinary`` action space, its id, or a vectorised
            one: Stable-Baselines3's, or Gymnasium's (:class:`gsrl.vec_env.GymnasiumVecEnv`). Where it gives masks of
            legal actions, in ``info["action_mask"]`` at every reset and step, they are kept everywhere; a single
            environment may have a method ``action_masks()`` instead. See :class:`gsrl.masking.ActionMasker`.
        learning_rate: Of all networks and the entropy coefficient; a number, or a function of the remaining progress.
        buffer_size: Transitions kept for replay.
        learning_starts: Steps with uniformly random actions before the first update.
        batch_size: Transitions in an update.
        tau: Polyak's coefficient.
        gamma: Discount factor.
        train_freq: Steps between updates, or a tuple such as ``(1, "episode")``.
        gradient_steps: Updates each time; -1: as many as steps taken.
        n_steps: Largest length of the n-step returns; biased above 1, see :class:`gsrl.buffers.ReplayBuffer`.
        reward_scale: What rewards are multiplied by before they are learned from. Large values are learned slowly, so
            choose it that returns to come are of the order of 10. Values, losses and ``ent_coef`` are in scaled units;
            episode returns are not.
        estimator: The actor's gradient: a name that :func:`gsrl.make_estimator` knows, or an estimator, which then is
            this agent's: its temperature or baseline advances with each update.
        ent_coef: Entropy coefficient alpha: ``"auto"`` learns it, ``"auto_0.1"`` learns it from 0.1, a float fixes it.
        target_entropy: What learned alphas steer the entropy to, in nats; ``"auto"``: the ratio below times the
            entropy of the uniform policy. Either is shared out among the factors in proportion to their largest
            entropies; where a state has masks, it shrinks with the entropy that is left.
        target_entropy_ratio: Share of the largest entropy, in [0, 1], used with ``target_entropy="auto"``.
        critics: ``"min"`` or ``"mean"`` of the critics, see :func:`gsrl.values.combine_critics`.
        entropy_in_target: Whether the critics' target holds the entropy bonus, see :func:`gsrl.values.soft_value`.
        q_clip: Bound on how far a value may move from the target network's, see :func:`gsrl.losses.critic_loss`; None:
            unbounded.
        max_grad_norm: Largest gradient norm of the actor, and of the critics; None: not clipped.
        target_update_interval: Updates between moves of the target networks.
        policy_kwargs: Arguments of the policy, such as ``net_arch``.
        stats_window_size: Episodes that the logged return is averaged over.
        tensorboard_log: Folder for TensorBoard; None: no logging there.
        verbose: 0: silent, 1: information, 2: debugging.
        seed: Seed of everything random; None: from the operating system.
        device: Of the networks.
        compile: Whether updates are compiled, see :class:`gsrl.learner.Learner`. Not saved: it is about the machine.
        _init_setup_model: Whether the networks are built at once.

    Attributes:
        generator: Torch generator of actions and noise.
        estimator: The :class:`gsrl.Estimator` in use.
        entropy_coefficient: The :class:`gsrl.losses.EntropyCoefficient`.
        learner: The :class:`gsrl.learner.Learner`.
        stopwatch: The :class:`gsrl.timing.Stopwatch` of the training, with the times of ``environment``, ``acting``,
            ``replay``, ``update``, ``callbacks`` and ``logging``, and of ``evaluation`` by
            :class:`gsrl.callbacks.EvalCallback`. ``learn(reset_num_timesteps=False)`` adds to them.

    Raises:
        TypeError: The action space is not discrete, or an argument is one of :data:`REFUSED`.
        ValueError: An argument is out of range; the message names it.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: DiscreteSACPolicy
    replay_buffer: ReplayBuffer | None  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[DiscreteSACPolicy],
        env: GymEnv | VectorEnv | str | None,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        *,
        n_steps: int = 1,
        reward_scale: float = 1.0,
        estimator: str | Estimator = "straight-through",
        ent_coef: str | float = "auto",
        target_entropy: str | float = "auto",
        target_entropy_ratio: float = 0.2,
        critics: CriticCombination = "min",
        entropy_in_target: bool = True,
        q_clip: float | None = None,
        max_grad_norm: float | None = None,
        target_update_interval: int = 1,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        compile: bool = False,
        _init_setup_model: bool = True,
        **refused: Any,
    ) -> None:
        for name in refused:
            reason = f": {REFUSED[name]}" if name in REFUSED else ""
            raise TypeError(f"DiscreteSAC has no argument {name!r}{reason}.")
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            n_steps=n_steps,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            sde_support=False,
        )
        if isinstance(estimator, str):
            try:
                estimator = make_estimator(estimator)
            except TypeError as error:
                raise ValueError(
                    f"estimator {estimator!r} has settings without defaults: make it by gsrl.make_estimator ({error})."
                ) from error
        self.estimator = estimator
        self.reward_scale = reward_scale
        self.ent_coef = ent_coef
        self.target_entropy = target_entropy
        self.target_entropy_ratio = target_entropy_ratio
        self.critics = critics
        self.entropy_in_target = entropy_in_target
        self.q_clip = q_clip
        self.max_grad_norm = max_grad_norm
        self.target_update_interval = target_update_interval
        self.compile = compile
        self.masked = False
        self._last_masks: np.ndarray | None = None
        self.stopwatch = Stopwatch()
        if _init_setup_model:
            self._setup_model()

    # Construction

    def _setup_model(self) -> None:
        self._check_settings()
        self._setup_lr_schedule()
        self._convert_train_freq()
        self.generator, self._replay_generator = torch.Generator(self.device), np.random.default_rng()
        self.set_random_seed(self.seed)

        codec = OneHotCodec(self.action_space)
        if self.env is not None:
            self.replay_buffer = self._make_replay_buffer()
        # torch initialises networks from its default generator: lend it ours. (torch.manual_seed would seed GPUs too.)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self._init_seed)
            self.policy = self.policy_class(  # type: ignore[assignment]
                self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
            )
        self.policy = self.policy.to(self.device)
        self.policy.generator = self.generator
        self.estimator.to(self.device)
        self.entropy_coefficient = _make_entropy_coefficient(self.ent_coef, codec.n).to(self.device)
        largest = torch.tensor(codec.sizes, dtype=torch.float64).log()  # entropies
        self._target_entropy_ratio = self.target_entropy_ratio
        if not isinstance(self.target_entropy, str):
            self._target_entropy_ratio = self.target_entropy / largest.sum().clamp_min(1e-9).item()
        self._target_entropy = (self._target_entropy_ratio * largest).float().to(self.device)
        # Only its shape counts: what the estimator draws noise for.
        self._template = FactoredCategorical(torch.zeros(1, codec.n, codec.K, device=self.device), codec.mask)
        # An estimator that does not fit the actions says so now, not by the first update.
        self.estimator.expectation(
            self._template, lambda one_hot: one_hot.sum((-2, -1)), generator=torch.Generator(self.device)
        )
        loss = SACLoss(
            self.policy.actor,
            self.policy.critic,
            self.policy.critic_target,
            self.entropy_coefficient,
            self.estimator,
            critics=self.critics,
            entropy_in_target=self.entropy_in_target,
            q_clip=self.q_clip,
        )
        targets = [("critic", "critic_target")]
        self.learner = Learner(loss, targets, max_grad_norm=self.max_grad_norm, compile=self.compile)
        self._metrics: dict[str, Tensor] = {}
        self._train_seconds = 0.0
        self._timed_updates = 0

    def _make_replay_buffer(self, state: dict[str, Any] | None = None) -> ReplayBuffer:
        """Makes an empty buffer, or one of this state."""
        buffer = ReplayBuffer(
            self.buffer_size,
            self.observation_space,
            self.action_space,
            self.device,
            self.n_envs,
            gamma=self.gamma,
            n_steps=self.n_steps,
            reward_scale=self.reward_scale,
            generator=self._replay_generator,
            masked=self.masked if state is None else "action_masks" in state,
        )
        if state is not None:
            buffer.load_state_dict(state)
        return buffer

    def _check_settings(self) -> None:
        """Raises before any work is lost. The replay buffer checks its own arguments."""
        if not hasattr(self, "action_space"):
            raise ValueError("env must be an environment, but got None; DiscreteSAC.load needs none to predict.")
        if not isinstance(self.estimator, Estimator):
            raise TypeError(f"estimator must be a name or a gsrl.Estimator, but got {type(self.estimator).__name__}.")
        if self.critics not in ("min", "mean"):
            raise ValueError(f"critics must be 'min' or 'mean', but got {self.critics!r}.")
        if isinstance(self.target_entropy, str) and self.target_entropy != "auto":
            raise ValueError(f"target_entropy must be 'auto' or a number of nats, but got {self.target_entropy!r}.")
        if not 0 <= self.target_entropy_ratio <= 1:
            raise ValueError(f"target_entropy_ratio must be in [0, 1], but got {self.target_entropy_ratio}.")
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau must be in (0, 1], but got {self.tau}.")
        for name in ("q_clip", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive or None, but got {value}.")
        largest = sum(map(math.log, OneHotCodec(self.action_space).sizes))
        if not isinstance(self.target_entropy, str) and not 0 <= self.target_entropy <= largest:
            raise ValueError(
                f"target_entropy must be from 0 to that of the uniform policy, {largest:.4g} nats, "
                f"but got {self.target_entropy}."
            )
        if not callable(self.learning_rate) and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, but got {self.learning_rate}.")
        for name, lowest in (
            ("buffer_size", 1),
            ("learning_starts", 0),
            ("batch_size", 1),
            ("gradient_steps", -1),
            ("n_steps", 1),
            ("target_update_interval", 1),
        ):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < lowest:
                raise ValueError(f"{name} must be an integer of at least {lowest}, but got {value!r}.")
        frequency = self.train_freq[0] if isinstance(self.train_freq, tuple) else self.train_freq
        if not isinstance(frequency, int) or frequency < 1:
            raise ValueError(f"train_freq must be at least 1 step or episode, but got {self.train_freq!r}.")
        for name in self.policy_kwargs.keys() & REFUSED.keys():
            raise ValueError(f"policy_kwargs must not hold {name!r}: {REFUSED[name]}.")

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seeds the agent's generators, its action space and its environment; no global generator.

        Args:
            seed: A non-negative integer; None: entropy of the operating system, and the environment stays as it is.
        """
        streams = np.random.SeedSequence(seed).spawn(3)
        noise_seed, self._init_seed = (int(stream.generate_state(1, np.uint64)[0] >> 1) for stream in streams[:2])
        # In place: policy and replay buffer hold the same generators.
        self.generator.manual_seed(noise_seed)
        self._replay_generator.bit_generator.state = np.random.default_rng(streams[2]).bit_generator.state
        if seed is not None:
            self.action_space.seed(seed)
            if self.env is not None:
                self.env.seed(seed)

    # Training

    def learn(
        self: SelfDiscreteSAC,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "DiscreteSAC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfDiscreteSAC:
        """Trains for ``total_timesteps`` more environment steps; see Stable-Baselines3's ``learn``."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> Any:
        if self.replay_buffer is None:
            self.replay_buffer = self._make_replay_buffer()
        is_reset = reset_num_timesteps or self._last_obs is None
        if is_reset:
            self.replay_buffer.end_episodes()  # the environment is about to be reset
            if self.env is not None and isinstance(self.env.unwrapped, GymnasiumVecEnv):
                if self.env.unwrapped.has_dummy_steps and is_vecenv_wrapped(self.env, VecFrameStack):
                    raise ValueError(
                        "env must not be a VecFrameStack of a vector environment with dummy steps: the stack would "
                        "keep the final frame of an episode for the next; stack in the environments, by "
                        "gymnasium.wrappers.FrameStackObservation."
                    )
                self.env.unwrapped.allow_dummy_steps()  # the replay buffer drops them
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        if is_reset:
            assert self.env is not None
            self._last_masks = current_masks(self.env)
            if self._last_masks is None and (self.env.has_attr("action_masks") or shows_masks(self.observation_space)):
                warnings.warn(
                    "The environments give action masks by a method or in their observations, which are not heeded: "
                    "put gsrl.masking.ActionMasker around each before they are vectorised.",
                    stacklevel=3,
                )
            self._set_masked(self._last_masks is not None)
        if reset_num_timesteps:
            self.stopwatch = Stopwatch()
        self.stopwatch.start()
        return result

    @staticmethod
    def _wrap_env(env: GymEnv | VectorEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """Takes Gymnasium's vector environments too, and the masks that a single environment gives."""
        env = adapt(env)
        _check_spaces(env.observation_space, env.action_space)
        if isinstance(env, gym.Env):
            single = Monitor(env) if monitor_wrapper and not is_wrapped(env, Monitor) else env
            env = SyncVecEnv([lambda: single])
        return OffPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def _set_masked(self, masked: bool) -> None:
        """Makes the replay buffer one with masks, or without; only an empty one can change."""
        assert self.replay_buffer is not None
        self.masked = masked
        if self.replay_buffer.masked == masked:
            return
        if self.replay_buffer.size():
            given = "gives action masks" if masked else "gives no action masks"
            raise ValueError(f"env {given}, unlike the one whose transitions the replay buffer holds.")
        self.replay_buffer = self._make_replay_buffer()

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: ReplayBuffer,  # type: ignore[override]
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """Takes the steps between two trainings, and stores them; see Stable-Baselines3's ``collect_rollouts``.

        The order of things is the same; callbacks find in their ``locals`` what is known before an episode is counted.
        """
        self.policy.set_training_mode(False)
        if env.num_envs > 1 and train_freq.unit != TrainFrequencyUnit.STEP:
            raise ValueError(f"train_freq must count steps where there are {env.num_envs} environments.")
        lap = self.stopwatch.lap
        num_collected_steps, num_collected_episodes = 0, 0
        callback.on_rollout_start()
        continue_training = True
        lap("callbacks")
        while should_collect_more_steps(train_freq, num_collected_steps, num_collected_episodes):
            actions, buffer_actions = self._sample_action(learning_starts, action_noise, env.num_envs)
            lap("acting")
            new_obs, rewards, dones, infos = env.step(actions)
            self.num_timesteps += env.num_envs
            num_collected_steps += 1
            lap("environment")

            callback.update_locals(locals())
            continue_training = callback.on_step()
            lap("callbacks")
            if not continue_training:
                return RolloutReturn(num_collected_steps * env.num_envs, num_collected_episodes, False)

            self._update_info_buffer(infos, dones)
            self._store_transition(replay_buffer, buffer_actions, new_obs, rewards, dones, infos)  # type: ignore[arg-type]
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            self._on_step()
            lap("replay")
            for _ in range(np.count_nonzero(dones)):
                num_collected_episodes += 1
                self._episode_num += 1
                if log_interval is not None and self._episode_num % log_interval == 0:
                    self.dump_logs()
                    lap("logging")
        callback.on_rollout_end()
        lap("callbacks")
        return RolloutReturn(num_collected_steps * env.num_envs, num_collected_episodes, continue_training)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.num_timesteps < learning_starts:
            codec = self.policy.actor.head.codec
            legal = self.policy.actor.head.mask
            if self._last_masks is not None:
                legal = torch.as_tensor(to_matrix(codec, self._last_masks), device=self.device)
            uniform = FactoredCategorical(torch.zeros(n_envs, codec.n, codec.K, device=self.device), legal)
            actions = codec.from_indices(uniform.sample(generator=self.generator).argmax(-1)).cpu().numpy()
        else:
            assert self._last_obs is not None  # _setup_learn has reset the environment
            actions = self.policy.act(self._last_obs, self._last_masks)
        return actions, actions

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,  # type: ignore[override]
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Stores unnormalised observations and rewards, with the masks of both states, and goes on to the next ones."""
        normalized = self._vec_normalize_env
        if normalized is None:
            last_obs, next_obs = self._last_obs, new_obs
        else:
            last_obs, next_obs = self._last_original_obs, normalized.get_original_obs()
            reward = normalized.get_original_reward()
        replay_buffer.add(
            last_obs,  # type: ignore[arg-type]
            _successors(next_obs, dones, infos, normalized),
            buffer_action,
            reward,
            dones,
            infos,
            self._last_masks,
        )
        self._last_obs = new_obs
        if normalized is not None:
            self._last_original_obs = next_obs
        assert self.env is not None
        self._last_masks = current_masks(self.env, infos, dones)
        if (self._last_masks is not None) != self.masked:
            raise ValueError(
                'env must give info["action_mask"] at every reset and step, or never, but left it out here.'
            )

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Returns actions, see :meth:`gsrl.algorithms.policies.DiscreteSACPolicy.predict`.

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
        codec = self.policy.actor.head.codec
        shape = check_masks(codec, action_masks, "action_masks").shape
        observations, _ = self.policy.obs_to_tensor(observation)
        count = len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
        if math.prod(shape[:-1]) not in (1, count):
            raise ValueError(
                f"action_masks must have shape [{shape[-1]}] or [{count}, {shape[-1]}] for {codec.space} and this "
                f"observation, got {list(shape)}"
            )

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Does ``gradient_steps`` updates, each on a fresh batch of ``batch_size`` transitions."""
        assert self.replay_buffer is not None  # learn has made it
        start = time.perf_counter()
        self.policy.set_training_mode(True)
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            self.stopwatch.lap("replay")
            self.update(batch)
            self.stopwatch.lap("update")
        self._train_seconds += time.perf_counter() - start
        self._timed_updates += gradient_steps

    def update(self, batch: ReplayBatch) -> None:
        """Does one update of all networks.

        Args:
            batch: Transitions, from the replay buffer or elsewhere.
        """
        if self._template.batch_shape != batch.rewards.shape:
            zeros = torch.zeros(*batch.rewards.shape, *self._template.event_shape, device=self.device)
            self._template = FactoredCategorical(zeros, validate_args=False)
        noise = self.estimator.draw_noise(self._template, self.generator)
        next_noise = None
        if self.policy.critic.form == "network":
            next_noise = gumbel_noise(self._template.logits.shape, generator=self.generator, device=self.device)
        target_entropy = self._target_entropy
        if batch.action_mask is not None:
            target_entropy = self._target_entropy_ratio * batch.action_mask.sum(-1).log()  # [B, n]
        self._n_updates += 1
        self._metrics = self.learner.update(
            batch,
            noise,
            target_entropy,
            next_noise,
            learning_rate=self.lr_schedule(self._current_progress_remaining),
            tau=self.tau if self._n_updates % self.target_update_interval == 0 else 0.0,
        )
        self.estimator.step(self._metrics["expected_q"])

    def dump_logs(self) -> None:
        """Writes the log: of the last update, as means over its batch. The only place that reads tensors back.

        Raises:
            FloatingPointError: A metric is NaN or infinite; the networks are lost.
        """
        for name, value in self._metrics.items():
            if name == "target_entropy":
                continue  # below: a sum over factors
            mean = value.mean().item()
            if not math.isfinite(mean):
                raise FloatingPointError(
                    f"{name} is {mean} after {self._n_updates} updates: the training diverged. "
                    "Try a lower learning_rate, smaller rewards, or max_grad_norm."
                )
            self.logger.record(f"train/{name}", mean)
        if self._metrics:
            self.logger.record("train/q_max", self._metrics["q"].max().item())
            self.logger.record("train/target_entropy", self._metrics["target_entropy"].sum(-1).mean().item())
            if isinstance(self.estimator, Pathwise) and isinstance(self.estimator.temperature, Temperature):
                self.logger.record("train/temperature", self.estimator.temperature().item())
            for name, norm in self.learner.gradient_norms().items():
                self.logger.record(f"train/gradient_norm_{name}", norm.item())
            self.logger.record("train/learning_rate", self.lr_schedule(self._current_progress_remaining))
            self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
            self.logger.record("time/updates_per_second", self._timed_updates / max(self._train_seconds, 1e-9))
        for name, share in self.stopwatch.shares().items():
            self.logger.record(f"time/share_{name}", share)
        self._train_seconds, self._timed_updates = 0.0, 0
        super().dump_logs()

    # State

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "estimator", "entropy_coefficient", "learner"], []

    def set_parameters(
        self,
        load_path_or_dict: str | dict[str, Any],
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """Loads parameters from a saved model or from what :meth:`get_parameters` returned.

        Args:
            load_path_or_dict: Path, or a state dict for each of ``policy``, ``estimator``, ``entropy_coefficient`` and
                ``learner``.
            exact_match: Whether all four, and each of their entries, must be there.
            device: Unused: parameters stay where they are.

        Raises:
            gsrl.checkpoint.CheckpointError: The file is not a saved model, or does not fit this one.
            KeyError: Entries of the optimiser's state do not match.
            RuntimeError: Entries of a module's state dict do not match.
            ValueError: With ``exact_match``, the names of the four do not match.
        """
        if isinstance(load_path_or_dict, dict):
            super().set_parameters(load_path_or_dict, exact_match)
            return
        tree = _read(load_path_or_dict, self.device, False, {})
        with checkpoint.fitting(load_path_or_dict):
            checkpoint.check_entries(tree, {"parameters": self.get_parameters() if exact_match else None})
            super().set_parameters(tree["parameters"], exact_match)

    def state_dict(self, *, replay_buffer: bool = True) -> dict[str, Any]:
        """Everything that changes while the agent learns, as a tree that :func:`gsrl.checkpoint.save` stores.

        Args:
            replay_buffer: Whether the replay buffer is in it.
        """
        state: dict[str, Any] = {
            "parameters": self.get_parameters(),
            "counters": {name: getattr(self, name) for name in COUNTERS},
            "generator": {"device": self.device.type, "state": self.generator.get_state()},
            "ep_info_buffer": self.ep_info_buffer,
            "ep_success_buffer": self.ep_success_buffer,
            "last_obs": self._last_obs,
            "last_original_obs": self._last_original_obs,
            "last_episode_starts": self._last_episode_starts,
            "last_masks": self._last_masks,
            "masked": self.masked,
        }
        if replay_buffer and self.replay_buffer is not None:
            state["replay_buffer"] = self.replay_buffer.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`, of an agent with the same settings.

        The state of a generator only fits its own kind of device: on another one, this agent's stays as it is.

        Raises:
            gsrl.checkpoint.CheckpointError: An entry is missing or has another shape; nothing is restored then.
        """
        expected = self.state_dict(replay_buffer=False)
        expected["generator"]["state"] = None  # its size is that of its kind of device
        checkpoint.check_entries(state, expected)
        self.set_parameters(state["parameters"])
        for name in COUNTERS:
            setattr(self, name, state["counters"][name])
        if state["generator"]["device"] == self.device.type:
            self.generator.set_state(state["generator"]["state"].cpu())
        self.ep_info_buffer = copy.copy(state["ep_info_buffer"])
        self.ep_success_buffer = copy.copy(state["ep_success_buffer"])
        self._last_obs = state["last_obs"]
        self._last_original_obs = state["last_original_obs"]
        self._last_episode_starts = state["last_episode_starts"]
        self._last_masks, self.masked = state["last_masks"], state["masked"]
        if "replay_buffer" in state:
            self.replay_buffer = self._make_replay_buffer(state["replay_buffer"])

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Saves the agent without its replay buffer, as tensors and JSON: loading such a file runs no code.

        Args:
            path: Path, ``.zip`` is added where it has no suffix; or a binary file object.
            exclude: Names of settings to leave out, which then take their defaults on loading.
            include: ``["replay_buffer"]`` keeps the replay buffer.

        Raises:
            ValueError: ``exclude`` or ``include`` names something else.
        """
        excluded, included = set(exclude or ()), set(include or ())
        if not (excluded <= set(SETTINGS) and included <= {"replay_buffer"}):
            raise ValueError(
                f"exclude must name settings, {SETTINGS}, and include 'replay_buffer' alone, "
                f"but got exclude={sorted(excluded)}, include={sorted(included)}."
            )
        tree: dict[str, Any] = {
            "algorithm": type(self).__name__,
            "policy_class": self.policy_class,
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "n_envs": self.n_envs,
            **{name: getattr(self, name) for name in SETTINGS if name not in excluded},
            **self.state_dict(replay_buffer="replay_buffer" in included),
        }
        checkpoint.save(_zip_path(path), tree)

    @classmethod
    def load(
        cls: type[SelfDiscreteSAC],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trusted: bool = False,
        **kwargs: Any,
    ) -> SelfDiscreteSAC:
        """Loads a saved agent.

        Args:
            path: Path (``.zip`` may be left out) or binary file object.
            env: Environment to go on learning in; None: only to predict.
            device: Of the networks.
            custom_objects: Values that take the place of saved settings, such as a learning-rate function.
            print_system_info: Whether versions are printed.
            force_reset: Whether the environment is reset before learning.
            trusted: Whether classes that gsrl does not know are imported. This runs code of the file's choosing.
            **kwargs: Settings to change.

        Raises:
            gsrl.checkpoint.CheckpointError: The file is damaged, foreign, of a newer format, needs
                ``custom_objects``, or lacks what this version of gsrl restores.
            ValueError: ``env`` has other spaces than the agent, another algorithm saved the file, or the parameters do
                not fit the changed settings.
        """
        if print_system_info:
            get_system_info()
        tree = _read(path, device if device != "auto" else "cpu", trusted, custom_objects or {})
        if tree["algorithm"] != cls.__name__:
            raise ValueError(f"path holds a {tree['algorithm']}, but {cls.__name__}.load was called.")
        settings = {name: tree[name] for name in SETTINGS if name in tree} | kwargs
        if env is not None:
            env = cls._wrap_env(env, settings.get("verbose", 0))
            check_for_correct_spaces(env, tree["observation_space"], tree["action_space"])
        model = cls(policy=tree["policy_class"], env=env, device=device, _init_setup_model=False, **settings)
        model.observation_space, model.action_space = tree["observation_space"], tree["action_space"]
        model.n_envs = tree["n_envs"] if env is None else env.num_envs
        model._setup_model()
        if model.n_envs != tree["n_envs"] and tree.pop("replay_buffer", None) is not None:
            warnings.warn(
                f"the replay buffer of {tree['n_envs']} environments was left out: env has {model.n_envs}.",
                stacklevel=2,
            )
        try:
            with checkpoint.fitting(path):
                model.load_state_dict(tree)
        except checkpoint.CheckpointError as error:
            if not (kwargs or custom_objects):
                raise
            changed = sorted({*kwargs, *(custom_objects or {})})
            raise ValueError(f"the saved parameters do not fit the changed settings {changed}: {error}") from error
        if "seed" in kwargs:
            model.set_random_seed(kwargs["seed"])
        if env is None or force_reset or model.n_envs != tree["n_envs"]:
            model._last_obs = None
        return model

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """Saves the replay buffer, as arrays and JSON.

        Raises:
            ValueError: There is none yet: the agent has no environment.
        """
        if self.replay_buffer is None:
            raise ValueError("there is no replay buffer to save: the agent has no environment.")
        checkpoint.save(path, {"replay_buffer": self.replay_buffer.state_dict()})  # type: ignore[arg-type]

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """Loads a replay buffer of the same spaces, size and number of environments.

        Args:
            path: What :meth:`save_replay_buffer` wrote.
            truncate_last_traj: Whether the last episode ends where the buffer ends.

        Raises:
            gsrl.checkpoint.CheckpointError: The file is damaged, or is not that of such a replay buffer.
        """
        tree = checkpoint.load(path)  # type: ignore[arg-type]
        with checkpoint.fitting(path):
            checkpoint.check_entries(tree, {"replay_buffer": None})
            self.replay_buffer = self._make_replay_buffer(tree["replay_buffer"])
        self.masked = self.replay_buffer.masked
        if truncate_last_traj:
            self.replay_buffer.end_episodes()


def _check_spaces(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """Refuses what neither our networks nor the preprocessing of Stable-Baselines3 can take."""
    if not isinstance(action_space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise TypeError(f"env must have a Discrete, MultiDiscrete or MultiBinary action space, but got {action_space}.")
    for space in observation_space.values() if isinstance(observation_space, spaces.Dict) else [observation_space]:
        if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            raise TypeError(
                "env must have observations that are a Box, Discrete, MultiDiscrete or MultiBinary, or a Dict of "
                f"these, but got {space}."
            )
        if 0 in (space.shape or ()):
            raise ValueError(f"env must have observations that are not empty, but got {space}.")
        if isinstance(space, spaces.MultiDiscrete) and len(space.shape) > 1:
            raise ValueError(f"env must have MultiDiscrete observations of one dimension, but got {space}.")
        if np.any(getattr(space, "start", 0)):
            raise ValueError(f"env must have observations that start at 0, but got {space}.")


def _make_entropy_coefficient(ent_coef: str | float, n: int) -> EntropyCoefficient:
    """From Stable-Baselines3's notation: ``"auto"``, ``"auto_0.1"`` or a number."""
    try:
        if not isinstance(ent_coef, str):
            return EntropyCoefficient(float(ent_coef), learned=False, n=n)
        prefix, _, initial = ent_coef.partition("_")
        if prefix != "auto":
            raise ValueError
        return EntropyCoefficient(float(initial) if initial else 1.0, learned=True, n=n)
    except ValueError:
        raise ValueError(
            f"ent_coef must be 'auto', 'auto_<positive number>' or a number of at least 0, but got {ent_coef!r}."
        ) from None


def _successors(
    observations: Any, dones: np.ndarray, infos: list[dict[str, Any]], normalized: VecNormalize | None
) -> Any:
    """The observations that actions led to: where an episode is done, its final one in the place of the next one's."""
    final = {i: infos[i]["terminal_observation"] for i in dones.nonzero()[0] if "terminal_observation" in infos[i]}
    if not final:
        return observations
    if normalized is not None:
        final = {i: normalized.unnormalize_obs(observation) for i, observation in final.items()}
    if isinstance(observations, dict):
        observations = {key: array.copy() for key, array in observations.items()}
        for i, observation in final.items():
            for key, array in observations.items():
                array[i] = observation[key]
        return observations
    observations = observations.copy()
    for i, observation in final.items():
        observations[i] = observation
    return observations


def _zip_path(path: Any) -> Any:
    """Adds ``.zip`` to a path without a suffix, as Stable-Baselines3 does."""
    if isinstance(path, str | os.PathLike):
        path = pathlib.Path(path)
        return path if path.suffix else path.with_suffix(".zip")
    return path


def _read(path: Any, device: torch.device | str, trusted: bool, replace: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(path, str | os.PathLike) and not pathlib.Path(path).exists():
        path = _zip_path(path)
    tree = checkpoint.load(path, device=device, trusted=trusted, replace=replace)
    if not isinstance(tree, dict) or "algorithm" not in tree:
        raise checkpoint.CheckpointError(f"{path} is a gsrl checkpoint, but not a saved DiscreteSAC.")
    with checkpoint.fitting(path):
        checkpoint.check_entries(tree, dict.fromkeys(("policy_class", "observation_space", "action_space", "n_envs")))
    return tree
