"""Training of autoencoders with discrete codes: one, or many seeds in lock-step."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gsrl import checkpoint
from gsrl._random import seed_of, seed_sequence
from gsrl.estimators import Estimator, Noise
from gsrl.learning import Task
from gsrl.perception.data import TEST_DIGITS, Source
from gsrl.perception.latents import CategoricalVAE, VectorQuantizer

__all__ = ["Autoencoder", "ImageVAE", "ImageVQVAE", "QuantisedAutoencoder"]

EVALUATION_SAMPLES = 16
"""Codes that are drawn of an image where they are too many to list."""


class Autoencoder(Task):
    """An autoencoder of images, as :class:`ImageVAE` and :class:`ImageVQVAE` are.

    Args:
        seeds: Of each member.
        dataset: One of :data:`gsrl.perception.data.DATASETS`.
        hidden: Width of encoder and decoder.
        batch_size: Images of an update, drawn with replacement.
        learning_rate: Adam's step size, or a function of the share of the training that remains, from 1 down to 0.
        max_grad_norm: Largest norm of the gradient of each child of the loss; None: no clipping.
        device: Of the networks.
        compile: Whether updates are compiled, see :class:`gsrl.learning.Learner`.
        tensorboard_log: Folder for TensorBoard; None: there is no log.
        verbose: 1: what is logged is printed, of the first member.

    Raises:
        ModuleNotFoundError: The extra ``perception`` is not installed.
        ValueError: An argument is out of its range.

    Example:
        >>> task: Autoencoder = ImageVAE(seeds=(0, 1), n=4, K=8, hidden=16)
        >>> images = task.images(5)  # to test on
        >>> images.shape, task.evaluate(5).shape  # a score of each member and image
        (torch.Size([5, 1, 8, 8]), (2, 5))
    """

    unit, member = "image", "autoencoder"

    def __init__(
        self,
        seeds: Sequence[int] = (0,),
        *,
        dataset: str = "digits",
        hidden: int = 128,
        batch_size: int = 100,
        learning_rate: float | Callable[[float], float] = 2e-3,
        max_grad_norm: float | None = None,
        device: torch.device | str = "auto",
        compile: bool = False,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        _saved: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        if not isinstance(hidden, int) or isinstance(hidden, bool) or hidden < 1:
            raise ValueError(f"hidden must be an integer of at least 1, but got {hidden!r}.")
        self.dataset, self.hidden = dataset, hidden
        self._source = Source(dataset)
        super().__init__(
            seeds,
            batch_size=batch_size,
            learning_rate=learning_rate,
            max_grad_norm=max_grad_norm,
            device=device,
            compile=compile,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            rngs={"batches": "data"},
            _saved=_saved,
        )

    def prepared(self, images: Tensor) -> Tensor:
        """Returns images as they are learned."""
        return images

    def check_saved(self, members: Sequence[Mapping[str, Any]]) -> None:
        """Compares the networks of these settings with saved ones, see :meth:`gsrl.learning.Task.check_saved`."""
        if len(self.seeds) != len(members) or self.batch_size > checkpoint.SMALL:
            raise ValueError(
                f"{len(self.seeds)} seeds and a batch_size of {self.batch_size} are too many for {len(members)} members"
            )
        super().check_saved(members)

    def collect(self) -> tuple[Tensor]:
        """Images of an update, ``[S, batch_size, 1, height, width]``."""
        drawn = [self._source.batch(self.batch_size, rng).images for rng in self.rngs["batches"]]
        return (self.prepared(torch.stack(drawn)).to(self.device),)

    def images(self, count: int = TEST_DIGITS, seed: int = 0) -> Tensor:
        """Returns images to test on, as they are learned, ``[count, 1, height, width]``.

        Args:
            count: How many; no more than there are.
            seed: Of their order, and of what else is drawn.
        """
        return self.prepared(self._source.test(count, seed).images).to(self.device)

    @torch.no_grad()
    def play(self, index: int, episodes: int, seed: int, **how: Any) -> NDArray[np.float64]:
        """Scores of test images, ``[episodes]``; of all of them, if there are no more.

        Args:
            index: Of the member.
            episodes: How many images.
            seed: Of the images, and, beside the member's own, of codes that are drawn.
            **how: Nothing.
        """
        generator = torch.Generator().manual_seed(seed_of(seed_sequence(self.seeds[index], "evaluation", seed)))
        scores = self.scored(self.lockstep.losses[index], self.images(episodes, seed), generator)
        return scores.double().cpu().numpy()

    @abstractmethod
    def scored(self, loss: Any, images: Tensor, generator: torch.Generator) -> Tensor:
        """Scores of images ``[B]``, larger is better."""


class ImageVAE(Autoencoder):
    """A :class:`gsrl.perception.latents.CategoricalVAE` of binary images; a score is the bound on log p(x), in nats.

    Pixels are 1 where they are above 1/2. Encoder and decoder have one hidden layer. The bound is exact where all codes
    can be listed, and a mean over 16 codes for each image elsewhere.

    Args:
        seeds: Of each member.
        n: Variables of a code.
        K: Values of each, at least 2.
        estimator: Of the gradient: a name that :func:`gsrl.make_estimator` knows, or an estimator, of which each member
            gets a copy.
        unimix: Share of the uniform distribution in the encoder's.
        **how: See :class:`Autoencoder`.

    Example:
        >>> task = ImageVAE(n=4, K=8, hidden=16).learn(300)  # three updates of 100 images
        >>> task.num_updates, task.evaluate(10).shape
        (3, (1, 10))
    """

    SETTINGS = (
        *("seeds", "n", "K", "estimator", "unimix", "dataset", "hidden", "batch_size", "learning_rate"),
        "max_grad_norm",
    )
    score = "bound"
    advanced = ("estimator", "cost")

    def __init__(
        self,
        seeds: Sequence[int] = (0,),
        *,
        n: int = 20,
        K: int = 10,
        estimator: Estimator | str = "reinmax",
        unimix: float = 0.0,
        **how: Any,
    ) -> None:
        self.n, self.K, self.estimator, self.unimix = n, K, estimator, unimix
        super().__init__(seeds, **how)

    def prepared(self, images: Tensor) -> Tensor:
        """Returns binary images."""
        return (images > 0.5).float()

    def make_loss(self, seed: int) -> CategoricalVAE:
        """The autoencoder of a member."""
        shape, size = self._source.image_shape, self.n * self.K
        pixels = math.prod(shape)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, self.hidden), nn.ReLU(), nn.Linear(self.hidden, size))
        decoder = nn.Sequential(
            nn.Linear(size, self.hidden), nn.ReLU(), nn.Linear(self.hidden, pixels), nn.Unflatten(1, shape)
        )
        return CategoricalVAE(encoder, decoder, self.n, self.K, copy.deepcopy(self.estimator), self.unimix)

    def scored(self, loss: CategoricalVAE, images: Tensor, generator: torch.Generator) -> Tensor:
        """The bound on the log-likelihood of each image, in nats."""
        return loss.bound(images, None if loss.is_listed else EVALUATION_SAMPLES, generator)


class QuantisedAutoencoder(nn.Module):
    """The loss of an autoencoder with quantised vectors: squared error, and what the quantiser adds.

    Args:
        encoder: Maps images ``[B, *event]`` to vectors ``[B, places, width]``.
        quantizer: See :class:`gsrl.perception.latents.VectorQuantizer`.
        decoder: Maps them back.
        places: How many vectors an image has.

    Attributes:
        noise: None, or what the quantiser's noise is in calls of the module, see :mod:`gsrl.learning.noise`.

    Example:
        >>> encoder, decoder = nn.Unflatten(1, (4, 2)), nn.Flatten()  # eight numbers are four vectors of two
        >>> loss = QuantisedAutoencoder(encoder, VectorQuantizer(16, 2, method="ema"), decoder, places=4)
        >>> decoded, codes = loss.reconstruct(torch.randn(3, 8))
        >>> decoded.shape, codes.shape
        (torch.Size([3, 8]), torch.Size([3, 4]))
    """

    noise: Noise | None = None

    def __init__(self, encoder: nn.Module, quantizer: VectorQuantizer, decoder: nn.Module, places: int) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.decoder, self.places = encoder, quantizer, decoder, places

    def draw_noise(self, batch_shape: Sequence[int], generator: torch.Generator | None = None) -> Noise:
        """Draws the quantiser's noise for a batch of images.

        Args:
            batch_shape: ``[B]``.
            generator: Source of randomness; torch's default one if None.
        """
        return self.quantizer.draw_noise((*batch_shape, self.places), generator)

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss with the noise that was handed in; and as metrics its parts, and what the quantiser's step takes."""
        latents = self.encoder(images)
        quantised, indices, added = self.quantizer(latents, noise=self.noise)
        error = (self.decoder(quantised) - images).square().mean()
        metrics = {"error": error, "added": added, "latents": latents, "indices": indices}
        return error + added, {name: value.detach() for name, value in metrics.items()}

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``[B, *event]`` from the nearest codes, and those codes ``[B, places]``."""
        quantised, indices, _ = self.quantizer(self.encoder(images), deterministic=True)
        return self.decoder(quantised), indices


class ImageVQVAE(Autoencoder):
    r"""An autoencoder of images whose 4x4 places are quantised; a score is the PSNR of an image, in decibels.

    The peak signal-to-noise ratio is :math:`-10 \log_{10}` of the mean squared error of pixels from 0 to 1. Encoder and
    decoder are convolutions.

    Args:
        seeds: Of each member.
        num_codes: Codes, at least 2.
        width: Of a code.
        method: See :class:`gsrl.perception.latents.VectorQuantizer`, as those that follow.
        estimator: Of ``"gumbel"``: the name of a pathwise estimator, or one, of which each member gets a copy.
        commitment: Weight of the distance of vectors from their codes; not of ``"gumbel"``.
        diversity: Weight of the diversity term, of ``"gumbel"``.
        sharpness: Of the distribution of codes, of ``"gumbel"``.
        decay: Of moving averages.
        revival: Share of the mean use below which a code is dead.
        hidden: Channels of encoder and decoder.
        **how: See :class:`Autoencoder`.

    Example:
        >>> task = ImageVQVAE(num_codes=8, width=4, hidden=8).learn(200)  # two updates of 100 images
        >>> task.evaluate(10).shape, bool(1 <= task.perplexity(task.images(10))[0] <= 8)
        ((1, 10), True)
    """

    SETTINGS = (
        *("seeds", "num_codes", "width", "method", "estimator", "commitment", "diversity"),
        *("sharpness", "decay", "revival", "dataset", "hidden", "batch_size", "learning_rate", "max_grad_norm"),
    )
    score = "psnr"

    def __init__(
        self,
        seeds: Sequence[int] = (0,),
        *,
        num_codes: int = 64,
        width: int = 16,
        method: Literal["gumbel", "ema", "straight-through"] = "gumbel",
        estimator: Estimator | str = "st-gumbel",
        commitment: float = 0.25,
        diversity: float = 1e-3,
        sharpness: float = 4.0,
        decay: float = 0.99,
        revival: float = 0.03,
        hidden: int = 64,
        **how: Any,
    ) -> None:
        self.num_codes, self.width, self.method, self.estimator = num_codes, width, method, estimator
        self.commitment, self.diversity, self.sharpness = commitment, diversity, sharpness
        self.decay, self.revival = decay, revival
        super().__init__(seeds, hidden=hidden, **how)

    def make_loss(self, seed: int) -> QuantisedAutoencoder:
        """The autoencoder of a member."""
        _, height, width = self._source.image_shape
        encoder = nn.Sequential(
            *(nn.Conv2d(1, self.hidden // 2, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(self.hidden // 2, self.hidden, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(self.hidden, self.width, 1), nn.Flatten(2), _Swapped()),
        )
        decoder = nn.Sequential(
            *(_Swapped(), nn.Unflatten(2, (height // 2, width // 2))),
            *(nn.Conv2d(self.width, self.hidden, 3, padding=1), nn.ReLU()),
            *(nn.ConvTranspose2d(self.hidden, self.hidden // 2, 4, stride=2, padding=1), nn.ReLU()),
            nn.Conv2d(self.hidden // 2, 1, 3, padding=1),
        )
        names = ("method", "commitment", "diversity", "sharpness", "decay", "revival")
        settings: dict[str, Any] = {name: getattr(self, name) for name in names}
        quantizer = VectorQuantizer(self.num_codes, self.width, estimator=copy.deepcopy(self.estimator), **settings)
        return QuantisedAutoencoder(encoder, quantizer, decoder, (height // 2) * (width // 2))

    def advance(self, metrics: Mapping[str, Any]) -> None:
        """Advances the codes, and takes what they need out of the metrics."""
        latents, indices = (self.lockstep.metrics.pop(name) for name in ("latents", "indices"))
        for index, generator in enumerate(self.lockstep.generators):
            if not self.lockstep.frozen[index]:
                self.lockstep.losses[index].quantizer.step(latents[index], indices[index], generator)

    def scored(self, loss: QuantisedAutoencoder, images: Tensor, generator: torch.Generator) -> Tensor:
        """The PSNR of each image, in decibels."""
        decoded, _ = loss.reconstruct(images)
        return -10 * (decoded - images).square().flatten(1).mean(1).clamp_min(1e-10).log10()

    def figures(self) -> dict[str, NDArray[np.float64]]:
        """The mean score, and how many codes the test images use, by their perplexity."""
        return {**super().figures(), "perplexity": self.perplexity(self.images())}

    @torch.no_grad()
    def perplexity(self, images: Tensor) -> NDArray[np.float64]:
        """Perplexity of the nearest codes of images, of each member ``[S]``.

        Args:
            images: ``[B, 1, height, width]``.
        """
        found = []
        for loss in self.lockstep.losses:
            quantizer = copy.deepcopy(loss.quantizer)
            quantizer.reset()
            quantizer.observe(loss.reconstruct(images)[1])
            found.append(quantizer.perplexity().item())
        return np.array(found)


class _Swapped(nn.Module):
    """``[B, a, b]`` as ``[B, b, a]``."""

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2)
