"""Learning without units: running statistics of rewards and observations, and what is normalised by them.

All of it is homogeneous. Where rewards are multiplied by a power of two, means and deviations of returns are so too,
exactly; normalised values and networks are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import is_image_space
from torch import Tensor, nn

from gsrl.replay import ReplayBatch

__all__ = ["Normalization", "ObservationNormalizer", "ReturnStatistics", "RunningMoments", "numeric_shapes"]

SIZE = 5.0
"""Root mean square of normalised values."""

DRIFT = 0.05
"""By which share the size of returns may move before values are normalised anew."""

GROWTH = 1 / 16
"""By which share the data grow before observations are normalised anew."""

CLIP = 10.0
"""Largest size of a normalised observation, in deviations."""


class ReturnStatistics:
    r"""Size of discounted returns, of all data so far, by a constant number of operations a step.

    It is the root of the mean of :math:`G_t^2`, with the returns-to-go

    .. math:: G_t = \sum_{k=0}^{L-1} \gamma^k r_{t+k} + \gamma^L (1 - d)\, \mu

    over the L steps that are left of an episode, whose end has d = 1 by termination; one that was truncated, or that
    still lasts, goes on at the mean, the value that a function without inputs would have by Bellman's equation,

    .. math:: \mu = \sum_t r_t \Big/ \sum_t (1 - \gamma (1 - d_t)).

    When a reward arrives, it adds :math:`\gamma^{t - s} r_t` to every earlier return of its episode. What this adds to
    the sums of returns and of their squares is known from four other sums: nothing else is kept.

    Args:
        gammas: Discount factors of S members.
        n_envs: E, environments of each.

    Attributes:
        open: Of the episodes that still last, sums over their steps of 1, p, p^2, G, G p and G^2, where p is gamma to
            the steps since then and G without its last term, ``[S, 6, E]``.
        closed: Of the others, sums of 1, q^2, G q and G^2, where q = p (1 - d), ``[S, 4]``.
        totals: Numerator and denominator of the mean, ``[S, 2]``.

    Example:
        >>> statistics = ReturnStatistics([0.5], n_envs=1)
        >>> no, yes = np.array([[False]]), np.array([[True]])
        >>> statistics.add(np.array([[4.0]]), terminated=no, truncated=no, kept=yes)
        >>> statistics.add(np.array([[6.0]]), terminated=yes, truncated=no, kept=yes)
        >>> statistics.size()  # the root of (7^2 + 6^2) / 2: the returns are 4 + .5 * 6, and 6
        array([6.51920241])
    """

    def __init__(self, gammas: Sequence[float], n_envs: int) -> None:
        self.gammas = np.asarray(gammas, dtype=np.float64).reshape(-1, 1)
        members = len(self.gammas)
        self.open = np.zeros((members, 6, n_envs))
        self.closed = np.zeros((members, 4))
        self.totals = np.zeros((members, 2))

    def add(
        self,
        rewards: NDArray[Any],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        kept: NDArray[np.bool_],
    ) -> None:
        """Takes in a step of every environment.

        Args:
            rewards: ``[S, E]``.
            terminated: Whether the episode terminated by this step, ``[S, E]``.
            truncated: Whether it was truncated.
            kept: False where there was no step.
        """
        rewards = rewards.astype(np.float64) * kept
        self.open[:, :3] += kept[:, None]
        _, p, p2, g, gp, g2 = self.open.swapaxes(0, 1)
        g2 += rewards * (2 * gp + rewards * p2)
        g += rewards * p
        gp += rewards * p2
        discounts = np.where(kept, self.gammas, 1.0)
        p *= discounts
        p2 *= discounts * discounts
        gp *= discounts
        self.totals[:, 0] += rewards.sum(1)
        self.totals[:, 1] += ((1.0 - self.gammas * ~terminated) * kept).sum(1)
        if terminated.any() or truncated.any():
            self._end(terminated, truncated)

    def cut(self) -> None:
        """Truncates all episodes here."""
        everywhere = np.ones(self.open[:, 0].shape, np.bool_)
        self._end(~everywhere, everywhere)

    def _end(self, terminated: NDArray[np.bool_], truncated: NDArray[np.bool_]) -> None:
        ends = (terminated | truncated)[:, None]
        self.closed += np.where(ends, self._sums_if_ended(terminated), 0.0).sum(-1)
        self.open *= ~ends

    def _sums_if_ended(self, terminated: NDArray[np.bool_]) -> NDArray[np.float64]:
        """What each episode that lasts would add to ``closed``, ``[S, 4, E]``."""
        n, _, p2, _, gp, g2 = self.open.swapaxes(0, 1)
        return np.stack([n, ~terminated * p2, ~terminated * gp, g2], 1)

    def size(self) -> NDArray[np.float64]:
        """The root mean square of the returns of each member, ``[S]``, 0 where all rewards were."""
        total, weight = self.totals.T
        mean = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
        lasting = self._sums_if_ended(np.zeros(self.open[:, 0].shape, np.bool_))
        count, q2, gq, g2 = (self.closed + lasting.sum(-1)).T
        square = g2 + mean * (2 * gq + mean * q2)
        size: NDArray[np.float64] = np.sqrt(np.maximum(square, 0.0) / np.maximum(count, 1.0))
        return size


class RunningMoments:
    """Mean and deviation of the entries of vectors, of all data so far.

    Source: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", Eq. 2.1.

    Args:
        members: S.
        shape: Of a vector.

    Attributes:
        count: Vectors so far, ``[S, 1, ...]``.
        mean: ``[S, *shape]``.
        squares: Sums of squared distances from the mean, ``[S, *shape]``.

    Example:
        >>> moments = RunningMoments(members=1, shape=(2,))
        >>> moments.add(np.array([[[0.0, 5.0], [2.0, 5.0]]]))  # two vectors of one member
        >>> moments.mean, moments.deviation()
        (array([[1., 5.]]), array([[1., 0.]]))
    """

    def __init__(self, members: int, shape: Sequence[int]) -> None:
        self.count = np.zeros((members, *[1] * len(shape)))
        self.mean = np.zeros((members, *shape))
        self.squares = np.zeros((members, *shape))

    def add(self, values: NDArray[Any]) -> None:
        """Takes in vectors ``[S, E, *shape]``."""
        values = values.astype(np.float64)
        number = values.shape[1]
        mean = values.mean(1)
        delta = mean - self.mean
        total = self.count + number
        self.mean += delta * (number / total)
        self.squares += np.square(delta) * (self.count * number / total)
        if number > 1:
            self.squares += np.square(values - mean[:, None]).sum(1)
        self.count += number

    def deviation(self) -> NDArray[np.float64]:
        """Standard deviation, ``[S, *shape]``."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))


