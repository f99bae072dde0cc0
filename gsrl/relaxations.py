"""Samples and relaxed samples of a categorical variable, as pure functions of ``logits[..., K]``.

The Gumbel-max trick draws an exact sample: with ``G_k = -log(E_k)``, ``E_k ~ Exp(1)``, the largest entry of
``logits + G`` has index ``k`` with probability ``softmax(logits)_k``. Replacing the arg max by a softmax at a
temperature makes the sample differentiable; the gradient is then a biased estimate.

All functions share these conventions.

- ``logits`` are unnormalised log-probabilities, ``[..., K]``, of any floating dtype and layout. ``-inf`` marks an
  illegal choice, as a ``mask`` that is False there does. Arithmetic is done in float32 at least (bfloat16 noise ties
  the maximum in 1.7 % of the rows at ``K = 1000``); the result has the dtype of ``logits``.
- ``mask`` is boolean, broadcastable to ``logits``, True where a choice is legal.
- ``noise`` is what :func:`gumbel_noise` or :func:`logistic_noise` returns for the shape of ``logits``. With it, a
  function is pure, and works under ``torch.func`` transforms and ``torch.compile``. Without it, noise is drawn from
  ``generator``, or from torch's default one.
- Shapes are always checked. Values are checked on concrete eager tensors, unless ``validate_args=False``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gsrl._shapes import Bool, Float, Int, Real
from gsrl._validation import first, is_concrete

__all__ = [
    "binary_concrete",
    "conditional_gumbel",
    "gumbel_argmax",
    "gumbel_max",
    "gumbel_noise",
    "gumbel_softmax",
    "logistic_noise",
    "masked_logits",
    "perturbed_logits",
    "replace_value",
    "straight_through",
]

NEVER = -1e30
"""Stands for a log-probability of ``-inf`` where that would make a gradient NaN; a softmax is still exactly 0 there."""


def gumbel_noise(
    shape: Sequence[int],
    *,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "..."]:
    """Draws standard Gumbel noise, ``G = -log(-log(U))``.

    ``U`` is drawn with 53 bits, so that ``E = -log(U)`` keeps its relative precision where the maximum is decided.
    On a CPU, and for more than a few hundred numbers, this is faster than ``Tensor.exponential_``.

    Args:
        shape: Shape of the noise.
        generator: Source of randomness; torch's default one if None. A sequence of ``shape[0]`` generators: each draws
            one row, which is what it would draw alone.
        device: Where the noise is made; that of ``generator``, else the CPU, if None.

    Returns:
        float32 ``[*shape]``.

    Example:
        >>> gumbel_noise((2, 3), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3])
    """
    return _log_exponential(shape, generator, device).neg_()


def logistic_noise(
    shape: Sequence[int],
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "..."]:
    """Draws standard logistic noise, ``log(U) - log(1 - U)``: the difference of two Gumbel variables.

    This is the noise of a *binary* choice. A single Gumbel variable instead would give P(1) = 0.632 at logit 0.

    Args:
        shape: Shape of the noise.
        generator: Source of randomness; torch's default one if None.
        device: Where the noise is made; that of ``generator``, else the CPU, if None.

    Returns:
        float32 ``[*shape]``.

    Example:
        >>> noise = logistic_noise((10_000,), generator=torch.Generator().manual_seed(0))
        >>> bool((noise > 0).float().mean().sub(0.5).abs() < 0.02)  # a choice of two at even odds
        True
    """
    first, second = gumbel_noise((2, *shape), generator=generator, device=device)
    return first - second


def masked_logits(
    logits: Float[Tensor, "*batch K"], mask: Bool[Tensor, "..."] | None = None, *, validate_args: bool = True
) -> Float[Tensor, "*batch K"]:
    """Returns ``logits`` in float32 at least, with ``-inf`` at illegal choices.

    Args:
        logits: ``[..., K]``.
        mask: Boolean, broadcastable to ``logits``; True where legal.
        validate_args: Whether values are checked, on concrete eager tensors.

    Raises:
        ValueError: ``logits`` is not floating, has no last dimension, or holds NaN or ``+inf``; ``mask`` is not
            boolean or does not broadcast to ``logits``; a row has no legal choice.

    Example:
        >>> masked_logits(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([True, False, True]))
        tensor([1., -inf, 3.])
    """
    _check_logits(logits)
    if logits.dim() == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must have a last dimension of at least one choice, but got shape {_shape(logits)}.")
    if mask is not None:
        _check_mask(mask, logits)
    legal = _cast_up(logits)
    if mask is not None:
        legal = legal.masked_fill(~mask, -torch.inf)
    if validate_args and is_concrete(legal):
        _check_values(logits, mask, legal)
    return legal


def gumbel_max(
    logits: Float[Tensor, "*batch K"],
    *,
    mask: Bool[Tensor, "..."] | None = None,
    noise: Real[Tensor, "*batch K"] | None = None,
    generator: torch.Generator | None = None,
    validate_args: bool = True,
) -> Float[Tensor, "*batch K"]:
    """Draws exact one-hot samples, ``onehot(argmax(logits + G))``. Not differentiable.

    Args:
        logits: ``[..., K]``.
        mask: Boolean, broadcastable to ``logits``; True where legal.
        noise: Gumbel noise of the shape of ``logits``.
        generator: Source of the noise if none is given.
        validate_args: Whether values are checked.

    Returns:
        One-hot ``[..., K]``, dtype of ``logits``.

    Raises:
        ValueError: As :func:`masked_logits`; ``noise`` has another shape.

    Example:
        >>> gumbel_max(torch.tensor([0.0, -torch.inf, -torch.inf]))  # one choice is legal
        tensor([1., 0., 0.])
    """
    perturbed = masked_logits(logits, mask, validate_args=validate_args) + perturbation(logits, noise, generator)
    return _cast(_one_hot(perturbed), logits.dtype)


def gumbel_argmax(
    logits: Float[Tensor, "*batch K"],
    *,
    noise: Real[Tensor, "*batch K"] | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "*batch"]:
    """Draws exact samples as the indices of their choices, ``argmax(logits + G)``; see :func:`gumbel_max`.

    Args:
        logits: ``[..., K]``. Values are not checked.
        noise: Gumbel noise of the shape of ``logits``; drawn if None.
        generator: Source of the noise if none is given; torch's default one if None.

    Returns:
        int64 ``[...]``.

    Example:
        >>> gumbel_argmax(torch.tensor([[-torch.inf, 0.0], [0.0, -torch.inf]]))
        tensor([1, 0])
    """
    return perturbed_logits(logits, noise=noise, generator=generator).argmax(-1)


def perturbed_logits(
    logits: Float[Tensor, "*batch K"],
    *,
    noise: Real[Tensor, "*batch K"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*batch K"]:
    """Draws ``logits + G``, of which the arg max is an exact sample; see :func:`gumbel_max`.

    Args:
        logits: ``[..., K]``. Values are not checked.
        noise: Gumbel noise of the shape of ``logits``; drawn if None.
        generator: Source of the noise if none is given; torch's default one if None.

    Returns:
        ``[..., K]``, in float32 at least.

    Example:
        >>> perturbed_logits(torch.zeros(2, 3)).shape
        torch.Size([2, 3])
    """
    return _cast_up(logits) + perturbation(logits, noise, generator)


def conditional_gumbel(
    log_probs: Float[Tensor, "*#batch K"], one_hot: Float[Tensor, "*#batch K"], noise: Real[Tensor, "*#batch K"]
) -> Float[Tensor, "*#batch K"]:
    r"""Draws perturbed logits :math:`A = \theta + G` given that a choice D is their arg max.

    With :math:`E \sim \mathrm{Exp}(1)^K` and normalised logits, :math:`A_D = -\log E_D` and
    :math:`A_j = -\log(E_j e^{-\theta_j} + E_D)`.

    Source: Maddison et al. 2014 (1411.0030); as here in Paulus et al. 2021 (2010.04838), Eq. 9.

    Args:
        log_probs: Normalised logits, ``[..., K]``; ``-inf`` where illegal. Where they are, gradients are NaN.
        one_hot: The choice, broadcastable with ``log_probs``; legal.
        noise: Gumbel noise, :math:`-\log E`, broadcastable with ``log_probs``.

    Returns:
        ``[..., K]``, ``-inf`` where illegal.

    Example:
        >>> log_probs, one_hot = torch.zeros(3).log_softmax(-1), torch.tensor([0.0, 1.0, 0.0])
        >>> int(conditional_gumbel(log_probs, one_hot, gumbel_noise((3,))).argmax())  # they agree with the sample
        1
    """
    log_exponential = -noise
    log_first = (log_exponential * one_hot).sum(-1, keepdim=True)
    return torch.where(one_hot > 0, -log_first, -torch.logaddexp(log_exponential - log_probs, log_first))


def gumbel_softmax(
    logits: Float[Tensor, "*batch K"],
    temperature: float | Float[Tensor, "..."] = 1.0,
    hard: bool = False,
    *,
    mask: Bool[Tensor, "..."] | None = None,
    noise: Real[Tensor, "*batch K"] | None = None,
    generator: torch.Generator | None = None,
    validate_args: bool = True,
) -> Float[Tensor, "*batch K"]:
    r"""Draws relaxed samples, :math:`y = \mathrm{softmax}((\mathrm{logits} + G) / \tau)`.

    With ``hard=True`` the value is the one-hot arg max of ``y``, an exact sample whatever the temperature, and the
    gradient is that of ``y`` (straight-through Gumbel-softmax). As an estimate of the gradient of E[f], both are
    biased for every temperature above 0, and the variance grows without bound as it falls. The bias of ``y`` falls with
    it. With ``hard=True`` it does not vanish in general: the mean tends to that of ReinMax at temperature 1.

    Source: Jang et al. 2017 (1611.01144), Eq. 2; Maddison et al. 2017 (1611.00712), Eq. 10.

    Args:
        logits: ``[..., K]``.
        temperature: Positive; a float, or a tensor broadcastable to ``[..., 1]``, one number a row.
        hard: Whether the value is one-hot.
        mask: Boolean, broadcastable to ``logits``; True where legal.
        noise: Gumbel noise of the shape of ``logits``.
        generator: Source of the noise if none is given.
        validate_args: Whether values are checked.

    Returns:
        ``[..., K]``, rows on the simplex, dtype of ``logits``; exactly one-hot with ``hard=True``.

    Raises:
        TypeError: ``logits`` is no tensor, or ``temperature`` neither a number nor a tensor.
        ValueError: As :func:`masked_logits`; ``temperature`` is not positive, or has a number for each choice;
            ``noise`` has another shape.

    Example:
        >>> logits = torch.zeros(4, 3, requires_grad=True)
        >>> sample = gumbel_softmax(logits, temperature=0.5)
        >>> sample.shape, bool(sample.sum(-1).allclose(torch.ones(4)))
        (torch.Size([4, 3]), True)
    """
    legal = masked_logits(logits, mask, validate_args=validate_args)
    check_temperature(temperature, validate_args, logits)
    # Minus the noise, and a tensor of our own, which may be written over.
    if noise is None:
        negative = _log_exponential(logits.shape, generator, logits.device)
    else:
        _check_noise(noise, logits)
        negative = -_cast_up(noise)
    # What neither overflows nor vanishes in float32 is multiplied: a node fewer to differentiate.
    if isinstance(temperature, Tensor) or temperature == 1 or not 1e-30 < temperature < 1e30:
        perturbed = legal - negative
        scores = divide(perturbed, temperature)
    else:
        perturbed = scores = torch.add(negative.div_(-temperature), legal, alpha=1 / temperature)
    soft = scores.softmax(-1)
    if hard:
        soft = _harden(soft, _one_hot(perturbed))
    return _cast(soft, logits.dtype)


def straight_through(
    logits: Float[Tensor, "*batch K"],
    temperature: float | Float[Tensor, "..."] = 1.0,
    *,
    mask: Bool[Tensor, "..."] | None = None,
    noise: Real[Tensor, "*batch K"] | None = None,
    generator: torch.Generator | None = None,
    validate_args: bool = True,
) -> Float[Tensor, "*batch K"]:
    r"""Draws exact one-hot samples with the gradient of :math:`\mathrm{softmax}(\mathrm{logits} / \tau)`.

    The backward pass holds no noise. At temperature 1 the estimate is exact for an objective that is linear in each
    row; otherwise it is biased. The temperature never changes the distribution of the samples.

    Source: Bengio et al. 2013 (1308.3432); with a temperature: Paulus et al. 2021 (2010.04838), Eq. 5.

    Args:
        logits: ``[..., K]``.
        temperature: Positive; a float, or a tensor broadcastable to ``[..., 1]``, one number a row. Acts on the
            backward pass alone.
        mask: Boolean, broadcastable to ``logits``; True where legal.
        noise: Gumbel noise of the shape of ``logits``.
        generator: Source of the noise if none is given.
        validate_args: Whether values are checked.

    Returns:
        One-hot ``[..., K]``, dtype of ``logits``.

    Raises:
        TypeError: ``logits`` is no tensor, or ``temperature`` neither a number nor a tensor.
        ValueError: As :func:`masked_logits`; ``temperature`` is not positive, or has a number for each choice;
            ``noise`` has another shape.

    Example:
        >>> logits = torch.zeros(4, 3, requires_grad=True)
        >>> one_hot = straight_through(logits)
        >>> one_hot.sum(-1).tolist()
        [1.0, 1.0, 1.0, 1.0]
        >>> (one_hot * torch.arange(3.0)).sum().backward()
        >>> logits.grad.shape
        torch.Size([4, 3])
    """
    legal = masked_logits(logits, mask, validate_args=validate_args)
    check_temperature(temperature, validate_args, logits)
    hard = _one_hot(legal + perturbation(logits, noise, generator))
    return _cast(_harden(divide(legal, temperature).softmax(-1), hard), logits.dtype)


def binary_concrete(
    logits: Float[Tensor, "*shape"],
    temperature: float | Float[Tensor, "..."] = 1.0,
    hard: bool = False,
    *,
    mask: Bool[Tensor, "..."] | None = None,
    noise: Real[Tensor, "*shape"] | None = None,
    generator: torch.Generator | None = None,
    validate_args: bool = True,
) -> Float[Tensor, "*shape"]:
    r"""Draws relaxed Bernoulli samples, :math:`y = \sigma((\mathrm{logits} + L) / \tau)`, element by element.

    ``L`` is logistic noise. ``logits`` are the log-odds of 1, so this equals a Gumbel-softmax over two choices whose
    logits differ by ``logits``. With ``hard=True`` the value is 1 where ``y > 1/2`` and 0 elsewhere, an exact sample,
    with the gradient of ``y``. Biased for every temperature above 0.

    Source: Maddison et al. 2017 (1611.00712), Eq. 16.

    Args:
        logits: Log-odds, any shape.
        temperature: Positive; a float, or a tensor broadcastable to ``logits``.
        hard: Whether the value is 0 or 1.
        mask: Boolean, broadcastable to ``logits``; where it is False, 1 is illegal and the sample is 0.
        noise: Logistic noise of the shape of ``logits``.
        generator: Source of the noise if none is given.
        validate_args: Whether values are checked.

    Returns:
        Values in [0, 1], shape and dtype of ``logits``.

    Raises:
        ValueError: ``logits`` is not floating or holds NaN; ``temperature`` is not positive; ``mask`` is not boolean or
            does not broadcast to ``logits``; ``noise`` has another shape.

    Example:
        >>> binary_concrete(torch.tensor([-100.0, 100.0]), temperature=0.5).round()
        tensor([0., 1.])
    """
    _check_logits(logits)
    check_temperature(temperature, validate_args, logits, rowwise=False)
    if mask is not None:
        _check_mask(mask, logits)
    if validate_args and is_concrete(logits) and bool(logits.isnan().any()):
        raise ValueError(f"logits must not be NaN, but got {first(logits, logits.isnan())}.")
    if noise is None:
        noise = logistic_noise(logits.shape, generator=generator, device=logits.device)
    _check_noise(noise, logits)
    perturbed = _cast_up(logits) + noise
    if mask is not None:
        perturbed = perturbed.masked_fill(~mask, -torch.inf)
    soft = divide(perturbed, temperature).sigmoid()
    if hard:
        soft = _harden(soft, (perturbed > 0).to(soft.dtype))
    return _cast(soft, logits.dtype)


def replace_value(soft: Float[Tensor, "*shape"], hard: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Returns a tensor with the value of ``hard`` and the gradient of ``soft``: the straight-through step.

    Exact wherever ``soft`` is finite, because the difference is taken first; ``hard + soft - soft.detach()`` is not.
    Nothing that autograd saved is written to. As an estimate of the gradient of E[f(hard)] it is biased in general.

    Source: Bengio et al. 2013 (1308.3432).

    Args:
        soft: The tensor that is differentiated.
        hard: The value, same shape; no gradient reaches it.

    Example:
        >>> soft = torch.tensor([0.4, 0.6], requires_grad=True)
        >>> replace_value(soft, torch.tensor([0.0, 1.0])).tolist()
        [0.0, 1.0]
    """
    return hard.detach() + (soft - soft.detach())


