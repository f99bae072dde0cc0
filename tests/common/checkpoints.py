"""Trees through a file."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections import deque
from typing import Any

import numpy as np
import torch

from gsrl.checkpoint import load, save


def round_trip(tree: Any, **kwargs: Any) -> Any:
    file = io.BytesIO()
    save(file, tree)
    return load(file, **kwargs)


def same(a: Any, b: Any) -> bool:
    """Equality of type, structure and bits; NaN equals NaN, and -0.0 is not 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            same(k, m) and same(v, w) for (k, v), (m, w) in zip(a.items(), b.items(), strict=True)
        )
    if isinstance(a, list | tuple | deque):
        same_limit = getattr(a, "maxlen", None) == getattr(b, "maxlen", None)
        return same_limit and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        return bool((a.reshape(-1).view(torch.uint8) == b.reshape(-1).view(torch.uint8)).all())
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return bool(a == b)


def document(file: io.BytesIO) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        return dict(json.loads(archive.read("checkpoint.json")))
