"""REINFORCE with a choice of baselines, as a Stable-Baselines3 algorithm."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, get_args

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs, Schedule
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.nn import functional as F

from gsrl._modes import evaluation_mode
from gsrl._settings import settings_of
from gsrl._trees import map_arrays
from gsrl._validation import is_number
from gsrl.algorithms import base
from gsrl.algorithms.base import Algorithm
from gsrl.algorithms.policies import MLP, Actor, ActorPolicy, Network
from gsrl.algorithms.reinforce_loss import PolicyBatch, ReinforceLoss, ValueLoss
from gsrl.checkpoint import register
from gsrl.learning import Learner
from gsrl.losses import discounted_sums, gae, leave_one_out
from gsrl.masking import current_masks
from gsrl.relaxations import gumbel_noise
from gsrl.replay import Episodes, Rollout
from gsrl.replay.checks import checked_infos, checked_transition, layout_of
from gsrl.spaces import OneHotCodec
from gsrl.vec_env import LONGEST_EPISODE, has_time_limit, naming_dead_workers

__all__ = ["Baseline", "Reinforce", "ReinforceCnnPolicy", "ReinforceMultiInputPolicy", "ReinforcePolicy"]

SelfReinforce = TypeVar("SelfReinforce", bound="Reinforce")

Baseline: TypeAlias = Literal["none", "running-mean", "value", "leave-one-out", "relax"]

LEARNED: tuple[Baseline, ...] = ("value", "relax")
"""Baselines with a network of state values."""

MEAN_DECAY = 0.9
"""Decay of the running mean of returns, a rollout."""


@register("gsrl.ValueNetwork")
class ValueNetwork(Network):
    """The baseline: a :class:`gsrl.algorithms.policies.Network` that tells a number."""

    def _add_head(self, latent_dim: int) -> None:
        self.head = nn.Linear(latent_dim, 1)

    def forward(self, observations: PyTorchObs) -> Tensor:
        """Maps observations ``[B, ...]`` to values ``[B]``."""
        values: Tensor = self.head(self.mlp(self.features(observations)))
        return values.squeeze(-1)


class Control(nn.Module):
    r"""RELAX's control variate, :math:`c(z, s) = r(\phi(s), \mathrm{softmax}(z / \tau))`, a network that starts as 0.

    Args:
        features_dim: Size of the features of a state.
        n: Factors.
        K: Choices of each.
        net_arch: Sizes of the hidden layers, of hyperbolic tangents: a gradient in z is what it is used for.
    """

    def __init__(self, features_dim: int, n: int, K: int, net_arch: list[int]) -> None:
        super().__init__()
        sizes = [features_dim + n * K, *net_arch]
        self.log_temperature = nn.Parameter(torch.zeros(()))
        self.mlp = MLP(sizes, nn.Tanh)
        self.weight = nn.Parameter(torch.zeros(sizes[-1]))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, perturbed: Tensor, features: Tensor) -> Tensor:
        """Maps perturbed logits ``[B, n, K]`` at features ``[B, F]`` to ``[B]``."""
        rows = (perturbed / self.log_temperature.exp()).softmax(-1)
        return self.mlp(torch.cat([features, rows.flatten(1)], -1)) @ self.weight + self.bias


@register("gsrl.ReinforcePolicy")
class ReinforcePolicy(ActorPolicy):
    """The networks of :class:`gsrl.Reinforce`: an actor; where the baseline is learned, a value network; a control.

    Args:
        observation_space: Space of the observations.
        action_space: ``Discrete``, ``MultiDiscrete`` or ``MultiBinary``.
        lr_schedule: Unused: learners hold the optimisers.
        baseline: Which networks there are.
        net_arch: Hidden layers: a list for all networks, or ``dict(pi=[...], vf=[...])``, of which one that is left out
            has none; those of a control variate are those of the value network. Default: [64, 64] for vectors, none on
            top of a convolutional network.
        activation_fn: Class of the activation function.
        features_extractor_class: Class of the features extractor, of which actor and value network each have their own;
            None: :attr:`EXTRACTOR`.
        features_extractor_kwargs: Its arguments.
        normalize_images: Whether images are divided by 255.

    Attributes:
        critic: The value network, or None.
        control: The control variate of RELAX, of the value network's features, or None.

    Example:
        >>> from gymnasium import spaces
        >>> policy = ReinforcePolicy(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), lambda _: 0.0, baseline="value")
        >>> policy.predict_values(torch.zeros(3, 4)).shape
        torch.Size([3, 1])
        >>> ReinforcePolicy(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), lambda _: 0.0).critic is None
        True
    """

    critic: ValueNetwork | None
    control: Control | None

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        baseline: Baseline = "none",
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class or self.EXTRACTOR,
            features_extractor_kwargs,
            normalize_images=normalize_images,
        )
        if net_arch is None:
            net_arch = [] if self.features_extractor_class is NatureCNN else [64, 64]
        self.net_arch, actor_arch, critic_arch = _architectures(net_arch)

        self._set_actor(self._make_network(Actor, actor_arch, activation_fn))
        self.critic = None
        if baseline in LEARNED:
            self.critic = self._make_network(ValueNetwork, critic_arch, activation_fn)
        self.control = None
        if baseline == "relax":
            assert self.critic is not None
            codec = OneHotCodec(action_space)
            self.control = Control(self.critic.features_extractor.features_dim, codec.n, codec.K, critic_arch)

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Returns the value network's estimates, ``[B, 1]``.

        Args:
            obs: Observations ``[B, ...]``, as tensors.

        Raises:
            ValueError: There is no value network.
        """
        if self.critic is None:
            raise ValueError("baseline must be 'value' or 'relax' for values to be predicted, but there is no network.")
        values: Tensor = self.critic(obs)
        return values.unsqueeze(-1)

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor, action_masks: np.ndarray | None = None
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Returns values ``[B, 1]`` (None without a value network), log-probabilities ``[B]`` and entropies ``[B]``.

        Args:
            obs: Observations ``[B, ...]``, as tensors.
            actions: Of the space, ``[B, *action_space.shape]``.
            action_masks: Flat masks ``[B, L]``, True where a choice is legal.
        """
        distribution = self.get_distribution(obs, action_masks)
        values = None if self.critic is None else self.predict_values(obs)
        return values, distribution.log_prob(actions), distribution.entropy()


@register("gsrl.ReinforceCnnPolicy")
class ReinforceCnnPolicy(ReinforcePolicy):
    """:class:`ReinforcePolicy` for images: Stable-Baselines3's ``NatureCNN``.

    Example:
        >>> from gymnasium import spaces
        >>> policy = ReinforceCnnPolicy(spaces.Box(0, 255, (3, 36, 36), np.uint8), spaces.Discrete(4), lambda _: 0.0)
        >>> policy.predict(np.zeros((3, 36, 36), np.uint8))[0] in range(4)
        True
    """

    EXTRACTOR = NatureCNN


@register("gsrl.ReinforceMultiInputPolicy")
class ReinforceMultiInputPolicy(ReinforcePolicy):
    """:class:`ReinforcePolicy` for ``Dict`` observations: Stable-Baselines3's ``CombinedExtractor``.

    Example:
        >>> from gymnasium import spaces
        >>> space = spaces.Dict({"position": spaces.Box(-1, 1, (2,)), "kind": spaces.Discrete(3)})
        >>> policy = ReinforceMultiInputPolicy(space, spaces.Discrete(4), lambda _: 0.0)
        >>> policy.predict({"position": np.zeros(2, np.float32), "kind": 1})[0] in range(4)
        True
    """

    EXTRACTOR = CombinedExtractor


class Reinforce(Algorithm):
    r"""REINFORCE for discrete actions, of whole episodes, with a choice of baselines.

    .. math:: \hat g = \frac1B \sum_t A_t\, \nabla_\theta \log \pi_\theta(a_t | s_t), \qquad
              A_t = \sum_{k \ge 0} \gamma^k r_{t+k} - b_t

    A rollout is ``n_episodes`` episodes from beginning to end, as many of each environment, so that short ones are not
    favoured; then comes one step of the policy. With one environment they follow one another. Of several, those that
    are through with theirs are stepped on until the last one is: these steps are counted, for they were taken, but
    nothing is learned from them, and the next rollout begins with a reset of all. So ``total_timesteps`` may be
    exceeded by the rest of a rollout; what a callback cuts short is not learned from.

    Where somebody else resets or steps the environments in the middle, as an evaluation in them does, the open episodes
    are truncated, and new ones begin. Environments without a time limit need never end an episode: after 10,000 steps
    of one a rollout is cut off, with a warning, and its open episodes are truncated.

    Constructor, ``learn``, ``predict``, ``save``, ``load``, callbacks and logging are those of Stable-Baselines3's
    on-policy algorithms. Random numbers come from ``generator`` alone, derived from ``seed``; no global one is read or
    seeded. An agent that was saved in the middle of a rollout begins a new one.

    The gradient is that of the return without the factor :math:`\gamma^t`, as is usual. The unbiased estimate is the
    sum over the steps of an episode; divided by the steps of a rollout, it has the same direction, and a length that
    does not grow with that of episodes. An episode that is truncated goes on in the value network, if there is one;
    else its return is that of the steps it had, a bias.

    Source: Williams 1992, "Simple statistical gradient-following algorithms"; the control variate: Grathwohl et al.
    2018 (1711.00123), whose code has one network of state and relaxed action in the place of value network and control.

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, or a subclass of :class:`ReinforcePolicy`.
        env: Environment with a ``Discrete``, ``MultiDiscrete`` or ``MultiBinary`` action space, its id, or a vectorised
            one: Stable-Baselines3's, or Gymnasium's (:class:`gsrl.vec_env.GymnasiumVecEnv`). Masks of legal actions are
            heeded, in ``info["action_mask"]`` at every reset and step; a single environment may have a method
            ``action_masks()`` instead. See :class:`gsrl.masking.ActionMasker`.
        learning_rate: Of all networks; a number, or a function of the remaining progress.
        n_episodes: Episodes of a rollout, a multiple of the number of environments.
        gamma: Discount factor.
        baseline: b. ``"none"``: 0. ``"running-mean"``: an exponential mean of the returns-to-go of earlier rollouts.
            ``"leave-one-out"``: the mean return-to-go of the rollout's other episodes at the same time, 0 where they
            are over. ``"value"``: a network of the state, learned. ``"relax"``: that, and a control variate of state
            and relaxed action, learned to make the variance small. All leave the gradient unbiased.
        gae_lambda: Lambda of :func:`gsrl.losses.gae`, with a value network: less variance below 1, but a bias.
        normalize_advantage: Whether advantages are shifted and scaled to mean 0 and deviation 1, in each rollout.
        ent_coef: Entropy coefficient, at least 0. The entropy is exact.
        critic_updates: Steps of the value network for each one of the policy, on the same rollout.
        max_grad_norm: Largest gradient norm of each network; None: not clipped.
        policy_kwargs: Arguments of the policy, such as ``net_arch``.
        stats_window_size: Episodes that the logged return is averaged over.
        tensorboard_log: Folder for TensorBoard; None: no logging there.
        verbose: 0: silent, 1: information, 2: debugging.
        seed: Seed of everything random; None: from the operating system.
        device: Of the networks.
        _init_setup_model: Whether the networks are built at once.

    Attributes:
        generator: Torch generator of actions and noise.
        learner: The :class:`gsrl.learning.Learner` of actor and control.
        critic_learner: That of the value network, or None.
        stopwatch: The :class:`gsrl.timing.Stopwatch` of the training, with the times of ``environment``, ``acting``,
            ``update``, ``callbacks`` and ``logging``, and of ``evaluation`` by :class:`gsrl.callbacks.EvalCallback`.
            ``learn(reset_num_timesteps=False)`` adds to them.

    Raises:
        TypeError: The action space is not discrete, or an argument is one of :attr:`REFUSED`.
        ValueError: An argument is out of range, or does not go with another; the message names it.

    Example:
        >>> model = Reinforce("MlpPolicy", "CartPole-v1", baseline="leave-one-out", n_episodes=2, seed=0).learn(20)
        >>> model.num_timesteps >= 20
        True
    """

    COUNTERS: ClassVar[tuple[str, ...]] = (*base.COUNTERS, "_mean_return", "_mean_weight")
    REFUSED: ClassVar[Mapping[str, str]] = {
        "n_steps": "a rollout is n_episodes whole episodes",
        "batch_size": "an update is of the whole rollout",
        "n_epochs": "REINFORCE takes one step a rollout; critic_updates is about the value network",
        "vf_coef": "the value network has an optimiser of its own, which does not heed the scale of its loss",
        "rollout_buffer_class": "the agent keeps its episodes itself",
        "rollout_buffer_kwargs": "the agent keeps its episodes itself",
        "use_sde": "generalised state-dependent exploration is for continuous actions",
        "sde_sample_freq": "generalised state-dependent exploration is for continuous actions",
        "optimizer_class": "the optimiser is the learner's Adam",
        "optimizer_kwargs": "the optimiser is the learner's Adam",
        "share_features_extractor": "actor and value network have features of their own",
    }
    FIXED: ClassVar[Mapping[str, str]] = {**Algorithm.FIXED, "baseline": "it decides which networks there are"}
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ReinforcePolicy,
        "CnnPolicy": ReinforceCnnPolicy,
        "MultiInputPolicy": ReinforceMultiInputPolicy,
    }
    policy: ReinforcePolicy

    def __init__(
        self,
        policy: str | type[ReinforcePolicy],
        env: GymEnv | VectorEnv | str | None,
        learning_rate: float | Schedule = 3e-3,
        n_episodes: int = 8,
        gamma: float = 0.99,
        *,
        baseline: Baseline = "value",
        gae_lambda: float = 1.0,
        normalize_advantage: bool = False,
        ent_coef: float = 0.0,
        critic_updates: int = 10,
        max_grad_norm: float | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        **refused: Any,
    ) -> None:
        self._refuse(refused)
        given: Any = env  # or None
        super().__init__(
            policy,
            given,
            learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
        )
        self.n_episodes = n_episodes
        self.gamma = gamma
        self.baseline = baseline
        self.gae_lambda = gae_lambda
        self.normalize_advantage = normalize_advantage
        self.ent_coef = ent_coef
        self.critic_updates = critic_updates
        self.max_grad_norm = max_grad_norm
        if _init_setup_model:
            self._setup_model()

    SETTINGS: ClassVar[tuple[str, ...]] = settings_of(__init__)

    # Construction

    def _setup_model(self) -> None:
        self._check_settings()
        self._begin_setup()
        self._layout = layout_of(self.observation_space)
        self._make_policy()
        loss = ReinforceLoss(self.policy.actor, self.policy.control, ent_coef=self.ent_coef)
        self.learner = _make_learner(loss, self.max_grad_norm)
        self.critic_learner = None
        if self.policy.critic is not None:
            self.critic_learner = _make_learner(ValueLoss(self.policy.critic), self.max_grad_norm)
        self._mean_return, self._mean_weight = 0.0, 0.0
        self._metrics: dict[str, Tensor] = {}
        self.is_built = True

    def _apply_setting(self, name: str) -> None:
        super()._apply_setting(name)
        if name == "n_episodes" and self.env is not None:
            self.check_n_episodes()
        elif name == "ent_coef":
            self.learner.change_loss(name, self.ent_coef)
        elif name == "max_grad_norm":
            for learner in (self.learner, self.critic_learner):
                if learner is not None:
                    learner.max_grad_norm = self.max_grad_norm

    def _new_policy(self, **arguments: Any) -> BasePolicy:
        return super()._new_policy(baseline=self.baseline, **arguments)

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.baseline not in get_args(Baseline):
            raise ValueError(f"baseline must be one of {get_args(Baseline)}, but got {self.baseline!r}.")
        self._check_integers("n_episodes", "critic_updates", least=1)
        if self.baseline == "leave-one-out" and self.n_episodes < 2:
            raise ValueError(
                f"n_episodes must be an integer of at least 2, but got {self.n_episodes}: the baseline 'leave-one-out' "
                "needs another episode."
            )
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], but got {getattr(self, name)}.")
        if self.gae_lambda < 1 and self.baseline not in LEARNED:
            raise ValueError(
                f"gae_lambda must be 1 without a value network, but got {self.gae_lambda} with the baseline "
                f"{self.baseline!r}; 'value' and 'relax' have one."
            )
        if not (is_number(self.ent_coef) and 0 <= self.ent_coef < math.inf):
            raise ValueError(f"ent_coef must be a number of at least 0, but got {self.ent_coef!r}.")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive or None, but got {self.max_grad_norm}.")

    # Training

    def learn(
        self: SelfReinforce,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "Reinforce",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfReinforce:
        """Trains for ``total_timesteps`` more environment steps, and those that the last episodes need.

        Args:
            total_timesteps: Steps, over all environments.
            callback: Called at every step.
            log_interval: Rollouts between logs; 0 or None: none.
            tb_log_name: Name of the run for TensorBoard.
            reset_num_timesteps: Whether steps are counted from 0, and new episodes begin.
            progress_bar: Whether a progress bar is shown; needs tqdm and rich.

        Raises:
            gsrl.checks.EnvironmentDataError: The environments give what cannot be learned from; nothing was learned
                from the rollout.
            RuntimeError: The process of an environment has ended.
            ValueError: ``n_episodes`` is not a multiple of the number of environments.
        """
        self.check_n_episodes()
        with naming_dead_workers(self.env):
            total_timesteps, caller = self._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
            )
            caller.on_training_start(locals(), globals())
            assert self.env is not None
            iteration = 0
            while self.num_timesteps < total_timesteps:
                rollout = self.collect_rollout(self.env, caller)
                if rollout is None:
                    break
                self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
                self.train(rollout)
                iteration += 1
                if log_interval and iteration % log_interval == 0:
                    self.dump_logs(iteration)
            caller.on_training_end()
            return self

    def check_n_episodes(self) -> None:
        """Raises ``ValueError`` unless the environments can share the episodes out among them."""
        if self.n_episodes % self.n_envs:
            raise ValueError(
                f"n_episodes must be a multiple of the {self.n_envs} environments, but got {self.n_episodes}."
            )

    def collect_rollout(self, env: VecEnv, callback: BaseCallback) -> Rollout | None:
        """Plays the episodes of a rollout.

        Args:
            env: The environments.
            callback: Called at every step, with what is known before episodes are counted.

        Returns:
            The episodes; None: the callback ends the training.
        """
        self.policy.set_training_mode(False)
        lap = self.stopwatch.lap
        watch = self._watch_of(env)
        # Those that were stepped on; or the last rollout was cut short; or somebody else has stepped them.
        if watch.is_disturbed() or not np.all(self._last_episode_starts):
            self._begin_episodes(env)
            lap("environment")
        callback.on_rollout_start()
        lap("callbacks")
        longest = None if has_time_limit(env) else LONGEST_EPISODE
        episodes = Episodes(self.n_episodes, env.num_envs)
        while not episodes.are_complete():
            if watch.is_disturbed():
                self._episode_num += int(np.count_nonzero(episodes.cut(self._last_obs)))
                self._begin_episodes(env)
                lap("environment")
                continue  # the episodes that were cut may have been the last
            assert self._last_obs is not None  # _setup_learn has reset the environment
            actions = self.policy.act(self._last_obs, self._last_masks)
            lap("acting")
            # Until the step is over: whatever ends the training here, the next one begins new episodes.
            self._last_episode_starts = np.zeros(env.num_envs, np.bool_)
            new_obs, rewards, dones, infos = env.step(actions)
            infos = checked_infos(infos, env.num_envs)
            self.num_timesteps += env.num_envs
            # Now: callbacks may step the environments, which then know no more of this step, or write over it.
            new_obs = map_arrays(np.array, new_obs)
            count, next_masks = watch.count(), current_masks(env, infos, dones)
            next_original_obs, successors, original_rewards = self._unnormalized(new_obs, rewards, dones, infos)
            lap("environment")

            # Under the names of Stable-Baselines3 too.
            callback.update_locals({**locals(), "n_steps": len(episodes), "clipped_actions": actions})
            continue_training = callback.on_step()
            lap("callbacks")
            if not continue_training:
                return None

            last_obs = self._last_obs if self._vec_normalize_env is None else self._last_original_obs
            checked_transition(self._layout, env.num_envs, last_obs, successors, original_rewards, dones)
            kept = episodes.add(self._last_obs, actions, rewards, dones, infos, self._last_masks)
            self._update_info_buffer([info if keep else {} for info, keep in zip(infos, kept, strict=True)], dones)
            self._episode_num += int(np.count_nonzero(dones & kept))
            self._last_obs = new_obs
            if self._vec_normalize_env is not None:
                self._last_original_obs = next_original_obs
            self._last_episode_starts = dones
            self._set_next_masks(next_masks)
            watch.settle(count)
            if longest is not None and len(episodes) >= longest and episodes.longest_open() >= longest:
                warn_of_endless_episode(longest)
                self._episode_num += int(np.count_nonzero(episodes.finish(self._last_obs)))
            lap("acting")
        rollout = episodes.rollout(self.policy.actor.head.codec, self.device)
        lap("update")
        callback.update_locals(locals())
        callback.on_rollout_end()
        lap("callbacks")
        return rollout

    def train(self, rollout: Rollout) -> None:
        """Does one step of the policy, and ``critic_updates`` of the value network.

        Args:
            rollout: Whole episodes of the current policy.
        """
        self.policy.set_training_mode(True)
        learning_rate = self.lr_schedule(self._current_progress_remaining)
        with evaluation_mode(self.policy):
            returns, baselines = self._returns_and_baselines(rollout)
        advantages = returns - baselines
        self._metrics = {
            "return": returns,
            "advantage": advantages,
            "advantage_std": advantages.std(correction=0),
        }
        if self.normalize_advantage:
            advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
        features = noise = None
        if self.policy.control is not None:
            assert self.policy.critic is not None
            with torch.no_grad(), evaluation_mode(self.policy.critic):
                features = self.policy.critic.features(rollout.observations)
            head = self.policy.actor.head
            shape = (len(returns), head.codec.n, head.codec.K)
            noise = gumbel_noise(shape, generator=self.generator, device=self.device)
        batch = PolicyBatch(rollout.observations, rollout.actions, advantages, rollout.action_mask, features)
        self._n_updates += 1
        self._metrics |= self.learner.update(batch, noise, learning_rate=learning_rate)
        if self.critic_learner is not None:
            self._metrics["explained_variance"] = _explained_variance(baselines, returns)
            for _ in range(self.critic_updates):
                metrics = self.critic_learner.update(rollout.observations, returns, learning_rate=learning_rate)
            self._metrics |= metrics
        elif self.baseline == "running-mean":
            self._mean_return = MEAN_DECAY * self._mean_return + (1 - MEAN_DECAY) * returns.mean().item()
            self._mean_weight = MEAN_DECAY * self._mean_weight + (1 - MEAN_DECAY)
        self._defer_log()
        self.stopwatch.lap("update")

    @torch.no_grad()
    def _returns_and_baselines(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """The return-to-go of each step, and its baseline, ``[B]`` both."""
        rewards = rollout.padded(rollout.rewards)
        steps = rollout.episode, rollout.time
        if self.policy.critic is not None:
            flat = self.policy.critic(rollout.observations)
            values = rollout.padded(flat)
            next_values = F.pad(values[:, 1:], (0, 1))
            lengths = torch.bincount(rollout.episode)
            final = self.policy.critic(rollout.final_observations) * rollout.truncated
            next_values[torch.arange(len(lengths), device=self.device), lengths - 1] = final
            return flat + gae(rewards, values, next_values, self.gamma, self.gae_lambda)[steps], flat
        returns = discounted_sums(rewards, self.gamma)
        if self.baseline == "leave-one-out":
            return returns[steps], leave_one_out(returns)[steps]
        mean = self._mean_return / self._mean_weight if self._mean_weight else 0.0  # as Adam's, it starts from 0
        return returns[steps], torch.full_like(rollout.rewards, mean)

    def dump_logs(self, iteration: int = 0) -> None:
        """Writes the log: of the last rollout, as means over its steps.

        Args:
            iteration: Rollouts since the beginning of ``learn``.

        Raises:
            FloatingPointError: A metric is NaN or infinite; the networks are lost.
        """
        assert self.ep_info_buffer is not None  # learn has made them
        assert self.ep_success_buffer is not None
        record = self.logger.record
        self._log_training()
        if self.ep_info_buffer:
            record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
            record("rollout/ep_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
        if self.ep_success_buffer:
            record("rollout/success_rate", safe_mean(self.ep_success_buffer))
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        if iteration:
            record("time/iterations", iteration, exclude="tensorboard")
        record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        for name, share in self.stopwatch.shares().items():
            record(f"time/share_{name}", share)
        self.logger.dump(step=self.num_timesteps)
        self.stopwatch.lap("logging")

    def training_scalars(self) -> dict[str, float]:
        """What there is to log of the last update, as means over the steps of its rollout; nothing before the first."""
        if not self._metrics:
            return {}
        scalars = {name: value.mean().item() for name, value in self._metrics.items()}
        scalars["entropy_loss"] = -scalars["entropy"]  # as Stable-Baselines3 calls it
        for learner in (self.learner, self.critic_learner):
            norms = {} if learner is None else learner.gradient_norms()
            scalars |= {f"gradient_norm_{name}": norm.item() for name, norm in norms.items()}
        scalars["learning_rate"] = self.lr_schedule(self._current_progress_remaining)
        return scalars

    # State

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "learner", *(["critic_learner"] if self.critic_learner is not None else [])], []


def warn_of_endless_episode(steps: int) -> None:
    """Warns that a rollout is cut off because of an episode that does not end."""
    warnings.warn(
        f"an episode has not ended after {steps} steps: it is cut off there, and the rollout with it. Give env a time "
        "limit, by gymnasium.wrappers.TimeLimit; with one, nothing is cut off.",
        stacklevel=4,
    )


def _architectures(given: Any) -> tuple[list[int] | dict[str, list[int]], list[int], list[int]]:
    """What was given for hidden layers, those of the actor, and those of the value network."""
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], dict):
        warnings.warn(
            f"net_arch must be a list of sizes or a dict, but got {given}, which is how Stable-Baselines3 took it "
            "before 1.8: its dict is used.",
            stacklevel=3,
        )
        given = given[0]
    if not isinstance(given, dict):
        return given, given, given
    if not given.keys() <= {"pi", "vf"}:
        raise ValueError(f"net_arch must be a list or a dict of 'pi' and 'vf', but got {given}.")
    return given, given.get("pi", []), given.get("vf", [])


def _make_learner(loss: nn.Module, max_grad_norm: float | None) -> Learner:
    # Every rollout has another number of steps: a record of the operations would hardly ever be used again.
    return Learner(loss, max_grad_norm=max_grad_norm, record=False)


def _explained_variance(predictions: Tensor, targets: Tensor) -> Tensor:
    """The share of the targets' variance that predictions explain; 0 where the targets do not vary."""
    variance = targets.var(correction=0)
    explained = 1 - (targets - predictions).var(correction=0) / variance
    return torch.where(variance > 0, explained, 0.0)