def _harden(soft: Tensor, hard: Tensor) -> Tensor:
    """:func:`replace_value` for a ``soft`` in [0, 1] and a ``hard`` of zeros and ones: exact, with one node fewer."""
    return (hard - soft.detach()) + soft


def divide(scores: Tensor, temperature: float | Tensor) -> Tensor:
    """``scores / temperature``, with a finite gradient for the temperature where a score is ``-inf``."""
    if isinstance(temperature, Tensor):
        if temperature.requires_grad:
            scores = scores.clamp_min(NEVER)
    elif temperature == 1:
        return scores  # the same numbers, without two kernels
    return scores / temperature


def _one_hot(scores: Tensor) -> Tensor:
    """One-hot of the first maximum of every row, without gradient."""
    # Not scatter_, which torch.func.vmap runs row by row.
    return torch.zeros_like(scores).scatter(-1, scores.argmax(-1, keepdim=True), 1.0)


def _log_exponential(
    shape: Sequence[int],
    generator: torch.Generator | Sequence[torch.Generator] | None,
    device: torch.device | str | None,
) -> Tensor:
    """Minus Gumbel noise: ``log(E)`` with ``E ~ Exp(1)``, drawn as :func:`gumbel_noise` says."""
    # In this order: to ask what is a sequence takes as long as to draw a few numbers.
    if generator is None:  # not an argument then: torch.export knows no sizes of batches with it
        uniform = torch.rand(tuple(shape), dtype=torch.float64, device=device)
    elif not isinstance(generator, torch.Generator):
        uniform = torch.empty(tuple(shape), dtype=torch.float64, device=device or generator[0].device)
        for row, own in zip(uniform, generator, strict=True):
            row.uniform_(generator=own)
    else:
        device = generator.device if device is None else device
        uniform = torch.rand(tuple(shape), dtype=torch.float64, generator=generator, device=device)
    return uniform.log_().float().neg_().log_()


