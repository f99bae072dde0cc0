"""Stable-Baselines3 policies over discrete actions: DiscreteSAC's networks, and an actor-critic for PPO and A2C."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, overload

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    get_actor_critic_arch,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.utils import ConstantSchedule, obs_as_tensor
from torch import Tensor, nn
from torch.nn import functional as F

from gsrl._validation import is_concrete
from gsrl.algorithms.saving import SavedModule
from gsrl.checkpoint import register
from gsrl.checks import check_finite, largest
from gsrl.distributions import FactoredCategorical
from gsrl.heads import ActionHead
from gsrl.masking import to_matrix
from gsrl.normalization import ObservationNormalizer, numeric_shapes
from gsrl.spaces import OneHotCodec
from gsrl.values import ActionValues, ChoiceValues, MultilinearValues, NetworkValues

__all__ = [
    "Actor",
    "ActorPolicy",
    "CategoricalActorCriticPolicy",
    "CnnPolicy",
    "Critics",
    "DiscreteSACPolicy",
    "MlpPolicy",
    "MultiInputPolicy",
]

SomeNetwork = TypeVar("SomeNetwork", bound="Network")

CriticForm: TypeAlias = Literal["choices", "multilinear", "network"]

PAIR_RANK = 4
"""Rank of the pairs of a multilinear critic."""


class MLP(nn.Module):
    """A multilayer perceptron without its output layer, or several side by side: a layer of all is one batched product.

    Args:
        sizes: Of the input and of the hidden layers.
        activation_fn: Class of the activation function, applied after every layer.
        num_members: C, how many side by side; None: one, without a leading dimension.
        layer_norm: Whether each layer's output is normalised before the activation, without learned scale.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation_fn: type[nn.Module],
        num_members: int | None = None,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        if not all(isinstance(size, int | np.integer) and size >= 1 for size in sizes[1:]):
            raise ValueError(f"net_arch must hold whole numbers of at least 1, but got {list(sizes[1:])}.")
        self.activation = activation_fn()
        self._is_rectified = type(self.activation) is nn.ReLU
        self.num_members = num_members
        self.layer_norm = layer_norm
        self.names: list[tuple[str, str]] = []
        for index, (in_features, out_features) in enumerate(pairwise(sizes)):
            weight, bias = _linear_parameters(in_features, out_features, num_members)
            self.register_parameter(f"weight_{index}", weight)
            self.register_parameter(f"bias_{index}", bias)
            self.names.append((f"weight_{index}", f"bias_{index}"))

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps ``[B, in_features]`` to ``[B, out_features]``, or the same with a leading C."""
        linear = torch.addmm if self.num_members is None else torch.baddbmm
        # Small networks spend more time in calls of modules, and in looking up their attributes, than in products.
        parameters: Mapping[str, Any] = self._parameters
        for weight, bias in self.names:
            inputs = self._activate(linear(parameters[bias], inputs, parameters[weight]))
        return inputs

    def forward_at(self, inputs: Tensor, added: Tensor, *, detach: bool) -> Tensor:
        """Maps members' inputs ``[C, B, in_features]`` to ``[C, M B, out_features]``, for M others beside them.

        Args:
            inputs: The part of the input that all M share.
            added: What the other part adds before the first activation, ``[C, M, B, hidden]``.
            detach: Whether the parameters receive no gradient.
        """
        for index, names in enumerate(self.names):
            weight, bias = (getattr(self, name).detach() if detach else getattr(self, name) for name in names)
            inputs = torch.baddbmm(bias, inputs, weight)
            if index == 0:
                inputs = (inputs.unsqueeze(1) + added).flatten(1, 2)
            inputs = self._activate(inputs)
        return inputs

    def _activate(self, inputs: Tensor) -> Tensor:
        if self.layer_norm:
            inputs = F.layer_norm(inputs, inputs.shape[-1:])
        return torch.relu(inputs) if self._is_rectified else self.activation.forward(inputs)


def _linear_parameters(
    in_features: int, out_features: int, num_members: int | None
) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias of linear layers, initialised as ``torch.nn.Linear`` does."""
    bound = in_features**-0.5
    members = () if num_members is None else (num_members,)
    weight = torch.empty(*members, in_features, out_features).uniform_(-bound, bound)
    bias = torch.empty(*members, 1, out_features).uniform_(-bound, bound)
    return nn.Parameter(weight), nn.Parameter(bias)


