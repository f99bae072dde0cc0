"""Images of packages: what is in them, and that a seed says what is in which part."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from gsrl.perception.data import digits


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
