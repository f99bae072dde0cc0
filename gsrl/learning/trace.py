"""Functions of tensors, recorded once and then replayed without Python and autograd; or compiled."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, starmap, zip_longest
from operator import is_, itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

__all__ = ["Fingerprint", "Traced", "is_worth_compiling"]

KNOWN_MODULES = ("gsrl.", "torch.nn.modules.", "stable_baselines3.common.torch_layers")
"""Where modules come from that do the same operations on every input of a shape."""

UNREPEATABLE = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RReLU)
"""Those of torch that do more than that in training: they write running statistics, or draw random numbers."""

MAX_RECORDS = 4
"""Kinds of inputs that a function is recorded for; those of all others are left to the caller."""

COMPILE_SECONDS = 15.0
"""What compiling an update takes where nothing is in torch's cache."""

SAVED_SECONDS = {False: 0.5e-3, True: 3e-3}
"""What each update takes less once it is compiled, alone and in lock-step: as of 64 x 64, of sixteen members."""

ALIGNMENT = 64
"""Entries of a tensor after which its place in memory is as good as at the beginning."""


def is_traceable(modules: Iterable[nn.Module]) -> bool:
    """Whether what these modules do may be recorded: whether they are known to be functions of their input alone."""
    return all(
        type(module).__module__.startswith(KNOWN_MODULES)
        and not isinstance(module, UNREPEATABLE)
        and not any(callable(value) and not isinstance(value, type) for value in vars(module).values())
        for module in modules
    )


def is_worth_compiling(updates: float, *, in_lockstep: bool) -> bool:
    """Whether so many updates earn back the time that it takes to compile them.

    It is a rule of numbers alone, and not of a measurement: what is compiled rounds differently, and the same training
    should do the same on a busy machine.

    Args:
        updates: That are to come.
        in_lockstep: Whether they are of several members.

    Example:
        >>> is_worth_compiling(1_000, in_lockstep=True), is_worth_compiling(10_000, in_lockstep=True)
        (False, True)
    """
    return updates * SAVED_SECONDS[in_lockstep] >= COMPILE_SECONDS


