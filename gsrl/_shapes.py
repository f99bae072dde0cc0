"""Shapes in annotations, as ``Float[Tensor, "*batch n K"]``: jaxtyping's where it is imported first, else words alone.

To a type checker this is ``Tensor``, and to a program nothing. With jaxtyping, its import hook holds functions to their
shapes: see ``tests/common/shapes.py``. ``*batch`` stands for any dimensions, ``...`` for any that no other is compared
with, ``#`` for what broadcasts; a name has one size in a call.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

__all__ = ["Bool", "Float", "Float64", "Int", "Real", "Shaped"]

if not TYPE_CHECKING and "jaxtyping" in sys.modules:
    Bool, Float, Float64, Int, Real, Shaped = (getattr(sys.modules["jaxtyping"], name) for name in __all__)
else:
    from typing import Annotated as Bool
    from typing import Annotated as Float
    from typing import Annotated as Float64
    from typing import Annotated as Int
    from typing import Annotated as Real
    from typing import Annotated as Shaped
