"""Discrete codes of images: an autoencoder of categorical variables, and vectors that are quantised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gsrl import checkpoint
from gsrl._validation import check_count, is_concrete, is_number
from gsrl.distributions import MAX_SUPPORT, FactoredCategorical
from gsrl.estimators import Estimator, Exact, Noise, Objective, Pathwise, make_estimator
from gsrl.relaxations import replace_value

__all__ = ["CategoricalVAE", "Quantised", "VectorQuantizer"]

METHODS = ("gumbel", "ema", "straight-through")


@checkpoint.register("gsrl.CategoricalVAE")
class CategoricalVAE(nn.Module):
    r"""A variational autoencoder whose code is ``n`` categorical variables of ``K`` values, with a uniform prior.

    .. math:: -\log p(x) \le \mathbb{E}_{D \sim q(D|x)}[-\log p(x|D)] + \mathrm{KL}(q \| p), \qquad
              \mathrm{KL} = n \log K - H(q(D|x))

    The expectation, and its gradient in the encoder, are an estimator's: any of the library's, or one of your own. The
    second term and its gradient are exact. With ``unimix`` u, the encoder's probabilities are
    :math:`(1 - u) \mathrm{softmax}(\theta) + u / K`, so that no value is ever given up. Images are of pixels that are 0
    or 1, or the probability of 1: :meth:`log_prob` is Bernoulli's. A subclass with another likelihood overrides it, and
    :meth:`mean`.

    As a loss of :class:`gsrl.learning.Learner` it is called with images, and handed its noise.

    Source: Kingma and Welling 2014 (1312.6114), Eq. 3; Jang et al. 2017 (1611.01144), Section 4.2, with categorical
    variables; Hafner et al. 2023 (2301.04104) for ``unimix``, of .01 there.

    Args:
        encoder: Maps images ``[B, *event]`` to logits, ``[B, n, K]`` or ``[B, n * K]``.
        decoder: Maps codes ``[B, n * K]`` to ``[B, *event]``, the logits of pixels. Estimators may give it codes
            between the corners, and it must treat rows independently.
        n: Variables of a code.
        K: Values of each, at least 2.
        estimator: Of the gradient: a name that :func:`gsrl.make_estimator` knows, or an estimator, which then belongs
            to this module. ``estimator.step`` is for the training loop to call.
        unimix: Share of the uniform distribution in the encoder's, from 0 to below 1.

    Attributes:
        noise: None, or what the estimator's noise is in calls of the module, see :mod:`gsrl.learning.noise`.

    Raises:
        ValueError: ``n``, ``K`` or ``unimix`` is out of its range.

    Example:
        >>> from torch import nn
        >>> vae = CategoricalVAE(nn.Linear(64, 4 * 8), nn.Linear(4 * 8, 64), n=4, K=8, estimator="rloo")
        >>> vae.loss(torch.ones(10, 64)).backward()
        >>> vae.sample(5).shape
        torch.Size([5, 64])
    """

    noise: Noise | None = None

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        n: int,
        K: int,
        estimator: Estimator | str = "rloo",
        unimix: float = 0.0,
    ) -> None:
        super().__init__()
        check_count("n", n, 1)
        check_count("K", K, 2)
        if not (is_number(unimix) and 0 <= unimix < 1):
            raise ValueError(f"unimix must be a number from 0 to below 1, but got {unimix!r}.")
        self.encoder, self.decoder = encoder, decoder
        self.n, self.K, self.unimix = n, K, float(unimix)
        self.estimator = make_estimator(estimator, shape=(n, K)) if isinstance(estimator, str) else estimator

    # Parts

    def encode(self, x: Tensor) -> FactoredCategorical:
        """Returns the distribution of the code of each image, q(D|x).

        Args:
            x: Images ``[B, *event]``.

        Raises:
            ValueError: The encoder returns another shape than ``[B, n, K]`` or ``[B, n * K]``.
        """
        logits: Tensor = self.encoder(x)
        rows, size = len(x), self.n * self.K
        if logits.shape not in ((rows, size), (rows, self.n, self.K)):
            raise ValueError(
                f"encoder must return logits of shape [B, n, K] or [B, n * K], {(rows, self.n, self.K)} or "
                f"{(rows, size)}, but returned shape {tuple(logits.shape)}."
            )
        logits = logits.reshape(rows, self.n, self.K)
        if self.unimix:
            logits = ((1 - self.unimix) * logits.softmax(-1) + self.unimix / self.K).log()
        return FactoredCategorical(logits)

    def decode(self, codes: Tensor) -> Tensor:
        """Returns what the decoder says of codes.

        Args:
            codes: ``[M, B, n, K]``. Where the rows of a batch are one and the same, as for ``exact``, a view whose
                strides over it are 0, each code is decoded once.

        Returns:
            ``[M, B, *event]``; ``[M, 1, *event]`` where rows are the same.
        """
        if codes.stride(1) == 0 and not codes.requires_grad:
            codes = codes[:, :1]
        decoded: Tensor = self.decoder(codes.flatten(0, 1).flatten(1))
        return decoded.unflatten(0, codes.shape[:2])

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:
        """Returns the log-likelihood of images, log p(x|D): Bernoulli's, summed over the pixels.

        Args:
            output: What :meth:`decode` returned, ``[M, B, *event]`` or ``[M, 1, *event]``: logits.
            x: ``[B, *event]``, from 0 to 1.

        Returns:
            ``[M, B]``, in nats.
        """
        output, x = output.flatten(2), x.flatten(1)
        products = output.squeeze(1) @ x.T if output.shape[1] == 1 else (output * x).sum(-1)
        return products - F.softplus(output).sum(-1)

    def mean(self, output: Tensor) -> Tensor:
        """Returns the mean image of what :meth:`decode` returned: probabilities of 1, of the same shape."""
        return output.sigmoid()

    def kl(self, policy: FactoredCategorical) -> Tensor:
        """Returns the divergence of a code's distribution from the uniform one, ``[B]``, in nats: n log K - H."""
        return self.n * math.log(self.K) - policy.entropy()

    # Learning

    def objective(self, x: Tensor) -> Objective:
        """Returns what the estimator averages: -log p(x|D), a function of codes ``[M, B, n, K]``, ``[M, B]``.

        Args:
            x: Images ``[B, *event]``.
        """

        def cost(codes: Tensor) -> Tensor:
            return -self._log_prob(codes, x)

        return cost

    def draw_noise(self, batch_shape: Sequence[int], generator: torch.Generator | None = None) -> Noise:
        """Draws the estimator's noise for a batch of images.

        Args:
            batch_shape: ``[B]``.
            generator: Source of randomness; torch's default one if None.
        """
        policy = FactoredCategorical(torch.zeros(*batch_shape, self.n, self.K), validate_args=False)
        return self.estimator.draw_noise(policy, generator)

    def loss(self, x: Tensor, noise: Noise | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Returns what is minimised: the estimate of the bound on -log p(x), a mean over the images, in nats.

        Its gradient in the encoder is the estimator's, biased where that is; in the decoder it is that of the value.

        Args:
            x: Images ``[B, *event]``, floating, from 0 to 1.
            noise: What :meth:`draw_noise` returned for ``[B]``; drawn if None.
            generator: Source of the noise if none is given; torch's default one if None.

        Raises:
            ValueError: ``x`` is not floating, has no batch dimension or values out of range; encoder or decoder return
                another shape; or the estimator cannot serve this ``n`` and ``K``.
        """
        cost, divergence = self._terms(x, self.estimator, noise, generator)
        return (cost + divergence).mean()

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """:meth:`loss` with the noise that was handed in, and its two terms as metrics, ``cost`` and ``kl``."""
        cost, divergence = self._terms(x, self.estimator, self.noise, None)
        return (cost + divergence).mean(), {"cost": cost.detach().mean(), "kl": divergence.detach().mean()}

    def _terms(
        self, x: Tensor, estimator: Estimator, noise: Noise | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Reconstruction cost and divergence of each image, both ``[B]``."""
        policy = self._policy(x)
        cost = estimator.expectation(policy, self.objective(x), noise, generator)
        return cost, self.kl(policy)

    def _policy(self, x: Tensor) -> FactoredCategorical:
        if x.dim() < 2 or not x.is_floating_point():
            raise ValueError(f"x must be floating, [B, *event], but got {x.dtype} of shape {tuple(x.shape)}.")
        if is_concrete(x) and not bool(((x >= 0) & (x <= 1)).all()):
            raise ValueError(f"x must be from 0 to 1, but got values from {x.min():g} to {x.max():g}.")
        return self.encode(x)

    def _log_prob(self, codes: Tensor, x: Tensor) -> Tensor:
        """The log-likelihood of images, given codes ``[M, B, n, K]``: ``[M, B]``."""
        output = self.decode(codes)
        if output.shape[2:] != x.shape[1:]:
            raise ValueError(
                f"decoder must return what x is, {tuple(x.shape[1:])}, for each code, but returned "
                f"{tuple(output.shape[2:])}."
            )
        return self.log_prob(output, x)

    # Evaluation

    @torch.no_grad()
    def bound(self, x: Tensor, num_samples: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Returns the lower bound on log p(x) of each image, ``[B]``, in nats, without gradient.

        Args:
            x: Images ``[B, *event]``.
            num_samples: Codes that are drawn for each image, which is unbiased; None: all are listed, which is exact.
            generator: Source of the draws; torch's default one if None.

        Raises:
            ValueError: There are more than :data:`gsrl.distributions.MAX_SUPPORT` codes to list.
        """
        if num_samples is None:
            self._check_listed("give num_samples")
            cost, divergence = self._terms(x, Exact(), (), None)
            return -(cost + divergence)
        check_count("num_samples", num_samples, 1)
        policy = self._policy(x)
        codes = policy.sample((num_samples,), generator=generator)
        return self._log_prob(codes, x).mean(0) - self.kl(policy)

    @torch.no_grad()
    def importance_bound(self, x: Tensor, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        r"""Returns a tighter bound on log p(x) of each image, ``[B]``, in nats, without gradient.

        .. math:: \log \frac{1}{m} \sum_{j=1}^m \frac{p(x|D_j)\, p(D_j)}{q(D_j|x)}, \qquad D_j \sim q(D|x)

        Its mean is between :meth:`bound` and :meth:`log_likelihood`, and tends to the latter.

        Source: Burda et al. 2016 (1509.00519), Eq. 8.

        Args:
            x: Images ``[B, *event]``.
            num_samples: m, at least 1.
            generator: Source of the draws; torch's default one if None.
        """
        check_count("num_samples", num_samples, 1)
        policy = self._policy(x)
        codes = policy.sample((num_samples,), generator=generator)
        weights = self._log_prob(codes, x) - self.n * math.log(self.K) - policy.log_prob(codes)
        return weights.logsumexp(0) - math.log(num_samples)

    @torch.no_grad()
    def log_likelihood(self, x: Tensor) -> Tensor:
        """Returns log p(x) of each image, ``[B]``, in nats, by a sum over all K**n codes, without gradient.

        Args:
            x: Images ``[B, *event]``.

        Raises:
            ValueError: There are more than :data:`gsrl.distributions.MAX_SUPPORT` codes.
        """
        self._check_listed("use importance_bound")
        codes = self._prior(len(x), x).enumerate_support()
        return self._log_prob(codes, x).logsumexp(0) - self.n * math.log(self.K)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Returns the mean images of the most probable codes, ``[B, *event]``.

        Args:
            x: Images ``[B, *event]``.
        """
        return self.mean(self.decode(self._policy(x).mode.unsqueeze(0))).squeeze(0)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Returns the mean images of codes that are drawn from the prior, ``[count, *event]``.

        Args:
            count: How many.
            generator: Source of the draws; torch's default one if None.
        """
        like = next(self.decoder.parameters(), torch.zeros(()))
        codes = self._prior(count, like).sample(generator=generator)
        return self.mean(self.decode(codes.unsqueeze(0))).squeeze(0)

    def _prior(self, count: int, like: Tensor) -> FactoredCategorical:
        return FactoredCategorical(like.new_zeros(count, self.n, self.K), validate_args=False)

    @property
    def is_listed(self) -> bool:
        """Whether all K**n codes can be listed: at most :data:`gsrl.distributions.MAX_SUPPORT`."""
        return self.n * math.log(self.K) <= math.log(MAX_SUPPORT) + 1e-9

    def _check_listed(self, otherwise: str) -> None:
        if not self.is_listed:
            raise ValueError(
                f"n and K must make at most {MAX_SUPPORT} codes to be listed, K**n, but got n = {self.n}, "
                f"K = {self.K}: {otherwise}."
            )

    def extra_repr(self) -> str:
        """The settings."""
        return f"n={self.n}, K={self.K}, unimix={self.unimix}"


class Quantised(NamedTuple):
    """What a :class:`VectorQuantizer` makes of vectors.

    Example:
        >>> found = VectorQuantizer(8, 2)(torch.randn(3, 2), mask=torch.tensor([True, True, False]))
        >>> found.quantised[2].tolist(), found.indices[2].item()  # what is masked has no code
        ([0.0, 0.0], -1)
    """

    quantised: Tensor
    """The codes that stand for them, ``[*batch, width]``; zeros where masked."""
    indices: Tensor
    """Which, int64 ``[*batch]``; -1 where masked."""
    loss: Tensor
    """A scalar, to be added to the error of what is decoded."""


@checkpoint.register("gsrl.VectorQuantizer")
class VectorQuantizer(nn.Module):
    r"""Vectors are replaced by the nearest of ``num_codes`` vectors, a codebook that is learned with them.

    With codes :math:`e_k`, a vector z, its code e, and sg for what gets no gradient:

    - ``"straight-through"``: forward e, backward to z as it is; the loss is
      :math:`\|\mathrm{sg}(z) - e\|^2 + \beta \|z - \mathrm{sg}(e)\|^2`, means over vectors and their numbers.
    - ``"ema"``: likewise without the first term: codes are moving averages of the vectors that they stand for,
      :math:`N_k \leftarrow \gamma N_k + (1 - \gamma) n_k`, :math:`m_k \leftarrow \gamma m_k + (1 - \gamma)
      \sum_{z \to k} z`, :math:`e_k = m_k / N_k`.
    - ``"gumbel"``: the code is a sample of :math:`p = \mathrm{softmax}_k(-s \|z - e_k\|^2)`, in which a pathwise
      estimator gives the gradient of z and of the codes; biased as that estimator is. The loss is the diversity term
      :math:`\lambda (\log C - H(\bar p))`, for the mean :math:`\bar p` over all vectors: 0 where all C codes are used
      alike.

    A call changes nothing. :meth:`step`, once an update, moves averages, revives dead codes and counts.

    Source: van den Oord et al. 2017 (1711.00937), Eqs. 3, 6 and 7; Baevski et al. 2020 (1910.05453), Section 3.2, and
    2020 (2006.11477), Eq. 4, for Gumbel-softmax and diversity.

    Args:
        num_codes: C, at least 2.
        width: Of vectors and codes.
        method: How codes and gradients come about.
        estimator: Of ``"gumbel"``: the name of a pathwise estimator, or one, which then belongs to this module.
        commitment: β, at least 0; not of ``"gumbel"``, where it makes samples noisier.
        diversity: λ, at least 0, of ``"gumbel"``.
        sharpness: s, above 0, of ``"gumbel"``.
        decay: γ, from 0 to below 1: of ``"ema"``, and by every method of the average use of codes.
        revival: Codes that are used less than this share of the mean use are dead, and replaced by vectors of the
            batch; 0: none is.

    Raises:
        TypeError: The estimator has no differentiable samples.
        ValueError: Another argument is out of its range.

    Example:
        >>> quantised, indices, loss = VectorQuantizer(64, 16, method="ema")(torch.randn(10, 9, 16))
        >>> quantised.shape, indices.shape
        (torch.Size([10, 9, 16]), torch.Size([10, 9]))
    """

    codebook: Tensor
    """``[num_codes, width]``; a parameter, or by ``"ema"`` a buffer."""
    use: Tensor
    """Moving average of how often each code is the nearest in an update, ``[num_codes]``; 1 at first."""
    sums: Tensor
    """By ``"ema"``, that of the vectors that it stands for, summed, ``[num_codes, width]``."""
    seen: Tensor
    """How often each code has been seen since :meth:`reset`, float64 ``[num_codes]``."""

    def __init__(
        self,
        num_codes: int,
        width: int,
        method: Literal["gumbel", "ema", "straight-through"] = "gumbel",
        *,
        estimator: Estimator | str = "st-gumbel",
        commitment: float = 0.25,
        diversity: float = 1e-3,
        sharpness: float = 4.0,
        decay: float = 0.99,
        revival: float = 0.03,
    ) -> None:
        super().__init__()
        check_count("num_codes", num_codes, 2)
        check_count("width", width, 1)
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, but got {method!r}.")
        for name, value in {"commitment": commitment, "diversity": diversity}.items():
            if not (is_number(value) and 0 <= value < math.inf):
                raise ValueError(f"{name} must be a number of at least 0, but got {value!r}.")
        if not (is_number(sharpness) and 0 < sharpness < math.inf):
            raise ValueError(f"sharpness must be a number above 0, but got {sharpness!r}.")
        for name, value in {"decay": decay, "revival": revival}.items():
            if not (is_number(value) and 0 <= value < 1):
                raise ValueError(f"{name} must be a number from 0 to below 1, but got {value!r}.")
        self.num_codes, self.width, self.method = num_codes, width, method
        self.commitment, self.diversity, self.sharpness = commitment, diversity, sharpness
        self.decay, self.revival = decay, revival
        codes = torch.randn(num_codes, width)
        if method == "ema":
            self.register_buffer("codebook", codes)
            self.register_buffer("sums", codes.clone())
        else:
            self.codebook = nn.Parameter(codes)
        self.register_buffer("use", torch.ones(num_codes))
        self.register_buffer("seen", torch.zeros(num_codes, dtype=torch.float64))
        if method == "gumbel":
            made = make_estimator(estimator, shape=(1, num_codes)) if isinstance(estimator, str) else estimator
            if not isinstance(made, Pathwise):
                raise TypeError(f"estimator must be pathwise, with differentiable samples, but got {made!r}.")
            self.estimator = made

    def draw_noise(self, batch_shape: Sequence[int], generator: torch.Generator | None = None) -> Noise:
        """Draws the noise of ``"gumbel"`` for vectors; of other methods an empty tuple.

        Args:
            batch_shape: Of the vectors, ``[*batch]``.
            generator: Source of randomness; torch's default one if None.
        """
        if self.method != "gumbel":
            return ()
        policy = FactoredCategorical(torch.zeros(*batch_shape, 1, self.num_codes), validate_args=False)
        return self.estimator.draw_noise(policy, generator)

    def forward(
        self,
        latents: Tensor,
        mask: Tensor | None = None,
        noise: Noise | None = None,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> Quantised:
        """Quantises vectors.

        Args:
            latents: ``[*batch, width]``, floating.
            mask: bool ``[*batch]``, False where there is none; None: all are there.
            noise: Of ``"gumbel"``, what :meth:`draw_noise` returned for ``[*batch]``; drawn if None.
            generator: Source of the noise if none is given; torch's default one if None.
            deterministic: Whether ``"gumbel"`` takes the nearest code, as the other methods always do.

        Raises:
            ValueError: ``latents`` or ``mask`` has another shape or dtype.
        """
        if latents.dim() < 2 or latents.shape[-1] != self.width or not latents.is_floating_point():
            raise ValueError(
                f"latents must be floating, [*batch, {self.width}], but got {latents.dtype} of shape "
                f"{tuple(latents.shape)}."
            )
        if mask is None:
            mask = torch.ones(latents.shape[:-1], dtype=torch.bool, device=latents.device)
        elif mask.dtype != torch.bool or mask.shape != latents.shape[:-1]:
            raise ValueError(
                f"mask must be bool, of shape {tuple(latents.shape[:-1])}, but got {mask.dtype} of shape "
                f"{tuple(mask.shape)}."
            )
        latents = torch.where(mask.unsqueeze(-1), latents, 0.0)  # whatever stands there has no part in gradients
        squares = self.codebook.square().sum(-1) - 2 * latents @ self.codebook.T  # less those of the vector
        policy = FactoredCategorical(-self.sharpness * squares.unsqueeze(-2), validate_args=False)
        if self.method == "gumbel" and not deterministic:
            one_hot = self.estimator.sample(policy, noise, generator).squeeze(-2)
        else:
            one_hot = policy.mode.squeeze(-2)
        codes = one_hot @ self.codebook
        if self.method == "gumbel":
            average = _mean(policy.probs.squeeze(-2), mask.unsqueeze(-1))
            entropy = -(average * average.clamp_min(1e-30).log()).sum()
            loss = self.diversity * (math.log(self.num_codes) - entropy)
        else:
            loss = self.commitment * _mean((latents - codes.detach()).square().mean(-1), mask)
        if self.method == "straight-through":
            loss = loss + _mean((latents.detach() - codes).square().mean(-1), mask)
        quantised = codes if self.method == "gumbel" else replace_value(latents, codes)
        indices = torch.where(mask, one_hot.detach().argmax(-1), -1)
        return Quantised(torch.where(mask.unsqueeze(-1), quantised, 0.0), indices, loss)

    # Between updates

    @torch.no_grad()
    def step(self, latents: Tensor, indices: Tensor, generator: torch.Generator | None = None) -> None:
        """Advances what changes between updates and is not learned by gradients, once after each.

        That is the codes of ``"ema"``, the average use of codes, dead ones, what is seen, and the estimator.

        Args:
            latents: What was quantised, ``[*batch, width]``.
            indices: Their codes, ``[*batch]``; those below 0 are left out.
            generator: Source of what takes the place of dead codes; torch's default one if None. Of each code one
                number is drawn, dead or not.
        """
        there = indices.flatten() >= 0
        vectors, indices = latents.detach().reshape(-1, self.width)[there], indices.flatten()[there]
        self.observe(indices)
        if self.method == "gumbel":  # a code that is only drawn now and then is the nearest of nothing: it is dead too
            indices = torch.cdist(vectors, self.codebook).argmin(-1)
        one_hot = F.one_hot(indices, self.num_codes).to(vectors.dtype)
        self.use.lerp_(one_hot.sum(0), 1 - self.decay)
        if self.method == "ema":
            self.sums.lerp_(one_hot.T @ vectors, 1 - self.decay)
            self.codebook.copy_(self.sums / self.use.clamp_min(1e-12).unsqueeze(-1))
        if self.method == "gumbel":
            self.estimator.step(vectors.new_zeros(()))
        if self.revival and len(vectors):
            chosen = torch.randint(len(vectors), (self.num_codes,), generator=generator).to(vectors.device)
            least = self.revival * self.use.mean()
            dead, renewed = self.use < least, 2 * least  # which is dead again soon, unless it is used
            self.codebook.copy_(torch.where(dead.unsqueeze(-1), vectors[chosen], self.codebook))
            self.use.copy_(torch.where(dead, renewed, self.use))
            if self.method == "ema":
                self.sums.copy_(torch.where(dead.unsqueeze(-1), renewed * self.codebook, self.sums))

    @torch.no_grad()
    def observe(self, indices: Tensor) -> None:
        """Counts codes, for :meth:`perplexity`; :meth:`step` does so as well.

        Args:
            indices: Of any shape; those below 0 are left out.
        """
        self.seen += torch.bincount(indices[indices >= 0].flatten(), minlength=self.num_codes)

    def perplexity(self) -> Tensor:
        """Returns the exponential of the entropy of all codes seen since :meth:`reset`: how many are in use, float64.

        NaN where none has been seen.
        """
        shares = self.seen / self.seen.sum()
        return torch.xlogy(shares, shares).sum().neg().exp()

    def reset(self) -> None:
        """Forgets which codes have been seen."""
        self.seen.zero_()

    def extra_repr(self) -> str:
        """The settings."""
        return f"num_codes={self.num_codes}, width={self.width}, method={self.method!r}"


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of ``[*batch]`` or ``[*batch, C]`` over the batch, where the mask is True; 0 where it is nowhere."""
    batch = tuple(range(mask.dim())) if values.shape == mask.shape else tuple(range(mask.dim() - 1))
    return torch.where(mask, values, 0.0).sum(batch) / mask.sum().clamp_min(1)