class Network(SavedModule):
    """A network from observations: preprocessing and features of Stable-Baselines3's, a multilayer perceptron, a head.

    The head is a subclass's.

    Args:
        observation_space: Space of the observations.
        action_space: ``Discrete``, ``MultiDiscrete`` or ``MultiBinary``.
        net_arch: Sizes of the hidden layers.
        features_extractor: Maps preprocessed observations to features.
        activation_fn: Class of the activation function.
        normalize_images: Whether images are divided by 255.
        normalize_observations: Whether what is numeric is normalised, see :class:`DiscreteSACPolicy`.
        features_extractor_kwargs: What the extractor was made of, to be made again by ``load``.
        num_members: See :class:`MLP`.
        layer_norm: See :class:`MLP`.

    Attributes:
        normalized_shapes: Shapes of what is normalised, by name, see :func:`gsrl.normalization.numeric_shapes`.
        normalizers: An :class:`gsrl.normalization.ObservationNormalizer` of each, by the same names.
    """

    features_extractor: BaseFeaturesExtractor
    normalizers: nn.ModuleDict

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        normalize_observations: bool = False,
        features_extractor_kwargs: dict[str, Any] | None = None,
        *,
        num_members: int | None = None,
        layer_norm: bool = False,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            type(features_extractor),
            features_extractor_kwargs,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
        )
        # A vector is its own features. Small networks are slowed down by being told so at each call.
        self._observations_are_features = (
            type(features_extractor) is FlattenExtractor
            and isinstance(observation_space, spaces.Box)
            and len(observation_space.shape) == 1
        )
        self.normalized_shapes = numeric_shapes(observation_space) if normalize_observations else {}
        self.normalizers = nn.ModuleDict(
            {name: ObservationNormalizer(shape) for name, shape in self.normalized_shapes.items()}
        )
        self.net_arch = net_arch
        self.mlp = MLP([features_extractor.features_dim, *net_arch], activation_fn, num_members, layer_norm)
        self._add_head(net_arch[-1] if net_arch else features_extractor.features_dim)

    def _add_head(self, latent_dim: int) -> None:
        """Makes what comes after the hidden layers, of whose last this is the size."""
        raise NotImplementedError

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"features_extractor_class": self.features_extractor_class}
        return {**super()._get_constructor_parameters(), **own}

    @classmethod
    def _from_arguments(cls, arguments: dict[str, Any]) -> Network:
        make = arguments.pop("features_extractor_class")
        kwargs = arguments.get("features_extractor_kwargs") or {}
        return cls(features_extractor=make(arguments["observation_space"], **kwargs), **arguments)

    def features(self, observations: PyTorchObs) -> Tensor:
        """Maps observations ``[B, ...]`` to features ``[B, features_dim]``."""
        if self._observations_are_features and isinstance(observations, Tensor):
            return self.normalizers["all"](observations) if self.normalized_shapes else observations.float()
        if not self.normalized_shapes:
            return self.extract_features(observations, self.features_extractor)
        preprocessed = preprocess_obs(observations, self.observation_space, normalize_images=self.normalize_images)
        if isinstance(preprocessed, dict):
            for name, normalizer in self.normalizers.items():
                preprocessed[name] = normalizer(preprocessed[name])
        else:
            preprocessed = self.normalizers["all"](preprocessed)
        return self.features_extractor(preprocessed)