def perturbation(logits: Tensor, noise: Tensor | None, generator: torch.Generator | None) -> Tensor:
    """``noise``, checked against ``logits``; drawn where it is None."""
    if noise is None:
        return gumbel_noise(logits.shape, generator=generator, device=logits.device)
    _check_noise(noise, logits)
    return noise


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor.to(dtype)``, which takes a microsecond even where there is nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _cast_up(logits: Tensor) -> Tensor:
    """``logits`` in the precision of the arithmetic, float32 at least."""
    dtype = logits.dtype
    return logits if dtype == torch.float32 else logits.to(torch.promote_types(dtype, torch.float32))


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _check_logits(logits: Tensor) -> None:
    if not isinstance(logits, Tensor):
        raise TypeError(f"logits must be a floating-point tensor, but got {type(logits).__name__} {logits!r}.")
    if not logits.dtype.is_floating_point:
        raise ValueError(f"logits must be a floating-point tensor, but got dtype {logits.dtype}.")


def _check_values(logits: Tensor, mask: Tensor | None, legal: Tensor) -> None:
    """Refuses NaN and ``+inf`` in ``logits``, and rows of ``legal``, the masked logits, without a legal choice."""
    # A finite sum settles the usual case in one pass. Any other, one that overflowed too, calls for a close look.
    finite = math.isfinite((legal if mask is None else logits).detach().sum().item())
    if finite and (mask is None or math.isfinite(legal.detach().amax(-1).sum().item())):
        return
    invalid = logits.isnan() | logits.isposinf()
    if bool(invalid.any()):
        raise ValueError(f"logits must be finite or -inf, but got {first(logits, invalid)}.")
    empty = legal.isneginf().all(-1)
    if bool(empty.any()):
        rows = [tuple(row) for row in empty.nonzero()[:5].tolist()]
        raise ValueError(
            f"mask must leave a legal choice in every row of logits, shape {_shape(logits)}, "
            f"but {int(empty.sum())} have none; first rows {rows}."
        )


