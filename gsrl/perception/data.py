"""Images to learn from without a download, of packages that hold them: the extra ``perception``."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gsrl._random import seed_sequence

__all__ = ["TEST_DIGITS", "Images", "digits"]

TEST_DIGITS = 360
"""How many of scikit-learn's 1,797 digits are tested on."""


class Images(NamedTuple):
    """Images and what is on them."""

    images: Tensor
    """float32 ``[count, 1, height, width]``, from 0 to 1."""
    labels: Tensor
    """int64 ``[count]``."""


def digits(split: Literal["train", "test"] = "train", seed: int = 0) -> Images:
    """Loads scikit-learn's 1,797 handwritten digits of 8x8 pixels: 1,437 to train on, 360 to test on.

    Example::

        images, labels = digits("train")  # [1437, 1, 8, 8], [1437]

    Args:
        split: Which part.
        seed: Of the order, and so of what is in which part.

    Returns:
        The images, whose 17 shades are from 0 to 1, and their digits.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
        ValueError: ``split`` is another word.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
    """
    loaded = _module("sklearn.datasets", "scikit-learn").load_digits()
    images = torch.from_numpy(np.asarray(loaded.images, np.float32) / 16).unsqueeze(1)
    return _part(Images(images, torch.from_numpy(np.asarray(loaded.target, np.int64))), split, seed, TEST_DIGITS)


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