@register("gsrl.Actor")
class Actor(Network, BasePolicy):
    """The policy network: a :class:`Network` with an :class:`gsrl.heads.ActionHead`.

    By itself it is a policy too, with Stable-Baselines3's ``predict``.

    Attributes:
        generator: Source of the randomness of actions; torch's default one if None. The policy sets its own.

    Example:
        >>> actor = DiscreteSACPolicy(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), lambda _: 0.0).actor
        >>> actor(torch.zeros(3, 4)).probs.shape  # a policy at three states: one factor, two choices
        torch.Size([3, 1, 2])
        >>> actor(torch.zeros(1, 4), torch.tensor([[[False, True]]])).probs.detach()
        tensor([[[0., 1.]]])
    """

    generator: torch.Generator | None

    def _add_head(self, latent_dim: int) -> None:
        self.head = ActionHead(latent_dim, self.action_space)
        codec = self.head.codec
        self._first_action: np.ndarray = codec.from_indices(np.zeros(codec.n, np.int64))
        self.generator = None

    @overload
    def forward(
        self, observations: PyTorchObs, mask: Tensor | None = None, *, features: Tensor | None = None
    ) -> FactoredCategorical: ...
    @overload
    def forward(self, observations: PyTorchObs, mask: Tensor | None = None, *, deterministic: bool) -> Tensor: ...
    def forward(
        self,
        observations: PyTorchObs,
        mask: Tensor | None = None,
        *,
        deterministic: bool | None = None,
        features: Tensor | None = None,
    ) -> FactoredCategorical | Tensor:
        """Returns the policy at the observations ``[B, ...]``, whose values are not validated; or actions of it.

        Args:
            observations: ``[B, ...]``.
            mask: Boolean ``[B, n, K]``, True where the state allows a choice; None: all are allowed.
            deterministic: None: the policy is returned. True: its most probable actions, False: sampled ones,
                ``[B, *action_space.shape]``, of the dtype of the space.
            features: What :meth:`features` returned for the observations, ``[B, features_dim]``; None: it is called.

        Raises:
            gsrl.checks.NonFiniteError: Actions are asked for, and an observation or a parameter is not finite.
        """
        if features is None:
            features = self.features(observations)
        policy = self.head(self.mlp(features), mask, validate_args=False)
        if deterministic is None:
            return policy
        scores = policy.logits.detach() if deterministic else policy.perturbed(generator=self.generator)
        if not is_concrete(scores):
            return to_space_dtype(self.head.codec, self.head.codec.from_indices(scores.argmax(-1)))
        check_finite(observations, policy.batch_shape)
        return torch.as_tensor(self.to_actions(largest(scores, observations, self)), device=scores.device)

    def to_actions(self, indices: NDArray[np.int64]) -> np.ndarray:
        """Actions ``[B, *action_space.shape]``, of the dtype of the space, from indices ``[..., n]``, unchecked."""
        first = self._first_action
        return indices.reshape(-1, *first.shape).astype(first.dtype, copy=False) + first

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self(observation, deterministic=deterministic)