def _check_noise(noise: Tensor, logits: Tensor) -> None:
    if noise.shape != logits.shape:
        raise ValueError(f"noise must have the shape of logits, {_shape(logits)}, but got shape {_shape(noise)}.")


def _check_mask(mask: Tensor, logits: Tensor) -> None:
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be a boolean tensor, but got dtype {mask.dtype}.")
    if not _broadcasts(mask.shape, logits.shape):
        raise ValueError(
            f"mask must broadcast to the shape of logits, {_shape(logits)}, but got a mask of shape {_shape(mask)}."
        )


def _broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    if len(shape) == len(to) and tuple(shape) == tuple(to):
        return True
    try:
        return torch.broadcast_shapes(shape, to) == tuple(to)
    except RuntimeError:
        return False


def check_temperature(
    temperature: float | Tensor, validate_args: bool, logits: Tensor | None = None, *, rowwise: bool = True
) -> None:
    """Raises an error unless ``temperature`` is positive, and fits ``logits`` if they are given.

    A tensor must then broadcast to ``[..., 1]``, one number a row; or to ``[..., K]``, unless ``rowwise``. Its values
    are only read if ``validate_args``.
    """
    if isinstance(temperature, Tensor):
        if logits is not None and temperature.dim():
            shape = (*logits.shape[:-1], 1) if rowwise else _shape(logits)
            if not _broadcasts(temperature.shape, shape):
                raise ValueError(
                    f"temperature must be a number, or broadcast to shape {shape}, but got a tensor of shape "
                    f"{_shape(temperature)}."
                )
        if validate_args and is_concrete(temperature) and not bool((temperature > 0).all()):
            raise ValueError(f"temperature must be positive, but got {temperature}.")
        return
    try:
        positive = temperature > 0
    except TypeError:
        kind = type(temperature).__name__
        raise TypeError(f"temperature must be a number or a tensor, but got {kind}.") from None
    if not positive:
        raise ValueError(f"temperature must be positive, but got {temperature}.")
