"""Discrete soft actor-critic, as a Stable-Baselines3 algorithm."""

from __future__ import annotations

import io
import math
import pathlib
import time
import warnings
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
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
from stable_baselines3.common.utils import should_collect_more_steps
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from gsrl import checkpoint
from gsrl._settings import settings_of
from gsrl._trees import map_arrays
from gsrl.algorithms.base import Algorithm
from gsrl.algorithms.policies import CnnPolicy, DiscreteSACPolicy, MlpPolicy, MultiInputPolicy
from gsrl.algorithms.sac_loss import EntropyCoefficient, SACLoss
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import RLOO, Estimator, Pathwise, StraightThrough, make_estimator
from gsrl.learning import Learner
from gsrl.learning.noise import draw
from gsrl.learning.trace import is_worth_compiling
from gsrl.masking import current_masks, to_matrix
from gsrl.normalization import Normalization
from gsrl.relaxations import gumbel_noise
from gsrl.replay import PersistentExploration, ReplayBatch, ReplayBuffer, stack_of
from gsrl.replay.checks import checked_infos
from gsrl.spaces import OneHotCodec
from gsrl.temperature import Temperature
from gsrl.values import CriticCombination
from gsrl.vec_env import LONGEST_EPISODE, has_time_limit, naming_dead_workers

__all__ = ["DiscreteSAC"]

INITIAL_ENTROPY_COEFFICIENTS = {"auto": 1.0, "relative": 0.6}
"""What stands for a number that ``ent_coef`` does not name."""

NUM_SAMPLES = 4
"""Of the estimator that is chosen where critics are networks of the action."""

SelfDiscreteSAC = TypeVar("SelfDiscreteSAC", bound="DiscreteSAC")