@register("gsrl.Critics")
class Critics(Network):
    """``n_critics`` value networks over shared features, see :mod:`gsrl.values` for the forms of their output.

    Args:
        observation_space: Space of the observations.
        action_space: ``Discrete``, ``MultiDiscrete`` or ``MultiBinary``.
        net_arch: Sizes of the hidden layers.
        features_extractor: Maps preprocessed observations to features.
        activation_fn: Class of the activation function.
        n_critics: C.
        layer_norm: Whether each hidden layer is normalised before its activation, without learned scale.
        normalize_images: Whether images are divided by 255.
        form: ``"choices"``, ``"multilinear"`` or ``"network"``; see :class:`DiscreteSACPolicy`.
        normalize_observations: Whether what is numeric is normalised, see :class:`DiscreteSACPolicy`.
        features_extractor_kwargs: See :class:`Network`.

    Raises:
        ValueError: ``form`` is another one, or does not fit the space or the layers.

    Example:
        >>> critics = DiscreteSACPolicy(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), lambda _: 0.0).critic
        >>> q = critics(torch.zeros(3, 4))
        >>> q(torch.eye(2)[[0, 1, 1]].unsqueeze(1)).shape  # two critics' values of an action at each of three states
        torch.Size([2, 3])
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        activation_fn: type[nn.Module] = nn.ReLU,
        n_critics: int = 2,
        layer_norm: bool = False,
        normalize_images: bool = True,
        form: CriticForm = "choices",
        normalize_observations: bool = False,
        features_extractor_kwargs: dict[str, Any] | None = None,
    ) -> None:
        codec = OneHotCodec(action_space)
        if form not in ("choices", "multilinear", "network"):
            raise ValueError(f"critic must be 'choices', 'multilinear' or 'network', but got {form!r}.")
        if form == "choices" and codec.n > 1:
            raise ValueError(f"critic must not be 'choices' for the {codec.n} factors of {action_space}.")
        if form == "network" and not net_arch:
            raise ValueError("critic 'network' needs a hidden layer, but net_arch has none.")
        self.n_critics, self.form, self.event_shape = n_critics, form, (codec.n, codec.K)
        super().__init__(
            observation_space,
            action_space,
            net_arch,
            features_extractor,
            activation_fn,
            normalize_images,
            normalize_observations,
            features_extractor_kwargs,
            num_members=n_critics,
            layer_norm=layer_norm,
        )

    def _add_head(self, latent_dim: int) -> None:
        n, K = self.event_shape
        self._sizes = {
            "choices": [n * K],
            "multilinear": [1, n * K, PAIR_RANK * n * K if n > 1 else 0],
            "network": [1],
        }[self.form]
        self.weight, self.bias = _linear_parameters(latent_dim, sum(self._sizes), self.n_critics)
        if self.form == "network":
            # As if matrix and features were one input; one entry of each row is 1.
            bound = (self.features_extractor.features_dim + n) ** -0.5
            weight = torch.empty(self.n_critics, n * K, self.net_arch[0]).uniform_(-bound, bound)
            self.action_weight = nn.Parameter(weight)

    def forward(self, observations: PyTorchObs, features: Tensor | None = None) -> ActionValues:
        """Maps observations ``[B, ...]`` to the values of one-hot matrices there.

        Args:
            observations: ``[B, ...]``.
            features: What :meth:`features` returned for them, ``[B, features_dim]``; None: it is called.
        """
        if features is None:
            features = self.features(observations)
        features = features.expand(self.n_critics, *features.shape)
        if self.form == "network":
            return NetworkValues(
                partial(self._evaluate, features, detach=False), partial(self._evaluate, features.detach(), detach=True)
            )
        latent = self.mlp(features)
        output = torch.baddbmm(self.bias, latent, self.weight)
        if self.form == "choices":
            return ChoiceValues(output.view(*latent.shape[:-1], *self.event_shape))
        state, choices, pairs = output.split(self._sizes, -1)
        batch = latent.shape[:-1]
        return MultilinearValues(
            state.squeeze(-1),
            choices.view(*batch, *self.event_shape),
            pairs.view(*batch, *self.event_shape, PAIR_RANK) if self._sizes[-1] else None,
        )

    @torch.no_grad()
    def rescale_(self, factor: float) -> None:
        """Makes all values Q into ``factor * Q``, in place."""
        factors = torch.full((sum(self._sizes),), factor, device=self.weight.device)
        if len(self._sizes) == 3:
            factors[-self._sizes[-1] :] = factor**0.5  # values of pairs are products
        self.weight.mul_(factors)
        self.bias.mul_(factors)

    def _evaluate(self, features: Tensor, matrices: Tensor, *, detach: bool) -> Tensor:
        """Maps matrices ``[M, B, n K]`` to ``[C, M, B]``."""
        action_weight, weight, bias = (
            parameter.detach() if detach else parameter for parameter in (self.action_weight, self.weight, self.bias)
        )
        latent = self.mlp.forward_at(features, matrices @ action_weight.unsqueeze(1), detach=detach)
        return torch.baddbmm(bias, latent, weight).view(self.n_critics, *matrices.shape[:2])


class ActorPolicy(SavedModule, BasePolicy):
    """A policy that acts by an actor. A subclass builds its networks, and calls :meth:`_set_actor`.

    Attributes:
        actor: The policy network.
        net_arch: Hidden layers of the networks, as they were given, or the default.
        features_extractor: The actor's; each other network has one of its own, unless they share it.

    Example:
        >>> policy = DiscreteSACPolicy(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), lambda _: 0.0)
        >>> isinstance(policy, ActorPolicy)
        True
        >>> policy.act(np.zeros((3, 4), np.float32), action_masks=np.array([[False, True]] * 3))
        array([1, 1, 1])
    """

    EXTRACTOR: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor
    """Class of the features extractor where none is given."""
    actor: Actor
    features_extractor: BaseFeaturesExtractor
    net_arch: list[int] | dict[str, list[int]]

    def _make_network(
        self,
        cls: type[SomeNetwork],
        net_arch: list[int],
        activation_fn: type[nn.Module],
        features_extractor: BaseFeaturesExtractor | None = None,
        **own: Any,
    ) -> SomeNetwork:
        """A network with this features extractor, or with one of its own, of this policy's class of them."""
        return cls(
            self.observation_space,
            self.action_space,
            net_arch,
            features_extractor or self.make_features_extractor(),
            activation_fn,
            normalize_images=self.normalize_images,
            features_extractor_kwargs=self.features_extractor_kwargs,
            **own,
        )

    def _set_actor(self, actor: Actor) -> None:
        self.actor = actor
        self._mask: Tensor | None = None
        self.__dict__["features_extractor"] = actor.features_extractor  # not as a child, which it is of the actor

    @classmethod
    def _from_arguments(cls, arguments: dict[str, Any]) -> ActorPolicy:
        return cls(lr_schedule=ConstantSchedule(0.0), **arguments)  # which it does not use

    @property
    def generator(self) -> torch.Generator | None:
        """Source of the actions' randomness; torch's default one if None. The algorithm sets its own."""
        return self.actor.generator

    @generator.setter
    def generator(self, generator: torch.Generator | None) -> None:
        self.actor.generator = generator

    def forward(self, observations: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Returns actions of the space for observations ``[B, ...]``."""
        return self._predict(observations, deterministic)

    def get_distribution(self, obs: PyTorchObs, action_masks: np.ndarray | None = None) -> HeadDistribution:
        """Returns the distribution of actions, in the form of Stable-Baselines3's.

        Args:
            obs: Observations ``[B, ...]``, as tensors.
            action_masks: Flat masks ``[B, L]``, True where a choice is legal, see :mod:`gsrl.masking`.
        """
        distribution = HeadDistribution(self.action_space, self.generator)
        return distribution.proba_distribution(self.actor(obs, self._to_matrix(action_masks)))

    def _to_matrix(self, action_masks: np.ndarray | None) -> Tensor | None:
        """Flat masks ``[L]`` or ``[B, L]`` as those of the actor, ``[B, n, K]``."""
        if action_masks is None:
            return None
        codec = self.actor.head.codec
        matrix = to_matrix(codec, action_masks).reshape(-1, codec.n, codec.K)
        return torch.as_tensor(matrix, device=self.actor.head.weight.device)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Returns actions of the space; see Stable-Baselines3's ``predict``.

        Args:
            observation: One, or a batch of them.
            state: Unused, and returned.
            episode_start: Unused.
            deterministic: Whether the most probable choices are taken.
            action_masks: Flat masks ``[L]`` or ``[n_envs, L]``, True where a choice is legal, see :mod:`gsrl.masking`.

        Returns:
            Actions ``[n_envs, *action_space.shape]`` of the dtype of the space, or that of the one observation; and
            ``state``.

        Raises:
            gsrl.checks.NonFiniteError: An observation or a parameter is not finite; the message says which.
            ValueError: ``action_masks`` has another length, or leaves a factor without a legal choice.
        """
        # Stable-Baselines3's predict hands the observation alone to _predict.
        self._mask = self._to_matrix(action_masks)
        try:
            return super().predict(observation, state, episode_start, deterministic)
        finally:
            self._mask = None

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self.actor(observation, self._mask, deterministic=deterministic)

    @torch.no_grad()
    def act(
        self,
        observations: np.ndarray | dict[str, np.ndarray],
        action_masks: np.ndarray | None = None,
        noise: Tensor | None = None,
    ) -> np.ndarray:
        """Samples actions where the training goes: :meth:`predict` for those who need not be told what they did wrong.

        Args:
            observations: Of a vectorised environment with the policy's space, ``[n_envs, ...]``.
            action_masks: Flat masks ``[n_envs, L]``.
            noise: Gumbel noise ``[n_envs, n, K]``; drawn if None.

        Returns:
            ``[n_envs, *action_space.shape]``, of the dtype of the space.

        Raises:
            gsrl.checks.NonFiniteError: An observation or a parameter is not finite; the message says which.
            ValueError: ``action_masks`` leaves a factor without a legal choice.
        """
        head = self.actor.head
        device = head.weight.device
        mask = None if action_masks is None else torch.as_tensor(to_matrix(head.codec, action_masks), device=device)
        tensors = obs_as_tensor(observations, device)
        policy = self.actor(tensors, mask)
        scores = policy.perturbed(noise=noise, generator=self.generator)
        return self.actor.to_actions(largest(scores, tensors, self.actor))

    def set_training_mode(self, mode: bool) -> None:
        """Switches to training or evaluation mode, where that is a change."""
        if mode != self.training:
            _set_training_mode(self, mode)


def to_space_dtype(codec: OneHotCodec, actions: Tensor) -> Tensor:
    """Actions in the dtype of their space: what Stable-Baselines3 makes NumPy arrays of, and hands to environments."""
    return actions.to(torch.from_numpy(np.empty(0, codec.space.dtype)).dtype)


def _set_training_mode(module: nn.Module, mode: bool) -> None:
    """``module.train(mode)``, in a tenth of its time: a training loop switches twice a step."""
    if type(module).train is not nn.Module.train:
        module.train(mode)
        return
    vars(module)["training"] = mode
    for child in vars(module)["_modules"].values():
        if child is not None:
            _set_training_mode(child, mode)


@register("gsrl.DiscreteSACPolicy")
class DiscreteSACPolicy(ActorPolicy):
    """The networks of :class:`gsrl.DiscreteSAC`: actor, critics and target critics.

    Args:
        observation_space: Space of the observations.
        action_space: ``Discrete``, ``MultiDiscrete`` or ``MultiBinary``.
        lr_schedule: Unused: the learner holds the optimiser.
        net_arch: Hidden layers: a list for all networks, or ``dict(pi=[...], qf=[...])``. Default: [64, 64] for
            vectors, none on top of a convolutional network.
        activation_fn: Class of the activation function.
        features_extractor_class: Class of the features extractor, of which actor and critics each have their own unless
            they share it; None: :attr:`EXTRACTOR`.
        features_extractor_kwargs: Its arguments.
        normalize_images: Whether images are divided by 255.
        n_critics: Number of critics.
        layer_norm: Whether the critics' hidden layers are normalised.
        critic: What the critics know of an action: ``"choices"``, the values of all choices of a single factor at once;
            ``"multilinear"``, values of state, choices and pairs of choices (:class:`gsrl.values.MultilinearValues`);
            ``"network"``, a network that takes the one-hot matrix as an input. ``"auto"``: ``"choices"`` for a single
            factor, ``"network"`` for several, or ``"multilinear"`` where ``net_arch`` has no hidden layer.
        normalize_observations: Whether entries of a ``Box`` that is no image are shifted and scaled by mean and
            deviation of what the agent has seen so far, see :class:`gsrl.normalization.ObservationNormalizer`. All
            else is as it is, and what is discrete is one-hot.
        share_features_extractor: Whether actor and critics have one features extractor, which only the loss of the
            critics trains: the gradient of the actor stops at the features, as in SAC from pixels (Yarats et al. 2021,
            1910.01741). An observation then passes through one extractor in the place of two, forward and backward.
            The target critics have a copy that follows slowly.

    Raises:
        ValueError: ``n_critics`` is below 1; or ``critic`` is another form, or does not fit the space or ``net_arch``.

    Example:
        >>> policy = DiscreteSACPolicy(spaces.Box(-1, 1, (4,)), spaces.MultiDiscrete([2, 3]), lambda _: 0.0)
        >>> policy.actor(torch.zeros(1, 4)).probs.shape  # two factors of up to three choices
        torch.Size([1, 2, 3])
        >>> policy.predict(np.zeros(4, np.float32))[0].shape
        (2,)
    """

    EARLIER: ClassVar[Mapping[str, Any]] = {"layer_norm": False, "normalize_observations": False}

    @classmethod
    def earlier_arguments(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See :meth:`SavedModule.earlier_arguments`; layers were wider."""
        arguments = super().earlier_arguments(arguments)
        if arguments.get("net_arch") is None:
            is_image = (arguments.get("features_extractor_class") or cls.EXTRACTOR) is NatureCNN
            arguments["net_arch"] = [] if is_image else [256, 256]
        return arguments

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        n_critics: int = 2,
        layer_norm: bool = True,
        critic: CriticForm | Literal["auto"] = "auto",
        normalize_observations: bool = True,
        share_features_extractor: bool = False,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class or self.EXTRACTOR,
            features_extractor_kwargs,
            normalize_images=normalize_images,
        )
        if n_critics < 1:
            raise ValueError(f"n_critics must be at least 1, but got {n_critics}.")
        if net_arch is None:
            net_arch = [] if self.features_extractor_class is NatureCNN else [64, 64]
        self.net_arch = net_arch
        actor_arch, critic_arch = get_actor_critic_arch(net_arch)
        own: dict[str, Any] = {"normalize_observations": normalize_observations}
        self._set_actor(self._make_network(Actor, actor_arch, activation_fn, **own))
        if critic == "auto":
            several: CriticForm = "network" if critic_arch else "multilinear"
            critic = "choices" if self.actor.head.codec.n == 1 else several
        own |= {"n_critics": n_critics, "layer_norm": layer_norm, "form": critic}
        self.share_features_extractor = share_features_extractor
        shared = self.actor.features_extractor if share_features_extractor else None
        self.critic = self._make_network(Critics, critic_arch, activation_fn, shared, **own)
        if share_features_extractor:
            self.critic.normalizers = self.actor.normalizers
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)

    def normalize_observations_(self, name: str, mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> None:
        """Makes all networks normalise an entry of the observations so, see :class:`ObservationNormalizer`."""
        for network in (self.actor, self.critic, self.critic_target):
            normalizer: Any = network.normalizers[name]
            normalizer.set_(mean, deviation)

    def rescale_values_(self, factor: float) -> None:
        """Makes all values Q of critics and target critics into ``factor * Q``."""
        for critics in (self.critic, self.critic_target):
            critics.rescale_(factor)


@register("gsrl.CnnPolicy")
class CnnPolicy(DiscreteSACPolicy):
    """:class:`DiscreteSACPolicy` for images: Stable-Baselines3's ``NatureCNN``.

    Example:
        >>> space = spaces.Box(0, 255, (3, 36, 36), np.uint8)
        >>> policy = CnnPolicy(space, spaces.Discrete(4), lambda _: 0.0)
        >>> type(policy.actor.features_extractor).__name__, policy.net_arch
        ('NatureCNN', [])
    """

    EXTRACTOR = NatureCNN


@register("gsrl.MultiInputPolicy")
class MultiInputPolicy(DiscreteSACPolicy):
    """:class:`DiscreteSACPolicy` for ``Dict`` observations: Stable-Baselines3's ``CombinedExtractor``.

    Example:
        >>> space = spaces.Dict({"position": spaces.Box(-1, 1, (2,)), "kind": spaces.Discrete(3)})
        >>> policy = MultiInputPolicy(space, spaces.Discrete(4), lambda _: 0.0)
        >>> policy.actor.features({"position": torch.zeros(1, 2), "kind": torch.tensor([1])}).shape
        torch.Size([1, 5])
    """

    EXTRACTOR = CombinedExtractor


MlpPolicy = DiscreteSACPolicy


class HeadDistribution(CategoricalDistribution):
    """The policy of an :class:`ActionHead` as a Stable-Baselines3 distribution over the actions of its space.

    It is a ``CategoricalDistribution`` to Stable-Baselines3, which builds and calls it by that class's methods.

    Args:
        action_space: ``Discrete``, ``MultiDiscrete`` or ``MultiBinary``.
        generator: Source of samples; None: torch's default one, which Stable-Baselines3 seeds.
    """

    distribution: FactoredCategorical  # type: ignore[assignment]

    def __init__(self, action_space: spaces.Space, generator: torch.Generator | None = None) -> None:
        self.codec = OneHotCodec(action_space)
        self.generator = generator
        super().__init__(self.codec.n * self.codec.K)

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:
        """The head."""
        return ActionHead(latent_dim, self.codec.space)

    def proba_distribution(self, action_logits: Any) -> HeadDistribution:
        """Takes what the head returned."""
        self.distribution = action_logits
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probability ``[B]`` of actions of the space."""
        actions = actions.long().reshape(-1, *(self.codec.space.shape or ()))
        return self.distribution.log_prob(self.codec.encode(actions))

    def sample(self) -> Tensor:
        """Actions of the space."""
        indices = self.distribution.sample_indices(generator=self.generator)
        return to_space_dtype(self.codec, self.codec.from_indices(indices))

    def mode(self) -> Tensor:
        """The most probable actions."""
        return to_space_dtype(self.codec, self.codec.from_indices(self.distribution.logits.argmax(-1)))


class CategoricalActorCriticPolicy(ActorCriticPolicy):
    """Stable-Baselines3's actor-critic with an :class:`ActionHead`, for its PPO and A2C.

    ``PPO(CategoricalActorCriticPolicy, env)``; the arguments are those of ``ActorCriticPolicy``.

    Example:
        >>> from stable_baselines3 import PPO
        >>> model = PPO(CategoricalActorCriticPolicy, "CartPole-v1", n_steps=16, batch_size=16, n_epochs=1).learn(16)
    """

    def _build(self, lr_schedule: Schedule) -> None:
        self.action_dist = HeadDistribution(self.action_space)
        super()._build(lr_schedule)