class Traced:
    """A function whose tensor operations are recorded, for inputs of the shapes of that call, and then replayed.

    A small network's update spends most of its time in Python and in building the graph of the backward pass. The
    record holds the operations of both passes, and its replay costs what they cost; results are the same to the bit.
    (Recording sees through ``vmap`` and ``autograd.grad``.) Compiled, the operations are fused as well: that is
    faster, takes some seconds at first, and rounds differently. What was compiled is kept in torch's cache, the folder
    ``TORCHINDUCTOR_CACHE_DIR``: the next process takes a few seconds where the first took a dozen.

    What a function decides by values, or by the state of Python objects, is decided once and for all. So it is recorded
    where :func:`is_traceable`, and until somebody exchanges what a :class:`Fingerprint` watches.

    Args:
        function: Of ``state`` and further inputs, trees of tensors and constants. Returns a tree of tensors. Only a
            compiled one may write to its arguments, to those that do not overlap with others.
        name: What it does, for messages.
        state: Its first argument at every call: always the same tensors.
        modules: What it uses.
        compile: Whether it is compiled. A line on stderr says how long that took. Where it fails, a warning says why.
        after: Calls that are left to the caller before the recording, which costs as much as hundreds of them.

    Example:
        >>> scale = torch.tensor(2.0)
        >>> scaled = Traced(lambda scale, x: scale * x, "scaling", scale, modules=[])
        >>> scaled(torch.ones(3))
        tensor([2., 2., 2.])
        >>> _ = scale.fill_(3.0)
        >>> scaled(torch.ones(3))  # what was recorded, of the tensors as they are now
        tensor([3., 3., 3.])
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        state: Any,
        modules: Sequence[nn.Module],
        *,
        compile: bool = False,
        after: float = 0,
    ) -> None:
        self._function = function
        self._name = name
        self._state = state
        self._fixed = [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]
        self._fingerprints = [Fingerprint(module) for module in modules]
        self._compile = compile
        is_possible = compile or all(is_traceable(module.modules()) for module in modules)
        self._calls_left = after if is_possible else math.inf
        self._records: list[_Record] = []

    def __reduce__(self) -> Any:
        """Refused, for copies and pickles: records are of this process, and read the tensors of one owner."""
        raise TypeError("a Traced cannot be copied, for it reads the tensors of its owner: make a new one.")

    @property
    def is_possible(self) -> bool:
        """Whether there is a record, or may be one."""
        return self._calls_left < math.inf

    def is_same(self) -> bool:
        """Whether nobody has exchanged what is recorded."""
        return all(fingerprint.is_same() for fingerprint in self._fingerprints)

    def __call__(self, *inputs: Any) -> Any:
        """Returns what the function returns; None where that is left to the caller.

        That is so before the recording, for inputs of too many kinds, and where there can be none any more.
        """
        if self._calls_left > 0:
            self._calls_left -= 1
            return None
        if not self.is_same():
            self._calls_left = math.inf
            return None
        tensors: list[Tensor] = []
        kinds: list[Any] = []
        _flatten(inputs, tensors, kinds)
        with torch.no_grad():
            for record in self._records:
                if kinds == record.kinds:
                    return _rebuild(record.output, iter(record.replay(*self._fixed, *tensors)))
            if len(self._records) == MAX_RECORDS:
                return None
            return self._first(inputs, tensors, kinds)

    def _first(self, inputs: tuple[Any, ...], tensors: list[Tensor], kinds: list[Any]) -> Any:
        """Records the function and runs the record; None: that is not possible."""
        given = (*self._fixed, *tensors)
        begin = time.perf_counter()
        if self._compile:
            print(f"compiling {self._name} ...", end="", file=sys.stderr, flush=True)
        try:
            graph, output = self._record(inputs, given)
            replay = _compile(graph, given) if self._compile else _script(graph, given)
            outputs = replay(*given)  # here the compiler runs
        except Exception as error:  # torch's tracer, its compilers and the system's raise many kinds
            if self._compile:
                print(" failed", file=sys.stderr)
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                warnings.warn(f"{self._name} cannot be compiled, and stays eager: {reason}", stacklevel=5)
            self._calls_left = math.inf
            return None
        if self._compile:
            print(f" {time.perf_counter() - begin:.1f} s", file=sys.stderr)
        self._records.append(_Record(kinds, replay, output))
        return _rebuild(output, iter(outputs))

    def _record(self, inputs: tuple[Any, ...], given: tuple[Tensor, ...]) -> tuple[torch.fx.GraphModule, Any]:
        leaves, structure = tree_flatten((self._state, inputs))
        output = None

        def flat(*tensors: Tensor) -> list[Tensor]:
            nonlocal output
            iterator = iter(tensors)
            rebuilt = [next(iterator) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            state, rest = tree_unflatten(rebuilt, structure)
            with torch.enable_grad():
                result = self._function(state, *rest)
            outputs: list[Tensor] = []
            _flatten(result, outputs, [])
            output = tree_map(lambda _: None, result)
            return outputs

        # Recording runs the function: on copies, which it may write to.
        graph: torch.fx.GraphModule = make_fx(flat)(*map(_apart, given))
        return graph, output


class _Record(NamedTuple):
    kinds: list[Any]
    replay: Callable[..., Any]
    output: Any


def _flatten(tree: Any, tensors: list[Tensor], kinds: list[Any]) -> None:
    """Lists the tensors of a tree, and what its record holds for: in a tenth of the time of torch's functions."""
    if isinstance(tree, Tensor):
        tensors.append(tree)
        kinds.append((tree.shape, tree.stride(), tree.dtype, tree.device))
    elif isinstance(tree, dict):
        kinds.append(tuple(tree))
        for value in tree.values():
            _flatten(value, tensors, kinds)
    elif isinstance(tree, tuple | list):
        kinds.append(len(tree))
        for value in tree:
            _flatten(value, tensors, kinds)
    else:
        kinds.append(tree)


def _rebuild(pattern: Any, tensors: Iterator[Tensor]) -> Any:
    """A tree of tuples and dicts, with tensors in the place of None."""
    if isinstance(pattern, dict):
        return {name: _rebuild(value, tensors) for name, value in pattern.items()}
    if isinstance(pattern, tuple):
        return tuple([_rebuild(value, tensors) for value in pattern])
    return next(tensors)