class DiscreteSAC(Algorithm, OffPolicyAlgorithm):
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
        optimize_memory_usage: Whether replay stores each frame of observations that are a ``Box`` once: what follows an
            observation in its episode, and what stacked frames (``VecFrameStack``, ``FrameStackObservation``) have in
            common. What is learned is the same to the bit; see :class:`gsrl.replay.ReplayBuffer`. Unlike
            Stable-Baselines3's, it keeps final observations, which truncation needs.
        learning_starts: Steps with uniformly random actions before the first update.
        batch_size: Transitions in an update.
        tau: Polyak's coefficient.
        gamma: Discount factor.
        train_freq: Steps between updates, or a tuple such as ``(1, "episode")``.
        gradient_steps: Updates each time; -1: as many as steps taken.
        n_steps: Largest length of the n-step returns; biased above 1, see :class:`gsrl.replay.ReplayBuffer`.
            ``"auto"``: 3 for a single factor; 1 for several, where the effect of one choice drowns in that of all
            later ones.
        n_step_correction: Whether later steps count only as far as the policy would have taken their actions, which
            may be those of older policies and of exploration: :func:`gsrl.losses.lambda_target` with
            :func:`gsrl.losses.policy_traces`. The target networks are then asked about every step.
        reward_scale: What rewards are multiplied by before they are learned from. ``"auto"``: values are shifted and
            scaled by statistics of the returns seen so far, see :class:`gsrl.normalization.Normalization`; learning
            then does not depend on the unit of rewards. Values, losses and an ``ent_coef`` that is a number or
            learned are in scaled units; episode returns are not.
        estimator: The actor's gradient: a name that :func:`gsrl.make_estimator` knows, or an estimator, which then is
            this agent's: its temperature or baseline advances with each update. ``"auto"``: ``"straight-through"``
            where the critic is linear in each row, which makes it exact but for the draw of the other rows;
            ``"rloo"`` of four samples, which needs no slopes, where the critic is a network of the matrix, for nothing
            in its training says what its slopes are.
        ent_coef: Entropy coefficient alpha. ``"relative"``: entropies count as shares of the largest, and weigh .6
            times what the values of the choices deviate by, in each state by itself; ``"relative_0.5"`` .5 times; see
            :class:`gsrl.algorithms.sac_loss.SACLoss`. ``"auto"`` learns it, ``"auto_0.1"`` learns it from 0.1, a float
            fixes it, a function of the remaining progress lets it go its way.
        target_entropy: What learned alphas steer the entropy to, in nats; ``"auto"``: the ratio below times the
            entropy of the uniform policy. Either is shared out among the factors in proportion to their largest
            entropies; where a state has masks, it shrinks with the entropy that is left.
        target_entropy_ratio: Share of the largest entropy, in [0, 1], used with ``target_entropy="auto"``.
        critics: ``"min"`` or ``"mean"`` of the critics, see :func:`gsrl.values.combine_critics`.
        entropy_in_target: Whether the critics' target holds the entropy bonus, see :func:`gsrl.values.soft_value`.
        q_clip: Bound on how far a value may move from the target network's, see :func:`gsrl.losses.critic_loss`; None:
            unbounded.
        max_grad_norm: Largest gradient norm of the actor, of the critics, and of a learned entropy coefficient, each by
            itself; None: not clipped.
        target_update_interval: Updates between moves of the target networks.
        exploration_eps: Chance that an environment begins, at a step, to repeat choices that were drawn uniformly, see
            :class:`gsrl.replay.PersistentExploration`. It finds what takes the same choice many times in a row.
        policy_kwargs: Arguments of the policy, such as ``net_arch``.
        stats_window_size: Episodes that the logged return is averaged over.
        tensorboard_log: Folder for TensorBoard; None: no logging there.
        verbose: 0: silent, 1: information, 2: debugging.
        seed: Seed of everything random; None: from the operating system.
        device: Of the networks.
        compile: Whether updates are compiled, see :class:`gsrl.learning.Learner`. ``"auto"``: from the first ``learn``
            on that has enough of them to come, see :func:`gsrl.learning.trace.is_worth_compiling`; with ``verbose`` it
            says so. Not saved: it is about the machine.
        _init_setup_model: Whether the networks are built at once.

    Attributes:
        generator: Torch generator of actions and noise.
        estimator: The :class:`gsrl.Estimator` in use.
        actor: The policy's, as are ``critic`` and ``critic_target``.
        entropy_coefficient: The :class:`gsrl.algorithms.sac_loss.EntropyCoefficient`.
        learner: The :class:`gsrl.learning.Learner`.
        stopwatch: The :class:`gsrl.timing.Stopwatch` of the training, with the times of ``environment``, ``acting``,
            ``replay``, ``update``, ``callbacks`` and ``logging``, and of ``evaluation`` by
            :class:`gsrl.callbacks.EvalCallback`. ``learn(reset_num_timesteps=False)`` adds to them.

    Raises:
        TypeError: The action space is not discrete, or an argument is one of :attr:`REFUSED`.
        ValueError: An argument is out of range; the message names it.

    Example:
        >>> model = DiscreteSAC("MlpPolicy", "CartPole-v1", learning_starts=10, seed=0).learn(20)
        >>> action, _ = model.predict(np.zeros(4, np.float32), deterministic=True)
        >>> action in (0, 1)
        True
    """

    EARLIER: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 3e-4,
        "batch_size": 256,
        "tau": 0.005,
        "n_steps": 1,
        "n_step_correction": False,
        "reward_scale": 1.0,
        "ent_coef": "auto",
        "critics": "min",
        "entropy_in_target": True,
        "exploration_eps": 0.0,
    }
    EARLIER_THAN_2: ClassVar[Mapping[str, Any]] = {"estimator": "straight-through"}
    REFUSED: ClassVar[Mapping[str, str]] = {
        "action_noise": "the policy explores by its own entropy, and by exploration_eps",
        "replay_buffer_class": "the agent has its own replay buffer",
        "replay_buffer_kwargs": "the agent has its own replay buffer",
        "use_sde": "generalised state-dependent exploration is for continuous actions",
        "sde_sample_freq": "generalised state-dependent exploration is for continuous actions",
        "use_sde_at_warmup": "generalised state-dependent exploration is for continuous actions",
        "optimizer_class": "the optimiser is the learner's Adam",
        "optimizer_kwargs": "the optimiser is the learner's Adam",
    }
    FIXED: ClassVar[Mapping[str, str]] = {
        **Algorithm.FIXED,
        "buffer_size": "the replay buffer is there",
        "optimize_memory_usage": "the replay buffer is there",
        "estimator": "the optimiser holds its parameters",
        "compile": "the learner is built",
    }
    INCLUDED: ClassVar[tuple[str, ...]] = ("replay_buffer",)
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: DiscreteSACPolicy
    estimator: Estimator
    replay_buffer: ReplayBuffer | None  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[DiscreteSACPolicy],
        env: GymEnv | VectorEnv | str | None,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 128,
        tau: float = 0.01,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        *,
        n_steps: int | Literal["auto"] = "auto",
        n_step_correction: bool = True,
        reward_scale: float | Literal["auto"] = "auto",
        estimator: str | Estimator = "auto",
        ent_coef: str | float | Schedule = "relative",
        target_entropy: str | float = "auto",
        target_entropy_ratio: float = 0.2,
        critics: CriticCombination = "mean",
        entropy_in_target: bool = False,
        q_clip: float | None = None,
        max_grad_norm: float | None = None,
        target_update_interval: int = 1,
        exploration_eps: float = 0.05,
        optimize_memory_usage: bool = False,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        compile: bool | Literal["auto"] = False,
        _init_setup_model: bool = True,
        **refused: Any,
    ) -> None:
        self._refuse(refused)
        given: dict[str, Any] = {"env": env, "n_steps": n_steps}  # None; and a word, until the actions are known
        super().__init__(
            policy,
            given["env"],
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=given["n_steps"],
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            sde_support=False,
        )
        self.estimator = estimator  # type: ignore[assignment]  # a name, until the actions are known
        self.n_step_correction = n_step_correction
        self.reward_scale = reward_scale
        self.ent_coef = ent_coef
        self.target_entropy = target_entropy
        self.target_entropy_ratio = target_entropy_ratio
        self.critics = critics
        self.entropy_in_target = entropy_in_target
        self.q_clip = q_clip
        self.max_grad_norm = max_grad_norm
        self.target_update_interval = target_update_interval
        self.exploration_eps = exploration_eps
        self.compile = compile
        if _init_setup_model:
            self._setup_model()
            # One that does not fit the actions says so now, not by the first update.
            self.estimator.expectation(
                self._template, lambda one_hot: one_hot.sum((-2, -1)), generator=torch.Generator(self.device)
            )

    SETTINGS: ClassVar[tuple[str, ...]] = settings_of(__init__)

    # Construction

    def _setup_model(self) -> None:
        self._check_settings()
        codec = OneHotCodec(self.action_space)
        self._resolve_n_steps()
        self._replay_generator = np.random.default_rng()
        self._exploration = PersistentExploration([self.exploration_eps], (self.n_envs, codec.n, codec.K), self.device)
        self._begin_setup()
        self._convert_train_freq()

        if self.env is not None:
            self.replay_buffer = self._make_replay_buffer()
        self._make_policy()
        if isinstance(self.estimator, str):
            self.estimator = self._make_estimator(self.estimator)
        self._normalization = Normalization(
            [self.gamma], self.n_envs, self.policy.actor.normalized_shapes, values=self.reward_scale == "auto"
        )
        self.actor, self.critic = self.policy.actor, self.policy.critic
        self.critic_target = self.policy.critic_target
        self.estimator.to(self.device)
        self.entropy_coefficient = _make_entropy_coefficient(self.ent_coef, codec.n).to(self.device)
        self._set_target_entropy()
        # Only its shape counts: what the estimator draws noise for.
        self._template = FactoredCategorical(
            torch.zeros(1, codec.n, codec.K, device=self.device), self.policy.actor.head.mask
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
            relative_entropy=kind_of_entropy(self.ent_coef) == "relative",
            share_features=self.policy.share_features_extractor,
        )
        targets = [("critic", "critic_target")]
        self.learner = Learner(loss, targets, max_grad_norm=self.max_grad_norm, compile=self.compile is True)
        self._metrics: dict[str, Tensor] = {}
        self._train_seconds = 0.0
        self._timed_updates = 0
        self.is_built = True

    def _make_estimator(self, name: str) -> Estimator:
        if name != "auto":
            codec = OneHotCodec(self.action_space)
            return make_estimator(name, shape=(codec.n, codec.K))
        return RLOO(NUM_SAMPLES) if self.policy.critic.form == "network" else StraightThrough()

    def _resolve_n_steps(self) -> None:
        n_steps: Any = self.n_steps
        if n_steps == "auto":
            self.n_steps = 3 if OneHotCodec(self.action_space).n == 1 else 1

    def _set_target_entropy(self) -> None:
        largest = torch.tensor(OneHotCodec(self.action_space).sizes, dtype=torch.float64).log()  # entropies
        self._target_entropy_ratio = self.target_entropy_ratio
        if not isinstance(self.target_entropy, str):
            self._target_entropy_ratio = self.target_entropy / largest.sum().clamp_min(1e-9).item()
        self._target_entropy = (self._target_entropy_ratio * largest).float().to(self.device)

    def _apply_setting(self, name: str) -> None:
        super()._apply_setting(name)
        if name == "train_freq":
            self._convert_train_freq()
        elif name == "reward_scale" and (self.reward_scale == "auto") != (self._normalization.returns is not None):
            kind = "a number" if self.reward_scale == "auto" else "'auto'"
            raise ValueError(f"reward_scale must stay {kind}, as it was built, but got {self.reward_scale!r}.")
        elif name in ("gamma", "n_steps", "reward_scale"):
            self._resolve_n_steps()
            if self.replay_buffer is not None and getattr(self, name) != "auto":
                setattr(self.replay_buffer, name, getattr(self, name))
            if self._normalization.returns is not None:
                self._normalization.returns.gammas[:] = self.gamma
        elif name == "n_step_correction":
            if self.replay_buffer is not None:
                self.replay_buffer.stepwise = self.n_step_correction
        elif name == "ent_coef":
            coefficient = _make_entropy_coefficient(self.ent_coef, OneHotCodec(self.action_space).n)
            if coefficient.learned != self.entropy_coefficient.learned:
                kind = "fixed, not 'auto'" if coefficient.learned else "learned, 'auto' or 'auto_<number>'"
                raise ValueError(f"ent_coef must stay {kind}, as it was built, but got {self.ent_coef!r}.")
            self.entropy_coefficient.load_state_dict(coefficient.state_dict())
            self.learner.change_loss("relative_entropy", kind_of_entropy(self.ent_coef) == "relative")
        elif name in ("target_entropy", "target_entropy_ratio"):
            self._set_target_entropy()
        elif name in ("critics", "entropy_in_target", "q_clip"):
            self.learner.change_loss(name, getattr(self, name))
        elif name == "max_grad_norm":
            self.learner.max_grad_norm = self.max_grad_norm
        elif name == "exploration_eps":
            self._exploration.epsilons = [self.exploration_eps]

    def _make_replay_buffer(self, state: dict[str, Any] | None = None) -> ReplayBuffer:
        """Makes an empty buffer, or one of this state."""
        once = self.optimize_memory_usage if state is None else "frames" in state
        buffer = ReplayBuffer(
            self.buffer_size,
            self.observation_space,
            self.action_space,
            self.device,
            self.n_envs,
            gamma=self.gamma,
            n_steps=self.n_steps,
            reward_scale=1.0 if self.reward_scale == "auto" else self.reward_scale,
            stepwise=self.n_step_correction,
            generator=self._replay_generator,
            masked=self.masked if state is None else "action_masks" in state,
            stack=stack_of(self.env) if once else None,
        )
        if state is not None:
            buffer.load_state_dict(state)
        return buffer

    def _check_settings(self) -> None:
        """Raises before any work is lost. The replay buffer checks its own arguments."""
        super()._check_settings()
        if not isinstance(self.estimator, str | Estimator):
            raise TypeError(f"estimator must be a name or a gsrl.Estimator, but got {type(self.estimator).__name__}.")
        if self.critics not in ("min", "mean"):
            raise ValueError(f"critics must be 'min' or 'mean', but got {self.critics!r}.")
        if isinstance(self.target_entropy, str) and self.target_entropy != "auto":
            raise ValueError(f"target_entropy must be 'auto' or a number of nats, but got {self.target_entropy!r}.")
        scale = self.reward_scale
        if scale != "auto" and not (isinstance(scale, int | float | np.floating) and 0 < scale < math.inf):
            raise ValueError(f"reward_scale must be 'auto' or a number above 0, but got {scale!r}.")
        if not 0 <= self.target_entropy_ratio <= 1:
            raise ValueError(f"target_entropy_ratio must be in [0, 1], but got {self.target_entropy_ratio}.")
        if self.compile not in (False, True, "auto"):
            raise ValueError(f"compile must be True, False or 'auto', but got {self.compile!r}.")
        if not isinstance(self.n_step_correction, bool):
            raise TypeError(f"n_step_correction must be True or False, but got {self.n_step_correction!r}.")
        if self.optimize_memory_usage not in (False, True):
            raise TypeError(f"optimize_memory_usage must be True or False, but got {self.optimize_memory_usage!r}.")
        if self.optimize_memory_usage and not isinstance(self.observation_space, spaces.Box):
            raise ValueError(
                "optimize_memory_usage must be False for observations that are no Box, "
                f"but got {self.observation_space}."
            )
        if not 0 <= self.exploration_eps <= 1:
            raise ValueError(f"exploration_eps must be in [0, 1], but got {self.exploration_eps}.")
        if not 0 <= self.tau <= 1:
            raise ValueError(f"tau must be in [0, 1], but got {self.tau}.")
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
        self._check_integers("buffer_size", "batch_size", "target_update_interval", least=1)
        if str(self.n_steps) != "auto":  # a word, until it is resolved
            self._check_integers("n_steps", least=1)
        self._check_integers("learning_starts", least=0)
        self._check_integers("gradient_steps", least=-1)
        frequency = self.train_freq[0] if isinstance(self.train_freq, tuple) else self.train_freq
        if not isinstance(frequency, int) or frequency < 1:
            raise ValueError(f"train_freq must be at least 1 step or episode, but got {self.train_freq!r}.")

    def _seed_data(self, sequence: np.random.SeedSequence) -> None:
        # In place: the replay buffer holds the same generator.
        self._replay_generator.bit_generator.state = np.random.default_rng(sequence).bit_generator.state
        self._exploration.remaining.zero_()

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
        """Trains for ``total_timesteps`` more environment steps; see Stable-Baselines3's ``learn``.

        A ``log_interval`` of 0 or None: no logs.

        Raises:
            gsrl.checks.EnvironmentDataError: The environments give what cannot be learned from.
            RuntimeError: The process of an environment has ended.
        """
        if self.compile == "auto":
            self._weigh_compiling(total_timesteps)
        with naming_dead_workers(self.env):
            return super().learn(
                total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
            )

    def _weigh_compiling(self, total_timesteps: int) -> None:
        frequency: Any = self.train_freq  # a TrainFreq by now
        updates = float(total_timesteps)
        if self.gradient_steps >= 0:
            if frequency.unit is not TrainFrequencyUnit.STEP:
                return  # nobody knows how many episodes there will be
            updates *= self.gradient_steps / (frequency.frequency * self.n_envs)
        if is_worth_compiling(updates, in_lockstep=False) and not self.learner.is_compiled:
            self.learner.compile_updates()
            if self.verbose:
                print(f"updates are compiled: {updates:,.0f} of them earn back the time that takes")

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
        attributes = vars(self)
        once = attributes.pop("optimize_memory_usage")
        attributes["optimize_memory_usage"] = (
            False  # by which Stable-Baselines3 would write to a buffer of its own kind
        )
        try:
            return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        finally:
            attributes["optimize_memory_usage"] = once

    def _before_reset(self) -> None:
        assert self.replay_buffer is not None
        self.replay_buffer.end_episodes()
        self._normalization.cut()
        super()._before_reset()

    def _set_masked(self, masked: bool) -> None:
        """Makes the replay buffer one with masks, or without; only an empty one can change."""
        assert self.replay_buffer is not None
        super()._set_masked(masked)
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
        watch = self._watch_of(env)
        most_steps = math.inf
        if train_freq.unit == TrainFrequencyUnit.EPISODE and not has_time_limit(env):
            most_steps = train_freq.frequency * LONGEST_EPISODE  # an episode need never end
        num_collected_steps, num_collected_episodes = 0, 0
        callback.on_rollout_start()
        continue_training = True
        lap("callbacks")
        while should_collect_more_steps(train_freq, num_collected_steps, num_collected_episodes):
            if num_collected_steps >= most_steps:
                warnings.warn(
                    f"train_freq counts episodes, but {num_collected_steps} steps went by in {num_collected_episodes}: "
                    "updates are made without waiting for the end. Give env a time limit, by "
                    "gymnasium.wrappers.TimeLimit.",
                    stacklevel=3,
                )
                break
            if watch.is_disturbed():
                self._begin_episodes(env)
                lap("environment")
            actions, buffer_actions = self._sample_action(learning_starts, action_noise, env.num_envs)
            lap("acting")
            new_obs, rewards, dones, infos = env.step(actions)
            infos = checked_infos(infos, env.num_envs)
            self.num_timesteps += env.num_envs
            num_collected_steps += 1
            # Now: callbacks may step the environments, which then know no more of this step, or write over it.
            new_obs = map_arrays(np.array, new_obs)
            count, next_masks = watch.count(), current_masks(env, infos, dones)
            next_original_obs, successors, original_rewards = self._unnormalized(new_obs, rewards, dones, infos)
            lap("environment")

            callback.update_locals(locals())
            continue_training = callback.on_step()
            lap("callbacks")
            # A step that ends the training is stored as well: the next training goes on from here.
            self._update_info_buffer(infos, dones)
            last_obs: Any = self._last_obs if self._vec_normalize_env is None else self._last_original_obs
            replay_buffer.add(
                last_obs,
                successors,
                buffer_actions,
                original_rewards,
                dones,
                infos,
                self._last_masks,
            )
            self._normalization.add(self._last_obs, rewards, dones, infos)
            self._last_obs = new_obs
            if self._vec_normalize_env is not None:
                self._last_original_obs = next_original_obs
            self._set_next_masks(next_masks)
            watch.settle(count)
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            self._on_step()
            lap("replay")
            for _ in range(np.count_nonzero(dones)):
                num_collected_episodes += 1
                self._episode_num += 1
                if log_interval and self._episode_num % log_interval == 0:
                    self.dump_logs()
                    lap("logging")
            if not continue_training:
                return RolloutReturn(num_collected_steps * env.num_envs, num_collected_episodes, False)
        callback.on_rollout_end()
        lap("callbacks")
        return RolloutReturn(num_collected_steps * env.num_envs, num_collected_episodes, continue_training)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        noise = self._exploration.advance([self.generator])[0] if self.exploration_eps > 0 else None
        if self.num_timesteps < learning_starts:
            codec = self.policy.actor.head.codec
            legal = self.policy.actor.head.mask
            if self._last_masks is not None:
                legal = torch.as_tensor(to_matrix(codec, self._last_masks), device=self.device)
            uniform = FactoredCategorical(torch.zeros(n_envs, codec.n, codec.K, device=self.device), legal)
            indices = uniform.sample_indices(noise=noise, generator=self.generator)
            actions = self.policy.actor.to_actions(indices.cpu().numpy())
        else:
            assert self._last_obs is not None  # _setup_learn has reset the environment
            actions = self.policy.act(self._last_obs, self._last_masks, noise)
        return actions, actions

    def train(self, gradient_steps: int, batch_size: int | None = None) -> None:
        """Does ``gradient_steps`` updates, each on a fresh batch of ``batch_size`` transitions; None: the setting."""
        assert self.replay_buffer is not None  # learn has made it
        start = time.perf_counter()
        self.policy.set_training_mode(True)
        self._normalization.renew([self.policy])
        for _ in range(gradient_steps):
            sampled = self.replay_buffer.sample(batch_size or self.batch_size, env=self._vec_normalize_env)
            batch = self._normalization.normalized(sampled)
            self.stopwatch.lap("replay")
            self.update(batch)
            self.stopwatch.lap("update")
        if gradient_steps:
            self._defer_log()
        self._train_seconds += time.perf_counter() - start
        self._timed_updates += gradient_steps

    def update(self, batch: ReplayBatch) -> None:
        """Does one update of all networks.

        Args:
            batch: Transitions, from the replay buffer or elsewhere.
        """
        shape = batch.actions.shape[:-1]
        if self._template.batch_shape != shape:
            zeros = torch.zeros(*shape, *self._template.event_shape, device=self.device)
            self._template = FactoredCategorical(zeros, validate_args=False)
        noise = self.estimator.draw_noise(self._template, self.generator)
        next_noise = None
        if self.policy.critic.form == "network":
            event_shape = self._template.event_shape
            next_noise = gumbel_noise(
                (batch.rewards.numel(), *event_shape), generator=self.generator, device=self.device
            )
        target_entropy = self._target_entropy
        if batch.action_mask is not None:
            target_entropy = self._target_entropy_ratio * batch.action_mask.sum(-1).log()  # [B, n]
        if callable(self.ent_coef):
            self.entropy_coefficient.fill_(self.ent_coef(self._current_progress_remaining))
        self._n_updates += 1
        self._metrics = self.learner.update(
            batch,
            noise,
            target_entropy,
            next_noise,
            learning_rate=self.lr_schedule(self._current_progress_remaining),
            tau=self.tau if self._n_updates % self.target_update_interval == 0 else None,
            # Of extractors that sample, of which there seldom are any.
            noise=draw(self.learner.noisy, shape, self.generator) if self.learner.noisy else {},
        )
        self.estimator.step(self._metrics["expected_q"])

    def training_scalars(self) -> dict[str, float]:
        """What there is to log of the last update, as means over its batch. The only place that reads tensors back."""
        if not self._metrics:
            return {}
        # A target entropy is the sum of those of the factors.
        metrics = {**self._metrics, "target_entropy": self._metrics["target_entropy"].sum(-1)}
        scalars = {name: value.mean().item() for name, value in metrics.items()}
        scalars["q_max"] = metrics["q"].max().item()
        if isinstance(self.estimator, Pathwise) and isinstance(self.estimator.temperature, Temperature):
            scalars["temperature"] = self.estimator.temperature().item()
        scalars |= {f"gradient_norm_{name}": norm.item() for name, norm in self.learner.gradient_norms().items()}
        scalars["learning_rate"] = self.lr_schedule(self._current_progress_remaining)
        return scalars

    def dump_logs(self) -> None:
        """Writes the log: of the last update, as means over its batch.

        Raises:
            FloatingPointError: A metric is NaN or infinite; the networks are lost.
        """
        self._log_training()
        if self._metrics:
            self.logger.record("time/updates_per_second", self._timed_updates / max(self._train_seconds, 1e-9))
        for name, share in self.stopwatch.shares().items():
            self.logger.record(f"time/share_{name}", share)
        self._train_seconds, self._timed_updates = 0.0, 0
        super().dump_logs()

    # State

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "estimator", "entropy_coefficient", "learner"], []

    def state_dict(self, *, replay_buffer: bool = True) -> dict[str, Any]:
        """Everything that changes while the agent learns, as a tree that :func:`gsrl.checkpoint.save` stores.

        It is a copy, which does not change with its owner.

        Args:
            replay_buffer: Whether the replay buffer is in it.
        """
        state = super().state_dict()
        state["normalization"] = self._normalization.state_dict()
        if self.exploration_eps > 0:
            state["exploration"] = self._exploration.state_dict()
        if replay_buffer and self.replay_buffer is not None:
            state["replay_buffer"] = self.replay_buffer.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`, of an agent with the same settings; see :meth:`Algorithm.load_state_dict`."""
        replay_buffer = self.replay_buffer
        if "replay_buffer" in state:
            replay_buffer = self._make_replay_buffer(state["replay_buffer"])
        # What was saved by versions without one has begun anew.
        state = {"normalization": self._normalization.state_dict(), **state}
        super().load_state_dict(state)
        self._normalization.load_state_dict(state["normalization"])
        if self.exploration_eps > 0:
            self._exploration.load_state_dict(state["exploration"])
        self.replay_buffer = replay_buffer

    def _saved_state(self, included: Collection[str]) -> dict[str, Any]:
        return self.state_dict(replay_buffer="replay_buffer" in included)

    def _drop_misfits(self, tree: dict[str, Any]) -> None:
        if self.exploration_eps > 0 and (self.n_envs != tree["n_envs"] or "exploration" not in tree):
            tree["exploration"] = self._exploration.state_dict()
        if self.n_envs != tree["n_envs"] and tree.pop("replay_buffer", None) is not None:
            warnings.warn(
                f"the replay buffer of {tree['n_envs']} environments was left out: env has {self.n_envs}.",
                stacklevel=3,
            )

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """Saves the replay buffer, as arrays and JSON.

        Raises:
            ValueError: There is none yet: the agent has no environment.
        """
        if self.replay_buffer is None:
            raise ValueError("there is no replay buffer to save: the agent has no environment.")
        file: Any = path  # such a file can be written to
        checkpoint.save(file, {"replay_buffer": self.replay_buffer.state_dict()})

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """Loads a replay buffer of the same spaces, size and number of environments.

        Args:
            path: What :meth:`save_replay_buffer` wrote.
            truncate_last_traj: Whether the last episode ends where the buffer ends.

        Raises:
            gsrl.checkpoint.CheckpointError: The file is damaged, or is not that of such a replay buffer.
        """
        file: Any = path  # such a file can be read
        tree = checkpoint.load(file)
        with checkpoint.fitting(path):
            checkpoint.check_entries(tree, {"replay_buffer": {"pos": None}})
            self.replay_buffer = self._make_replay_buffer(tree["replay_buffer"])
        self.masked = self.replay_buffer.masked
        if truncate_last_traj:
            self.replay_buffer.end_episodes()


def kind_of_entropy(ent_coef: str | float | Schedule) -> str:
    """``"auto"``, ``"relative"``, or ``"fixed"`` for numbers and schedules; of strings, what stands before a ``_``."""
    return ent_coef.partition("_")[0] if isinstance(ent_coef, str) else "fixed"


def _make_entropy_coefficient(ent_coef: str | float | Schedule, n: int) -> EntropyCoefficient:
    """From what the argument may be: ``"auto_0.1"``, ``"relative_0.7"``, a number; or as a schedule begins."""
    kind = kind_of_entropy(ent_coef)
    try:
        if not isinstance(ent_coef, str):
            return EntropyCoefficient(float(ent_coef(1.0) if callable(ent_coef) else ent_coef), learned=False, n=n)
        value = float(ent_coef.partition("_")[2] or INITIAL_ENTROPY_COEFFICIENTS[kind])
        if not value > 0:
            raise ValueError
        return EntropyCoefficient(value, learned=kind == "auto", n=n)
    except (ValueError, KeyError):
        raise ValueError(
            "ent_coef must be 'auto', 'relative', either with a positive number as in 'auto_0.1', or a number of at "
            f"least 0, but got {ent_coef!r}."
        ) from None