def numeric_shapes(space: spaces.Space[Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of what is numeric in a space of observations: of a ``Box`` that is no image.

    Args:
        space: Of observations.

    Returns:
        By name of the entry of a ``Dict``; of another space that of all, under the name ``"all"``.

    Example:
        >>> from gymnasium import spaces
        >>> numeric_shapes(spaces.Dict({"position": spaces.Box(-1, 1, (2,)), "kind": spaces.Discrete(3)}))
        {'position': (2,)}
    """
    entries = space.spaces if isinstance(space, spaces.Dict) else {"all": space}
    return {
        name: entry.shape
        for name, entry in entries.items()
        if isinstance(entry, spaces.Box) and len(entry.shape) < 3 and not is_image_space(entry)
    }


class ObservationNormalizer(nn.Module):
    r"""Shifts and scales each entry of an observation, :math:`\mathrm{clip}((x - m) / s)`.

    Mean and deviation are buffers that :meth:`set_` writes, 0 and 1 at first. What has not varied so far becomes 0.

    Args:
        shape: Of an observation.

    Example:
        >>> normalizer = ObservationNormalizer((2,))
        >>> normalizer.set_(np.array([1.0, 5.0]), np.array([2.0, 0.0]))  # the second entry has not varied
        >>> normalizer(torch.tensor([[5.0, 7.0]]))
        tensor([[2., 0.]])
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(*shape))
        self.register_buffer("scale", torch.ones(*shape))

    def forward(self, observations: Tensor) -> Tensor:
        """Maps observations ``[B, *shape]`` to float32 of the same shape, in [-10, 10]."""
        return ((observations.float() - self.mean) * self.scale).clamp(-CLIP, CLIP)

    def set_(self, mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> None:
        """Writes mean and deviation, ``[*shape]`` each."""
        varies = deviation > 1e-6 * np.abs(mean)
        scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies)
        self.mean.copy_(torch.as_tensor(mean))
        self.scale.copy_(torch.as_tensor(scale))


class Networks(Protocol):
    """What is normalised of an agent: a :class:`gsrl.algorithms.policies.DiscreteSACPolicy`."""

    def normalize_observations_(self, name: str, mean: NDArray[Any], deviation: NDArray[Any]) -> None:
        """Makes all networks normalise an entry of the observations so."""

    def rescale_values_(self, factor: float) -> None:
        """Makes all values Q of critics and their targets into ``factor * Q``."""


class Normalization:
    r"""Normalises what one agent, or the members of a population, learn from, by statistics of all data so far.

    Rewards are multiplied by c divided by the size of the returns so far, see :class:`ReturnStatistics`, with c =
    :data:`SIZE`. When the size has moved, the last layers of critics and targets are rescaled so that what they say in
    units of reward stays what it was. No mean is subtracted: where every step costs, what has not been tried is then
    better than all that has, and is tried.

    Source: PopArt, van Hasselt et al. 2016 (1602.07714), Eqs. 5 and 6, with the size of returns in the place of the
    deviation of targets.

    Args:
        gammas: Discount factors of S members.
        n_envs: E, environments of each.
        shapes: Of what is normalised of the observations, by name; see :func:`numeric_shapes`.
        values: Whether values are normalised.

    Example:
        >>> normalization = Normalization([0.9], n_envs=1, shapes={}, values=True)
        >>> normalization.add(None, np.array([10.0]), np.array([True]), [{}])  # an episode of one step
        >>> normalization.renew([gsrl.DiscreteSAC("MlpPolicy", "CartPole-v1").policy])
        >>> normalization.scale()  # its return becomes 5
        array([0.5])
    """

    def __init__(
        self, gammas: Sequence[float], n_envs: int, shapes: Mapping[str, tuple[int, ...]], *, values: bool
    ) -> None:
        members = len(gammas)
        self.n_envs = n_envs
        self.returns = ReturnStatistics(gammas, n_envs) if values else None
        self.moments = {name: RunningMoments(members, shape) for name, shape in shapes.items()}
        # Size of returns by which values are normalised, 0 before there is a reward.
        self._size = np.zeros((members, 1))
        # Scale as a batch needs it, until it changes.
        self._factor: float | Tensor | None = None
        # Observations so far when they were last normalised anew.
        self._seen = np.zeros((members, 1))

    def add(
        self, observations: Any, rewards: NDArray[Any], dones: NDArray[Any], infos: Sequence[Mapping[str, Any]]
    ) -> None:
        """Takes in a step of every environment.

        Args:
            observations: Those acted on, ``[S * E, ...]``, as networks see them.
            rewards: ``[S * E]``.
            dones: Whether an episode ended, ``[S * E]``.
            infos: Of the step, see :meth:`gsrl.replay.ReplayBuffer.add`.
        """
        shape = (len(self._size), self.n_envs)
        for name, moments in self.moments.items():
            values = observations[name] if isinstance(observations, dict) else observations
            moments.add(np.reshape(values, (*shape, *moments.mean.shape[1:])))
        if self.returns is not None:
            ended = np.reshape(dones, shape)
            kept = np.array([not info.get("dummy_step", False) for info in infos]).reshape(shape)
            truncated = ended
            if ended.any():
                truncated = ended & np.array([info.get("TimeLimit.truncated", False) for info in infos]).reshape(shape)
            self.returns.add(np.reshape(rewards, shape), ended & ~truncated, truncated, kept)

    def cut(self) -> None:
        """Tells that all episodes ended here without having been seen to."""
        if self.returns is not None:
            self.returns.cut()

    def renew(self, networks: Sequence[Networks], alive: Sequence[bool] = (True,)) -> None:
        """Normalises anew where the statistics have moved enough.

        Args:
            networks: Of each member.
            alive: Whether each still learns; the others stay as they are.
        """
        seen = max((moments.count.flat[0] for moments in self.moments.values()), default=0.0)
        if seen > (1 + GROWTH) * self._seen.flat[0]:
            self._seen[...] = seen
            for name, moments in self.moments.items():
                deviation = moments.deviation()
                for index in np.flatnonzero(alive).tolist():
                    networks[index].normalize_observations_(name, moments.mean[index], deviation[index])
        if self.returns is None:
            return
        size, new_size = self._size[:, 0], self.returns.size()
        moved = np.abs(new_size - size) > DRIFT * new_size
        for index in np.flatnonzero(moved & alive).tolist():
            if size[index] > 0:
                networks[index].rescale_values_(size[index] / new_size[index])
            size[index] = new_size[index]
            self._factor = None

    def scale(self) -> NDArray[np.float64]:
        """What rewards are multiplied by, ``[S]``."""
        size = self._size[:, 0]
        return np.divide(SIZE, size, out=np.ones_like(size), where=size > 0)

    def normalized(self, batch: ReplayBatch) -> ReplayBatch:
        """The batch with rewards that make targets those of normalised values.

        Args:
            batch: Of one agent, or with a leading dimension of members.
        """
        if self.returns is None:
            return batch
        if self._factor is None:
            scale = self.scale()
            self._factor = scale.item() if len(scale) == 1 else torch.as_tensor(scale).to(batch.rewards)
        factor = self._factor
        if isinstance(factor, Tensor):
            factor = factor.view(-1, *[1] * (batch.rewards.dim() - 1))
        return batch._replace(rewards=batch.rewards * factor)

    @classmethod
    def stacked(cls, parts: Sequence[Normalization]) -> Normalization:
        """Several as one, of whose arrays theirs become rows.

        Args:
            parts: Each of one agent, with the same environments and observations.
        """
        first = parts[0]
        gammas = [] if first.returns is None else [part.returns.gammas.item() for part in parts if part.returns]
        shapes = {name: moments.mean.shape[1:] for name, moments in first.moments.items()}
        whole = cls(gammas or [1.0] * len(parts), first.n_envs, shapes, values=first.returns is not None)
        for index, part in enumerate(parts):
            for (_, _, rows), (owner, name, array) in zip(
                whole._arrays().values(), part._arrays().values(), strict=True
            ):
                rows[index] = array[0]
                setattr(owner, name, rows[index : index + 1])
        return whole

    def _arrays(self) -> dict[str, tuple[Any, str, NDArray[np.float64]]]:
        """All state by name: its owner, its name there, and the array, with a leading dimension of members."""
        owned: list[tuple[str, Any, tuple[str, ...]]] = [("", self, ("_seen",))]
        if self.returns is not None:
            owned += [("", self, ("_size",)), ("returns.", self.returns, ("open", "closed", "totals"))]
        owned += [(f"{name}.", moments, ("count", "mean", "squares")) for name, moments in self.moments.items()]
        return {
            prefix + name.lstrip("_"): (owner, name, getattr(owner, name))
            for prefix, owner, names in owned
            for name in names
        }

    def state_dict(self) -> dict[str, NDArray[np.float64]]:
        """A copy of all state, by name; each array has a leading dimension of members."""
        return {name: array.copy() for name, (_, _, array) in self._arrays().items()}

    def load_state_dict(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """Restores :meth:`state_dict`, in place; without the episodes that last where environments are others."""
        for name, (_, _, array) in self._arrays().items():
            if state[name].shape == array.shape or name != "returns.open":
                array[...] = state[name]
        self._factor = None
