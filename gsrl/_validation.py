"""When the values of a tensor may be looked at."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["is_concrete"]


def is_concrete(tensor: Tensor) -> bool:
    """Returns whether the values of ``tensor`` can be read: it is eager, and no ``torch.func`` transform wraps it."""
    return not torch.compiler.is_compiling() and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
