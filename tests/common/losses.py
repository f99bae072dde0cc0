"""What tests of losses share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

B, C, K, FEATURES = 5, 2, 3, 4


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
