"""Functions of tensors, recorded once and then replayed without Python and autograd; or compiled."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

__all__ = ["Traced", "is_traceable"]

KNOWN_MODULES = ("gsrl.", "torch.nn.modules.", "stable_baselines3.common.torch_layers")
"""Where modules come from that do the same operations on every input of a shape."""


def is_traceable(modules: Iterable[nn.Module]) -> bool:
    """Whether what these modules do may be recorded: whether they are known to decide nothing by values."""
    return all(type(module).__module__.startswith(KNOWN_MODULES) for module in modules)


class Traced:
    """A function whose tensor operations are recorded, for inputs of the shapes of that call, and then replayed.

    A small network's update spends most of its time in Python and in building the graph of the backward pass. The
    record holds the operations of both passes, and its replay costs what they cost; results are the same to the bit.
    (Recording sees through ``vmap`` and ``autograd.grad``.) Compiled, the operations are fused as well: that is
    faster, takes some seconds at first, and rounds differently.

    What a function decides by values is decided once and for all. See :func:`is_traceable`.

    Args:
        function: Of ``state`` and further inputs, trees of tensors and constants. Returns a tree of tensors. Only a
            compiled one may write to its arguments.
        name: What it does, for messages.
        state: Its first argument at every call: always the same tensors.
        compile: Whether it is compiled. A line on stderr says how long that took. Where it fails, a warning says why.
        after: Calls that are left to the caller before the recording, which costs as much as hundreds of them.
    """

    def __init__(
        self, function: Callable[..., Any], name: str, state: Any, *, compile: bool = False, after: int = 0
    ) -> None:
        self._function = function
        self._name = name
        self._state = state
        self._fixed = [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]
        self._compile = compile
        self._calls_left: float = after
        self._replay: Callable[..., Any] | None = None
        self._shapes: list[Any] = []
        self._output: Any = None

    def __call__(self, *inputs: Any) -> Any:
        """Returns what the function returns; None where that is left to the caller.

        That is so before the recording, for inputs of other shapes, and where recording or compiling has failed.
        """
        if self._calls_left > 0:
            self._calls_left -= 1
            return None
        leaves = tree_leaves(inputs)
        shapes = [tuple(leaf.shape) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        with torch.no_grad():
            if self._replay is None:
                self._shapes = shapes
                outputs = self._first(inputs, tensors)
                if outputs is None:
                    self._calls_left = float("inf")
                    return None
            elif shapes == self._shapes:
                outputs = self._replay(*self._fixed, *tensors)
            else:
                return None
        return tree_unflatten(outputs, self._output)

    def _first(self, inputs: tuple[Any, ...], tensors: list[Tensor]) -> Any:
        """Records the function and runs the record; None: that is not possible."""
        given = (*self._fixed, *tensors)
        begin = time.perf_counter()
        if self._compile:
            print(f"compiling {self._name} ...", end="", file=sys.stderr, flush=True)
        try:
            graph = self._record(inputs, given)
            replay = torch.compile(graph, dynamic=False) if self._compile else _script(graph, given)
            outputs = replay(*given)  # here the compiler runs
        except Exception as error:  # torch's tracer, its compilers and the system's raise many kinds
            if self._compile:
                print(" failed", file=sys.stderr)
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                warnings.warn(f"{self._name} cannot be compiled, and stays eager: {reason}", stacklevel=5)
            return None
        if self._compile:
            print(f" {time.perf_counter() - begin:.1f} s", file=sys.stderr)
        self._replay = replay
        return outputs

    def _record(self, inputs: tuple[Any, ...], given: tuple[Tensor, ...]) -> torch.fx.GraphModule:
        leaves, structure = tree_flatten((self._state, inputs))

        def flat(*tensors: Tensor) -> list[Tensor]:
            iterator = iter(tensors)
            rebuilt = [next(iterator) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            state, rest = tree_unflatten(rebuilt, structure)
            with torch.enable_grad():
                outputs, self._output = tree_flatten(self._function(state, *rest))
            return outputs

        # Recording runs the function: on copies, which it may write to.
        graph: torch.fx.GraphModule = make_fx(flat)(*(tensor.detach().clone() for tensor in given))
        return graph


def _script(graph: torch.fx.GraphModule, given: tuple[Tensor, ...]) -> Callable[..., Any]:
    """The graph for an interpreter that is not Python's."""
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.detach.default:  # nothing is differentiated any more
            node.replace_all_uses_with(node.args[0])
    graph.graph.eliminate_dead_code()
    graph.recompile()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated; where it is gone, functions stay eager
        script = torch.jit.trace(graph, given, check_trace=False)

    def replay(*tensors: Tensor) -> Any:
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # which could change the order of sums
            return script(*tensors)

    return replay
