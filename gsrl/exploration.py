"""Exploration that lasts: noise that is kept for more than one action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gsrl.relaxations import gumbel_noise

__all__ = ["PersistentNoise"]

EXPONENT = 2.0
"""Of the durations' distribution, as in the source."""


class PersistentNoise:
    r"""Gumbel noise of actions that each environment keeps for a random number of steps.

    An action is the arg max of logits plus Gumbel noise. With noise drawn anew at every step, a policy that gives a
    choice the probability .3 takes it 25 times in a row once in :math:`10^{13}` attempts; with noise that is kept for
    so long, in three of ten. The noise is kept, not the action: where logits change, so may the choice. Durations d are
    drawn with :math:`P(d) \propto d^{-2}` up to a largest one, so that most are of a single step.

    The first action of each duration is a draw of the policy. The later ones are at states to which the same noise has
    led, and given the state they are no exact draws: this is for learners that are off-policy.

    Source: the durations are those of temporally-extended epsilon-greedy exploration, Dabney et al. 2021 (2006.01782),
    which repeats actions that are drawn uniformly; to keep the noise in their place is gsrl's own.

    Args:
        max_durations: Steps that the noise is kept at most, of each member of a population, or of one agent.
        shape: ``(n_envs, n, K)``.
        device: Of the noise.

    Attributes:
        noise: What is kept, float32 ``[S, n_envs, n, K]``.
        remaining: Steps for which it still holds, int64 ``[S, n_envs]``.

    Raises:
        ValueError: A duration is below 1.
    """

    def __init__(self, max_durations: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        if min(max_durations) < 1:
            raise ValueError(f"max_durations must be at least 1, but got {list(max_durations)}.")
        self.max_durations = list(max_durations)
        count = len(self.max_durations)
        self.noise = torch.zeros(count, *shape, device=device)
        self.remaining = torch.zeros(count, shape[0], dtype=torch.int64, device=device)
        steps = torch.arange(1, max(self.max_durations) + 1, dtype=torch.float64)
        longest = torch.tensor(self.max_durations)[:, None]
        weights = steps**-EXPONENT * (steps <= longest)
        cumulative = weights.cumsum(-1) / weights.sum(-1, keepdim=True)
        self._cumulative = cumulative.masked_fill(steps >= longest, 1.0).to(device)  # whatever the rounding

    def advance(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Goes on to the next actions.

        Args:
            generators: One of each member, which draws what it would draw alone.

        Returns:
            Their noise, ``[S, n_envs, n, K]``; it is :attr:`noise`, which changes at the next call.
        """
        fresh = gumbel_noise(self.noise.shape, generator=generators, device=self.noise.device)
        uniform = torch.zeros(self.remaining.shape, dtype=torch.float64, device=self.noise.device)
        for row, generator, longest in zip(uniform, generators, self.max_durations, strict=True):
            if longest > 1:
                row.uniform_(generator=generator)
        is_due = self.remaining == 0
        durations = 1 + torch.searchsorted(self._cumulative, uniform, right=True)
        self.noise.copy_(torch.where(is_due[..., None, None], fresh, self.noise))
        self.remaining.copy_(torch.where(is_due, durations, self.remaining) - 1)
        return self.noise

    @classmethod
    def stacked(cls, parts: Sequence[PersistentNoise]) -> PersistentNoise:
        """Several as one, of whose tensors theirs become rows.

        Args:
            parts: Each of one agent, with the same number of environments and choices.
        """
        first = parts[0].noise
        whole = cls([part.max_durations[0] for part in parts], first.shape[1:], first.device)
        whole.load_state_dict(
            {name: torch.cat([part.state_dict()[name] for part in parts]) for name in ("noise", "remaining")}
        )
        for index, part in enumerate(parts):
            part.noise, part.remaining = whole.noise[index : index + 1], whole.remaining[index : index + 1]
        return whole

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that :meth:`load_state_dict` restores."""
        return {"noise": self.noise, "remaining": self.remaining}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores :meth:`state_dict`, in place."""
        self.noise.copy_(state["noise"])
        self.remaining.copy_(state["remaining"])