class Fingerprint:
    """Tells whether Python objects of modules were exchanged: buffers, submodules, hooks, settings.

    A record goes on doing what they did before. Tensors that are written to in place are no change: it reads them. Nor
    is the mode: what is recorded in training is replayed in training.

    Args:
        module: The module. Of it and its children all attributes are watched; below, buffers, submodules and hooks.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
        >>> fingerprint = Fingerprint(network)
        >>> _ = network[0].weight.data.zero_()
        >>> fingerprint.is_same()
        True
        >>> network[1] = nn.ReLU()
        >>> fingerprint.is_same()
        False
    """

    def __init__(self, module: nn.Module) -> None:
        self._own = [
            (itemgetter(*(name for name in vars(each) if name != "training")), vars(each))
            for each in (module, *module.children())
        ]
        kinds = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
        self._lists = [vars(each)[kind] for each in module.modules() for kind in kinds]
        self._was = list(self._now())

    def __reduce__(self) -> Any:
        """Refused, for copies and pickles: it would go on watching the objects of another module, or none."""
        raise TypeError("a Fingerprint cannot be copied, for it watches the objects of one module: make a new one.")

    def is_same(self) -> bool:
        """Whether everything is what it was at the beginning."""
        return all(starmap(is_, zip_longest(self._now(), self._was)))

    def _now(self) -> Iterator[Any]:
        own = chain.from_iterable(get(attributes) for get, attributes in self._own)
        return chain(own, chain.from_iterable(map(dict.values, self._lists)))


def _apart(tensor: Tensor) -> Tensor:
    """A copy with the same strides and alignment, in memory of its own."""
    offset = tensor.storage_offset() % ALIGNMENT
    extent = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    memory = tensor.new_empty(offset + extent).untyped_storage()
    return tensor.new_empty(0).set_(memory, offset, tensor.shape, tensor.stride()).copy_(tensor.detach())


def _compile(graph: torch.fx.GraphModule, given: tuple[Tensor, ...]) -> Callable[..., Any]:
    """The graph as machine code, for tensors of these shapes and strides.

    Not by ``torch.compile``, which asks again at each call what the caller knows: whether the code fits its inputs.
    """
    for node in graph.graph.nodes:
        node.meta.clear()  # what the compiler finds out by itself, and in another form
    # Of what shares memory, it would not know that it does not overlap.
    examples: list[Any] = list(map(_apart, given))
    from torch._inductor.compile_fx import compile_fx  # here, for it takes seconds, and the others a part of them
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # Without a context of tracing, which ``torch._inductor.compile`` has not, nothing is looked up in torch's cache, in
    # which later processes find what was compiled; nor is it kept there.
    context = torch._guards.TracingContext(FakeTensorMode(shape_env=ShapeEnv()))
    with torch._guards.tracing(context):
        # Calls of small kernels cost as much as the kernels: they come from C++ too.
        options = {"cpp_wrapper": True}
        compiled: Any = compile_fx(graph, examples, config_patches=options, ignore_shape_env=True)
    function: Callable[..., Any] = compiled
    return function


def _script(graph: torch.fx.GraphModule, given: tuple[Tensor, ...]) -> Callable[..., Any]:
    """The graph for an interpreter that is not Python's."""
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.detach.default:  # nothing is differentiated any more
            node.replace_all_uses_with(node.args[0])
        elif node.target is torch.ops.aten.native_layer_norm_backward.default:
            _hide_booleans(graph.graph, node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated; where it is gone, functions stay eager
        script = torch.jit.trace(graph, given, check_trace=False)

    def replay(*tensors: Tensor) -> Any:
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # it could change the order of sums
            return script(*tensors)

    return replay


LAYER_NORM_BACKWARD = """
def plain(gradient: Tensor, x: Tensor, shape: List[int], mean: Tensor, rstd: Tensor, weight: Optional[Tensor],
          bias: Optional[Tensor]) -> Tensor:
    gradients = torch.ops.aten.native_layer_norm_backward(gradient, x, shape, mean, rstd, weight, bias,
                                                          [True, False, False])
    return gradients[0]

def affine(gradient: Tensor, x: Tensor, shape: List[int], mean: Tensor, rstd: Tensor, weight: Optional[Tensor],
           bias: Optional[Tensor]) -> Tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten.native_layer_norm_backward(gradient, x, shape, mean, rstd, weight, bias, [True, True, True])
"""
"""The gradient of a layer norm by its input alone, and by its weights too."""


def _hide_booleans(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    """Puts the gradient of a layer norm, a list of booleans among its arguments, into what can be traced."""
    *args, mask = node.args
    if mask not in ([True, False, False], [True, True, True]):
        return  # it cannot be recorded
    library = _layer_norm_library()
    with graph.inserting_before(node):
        if mask == [True, True, True]:
            node.replace_all_uses_with(graph.call_function(lambda *each: library.affine(*each), tuple(args)))
        else:
            gradient = graph.call_function(lambda *each: library.plain(*each), tuple(args))
            for user in list(node.users):
                user.replace_all_uses_with(gradient)


@cache
def _layer_norm_library() -> Any:
    """The functions above; for good, since a record points to them without keeping them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, as the tracer is
        return torch.jit.CompilationUnit(LAYER_NORM_BACKWARD)
