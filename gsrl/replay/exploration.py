"""Exploration that lasts for more than one action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gsrl.relaxations import gumbel_noise

__all__ = ["PersistentExploration"]

EXPONENT = 2.0
"""Of the distribution of durations, as in the source."""

LONGEST = 100
"""Steps that exploration lasts at most."""

DOMINATING = 1e6
"""Factor of noise that logits do not count beside, while those of illegal choices still do."""


class PersistentExploration:
    r"""Now and then an environment repeats choices that were drawn uniformly, for a random number of steps.

    At each step an environment that does not explore begins to, with the probability epsilon, for d steps, where
    :math:`P(d) \propto d^{-2}` up to 100. What takes the same choice 25 times in a row is found so even if the policy
    is not all but certain of that choice, and choices that it has given up are tried again.

    All of this is a matter of the Gumbel noise by which actions are chosen, the arg max of logits plus noise: while an
    environment explores, its noise is kept and is so large that logits do not count. So choices are uniform over the
    legal ones, where these change over those that are left, and all factors explore together.

    What is in replay then is not only the policy's: this is for learners that are off-policy.

    Source: Dabney et al. 2021, "Temporally-Extended Epsilon-Greedy Exploration" (2006.01782), with draws of the policy
    in the place of greedy actions.

    Args:
        epsilons: Of each member of a population, or of one agent, in [0, 1].
        shape: ``(n_envs, n, K)``.
        device: Of the noise.

    Attributes:
        noise: What is kept while exploring, float32 ``[S, n_envs, n, K]``.
        remaining: Steps for which it holds, int64 ``[S, n_envs]``.

    Raises:
        ValueError: An epsilon is out of range.

    Example:
        >>> exploration = PersistentExploration([1.0], (2, 1, 4))  # a member with two environments, a factor of 4
        >>> noise = exploration.advance([torch.Generator().manual_seed(0)])
        >>> noise.shape, bool(noise.abs().min() > 1e4)  # beside it, logits do not count
        (torch.Size([1, 2, 1, 4]), True)
    """

    def __init__(self, epsilons: Sequence[float], shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        count = len(epsilons)
        self.noise = torch.zeros(count, *shape, device=device)
        self.remaining = torch.zeros(count, shape[0], dtype=torch.int64, device=device)
        self.epsilons = list(epsilons)

    @property
    def epsilons(self) -> list[float]:
        """Of each member; a list that is assigned holds from the next step on."""
        return self._epsilons

    @epsilons.setter
    def epsilons(self, epsilons: list[float]) -> None:
        if not all(0 <= epsilon <= 1 for epsilon in epsilons):
            raise ValueError(f"epsilons must be in [0, 1], but got {epsilons}.")
        self._epsilons = epsilons
        weights = torch.arange(1, LONGEST + 1, dtype=torch.float64) ** -EXPONENT
        shares = weights.cumsum(0) / weights.sum()
        shares[-1] = 1.0  # whatever the rounding
        # Below epsilon, one uniform number says both that exploration begins and how long it lasts.
        self._bounds = (torch.tensor(epsilons, dtype=torch.float64)[:, None] * shares).to(self.noise.device)

    def advance(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Goes on to the next actions.

        Args:
            generators: One of each member, which draws what it would draw alone.

        Returns:
            The noise to choose them by, ``[S, n_envs, n, K]``: Gumbel noise, or what is kept, and dominating.
        """
        fresh = gumbel_noise(self.noise.shape, generator=generators, device=self.noise.device)
        uniform = torch.ones(self.remaining.shape, dtype=torch.float64, device=self.noise.device)
        for row, generator, epsilon in zip(uniform, generators, self.epsilons, strict=True):
            if epsilon > 0:
                row.uniform_(generator=generator)
        begins = (self.remaining == 0) & (uniform < self._bounds[:, -1:])
        durations = 1 + torch.searchsorted(self._bounds, uniform, right=True)
        self.noise.copy_(torch.where(begins[..., None, None], fresh, self.noise))
        self.remaining.copy_(torch.where(begins, durations, self.remaining))
        explores = self.remaining > 0
        self.remaining.sub_(explores.long())
        return torch.where(explores[..., None, None], DOMINATING * self.noise, fresh)

    @classmethod
    def stacked(cls, parts: Sequence[PersistentExploration]) -> PersistentExploration:
        """Several as one, of whose tensors theirs become rows.

        Args:
            parts: Each of one agent, with the same number of environments and choices.
        """
        first = parts[0].noise
        whole = cls([part.epsilons[0] for part in parts], first.shape[1:], first.device)
        whole.load_state_dict(
            {name: torch.cat([part.state_dict()[name] for part in parts]) for name in ("noise", "remaining")}
        )
        for index, part in enumerate(parts):
            part.noise, part.remaining = whole.noise[index : index + 1], whole.remaining[index : index + 1]
        return whole

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the tensors that :meth:`load_state_dict` restores."""
        return {"noise": self.noise.clone(), "remaining": self.remaining.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores :meth:`state_dict`, in place."""
        self.noise.copy_(state["noise"])
        self.remaining.copy_(state["remaining"])
