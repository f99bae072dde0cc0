"""Checkpoints: one zip file of JSON and NumPy arrays, written atomically and read without running any code.

The file holds `checkpoint.json` (the format's name and version, the gsrl version and the tree) and `arrays/<i>.npy`.
Loading a stranger's file is safe: there is no pickle, classes are found by exact name in a fixed table, and nothing is
imported unless the caller says `trusted=True`. It costs no more than the file's size says: nothing is compressed, each
array is read once, and what is about to be built from settings is compared with the parameters that are there first.

The tree is any nesting of dict, list, tuple, `deque`, None, bool, int, float and str, with these leaves:

- `torch.Tensor` of any dense dtype, `torch.dtype`, `torch.device`;
- `numpy.ndarray`, NumPy scalars, `numpy.dtype`;
- Gymnasium's `Box`, `Discrete`, `MultiDiscrete`, `MultiBinary`, `Dict` and `Tuple` spaces;
- Stable-Baselines3's schedules and `TrainFreq`;
- estimators and temperatures of gsrl, as name and settings (their tensors belong in a state dict);
- classes: modules of `torch.nn`, optimisers of `torch.optim`, Stable-Baselines3's feature extractors, NumPy's scalar
  types, and those gsrl adds with `register`.

Anything else is written as *unresolved*: `load` refuses it, unless the caller replaces the entry or trusts the file.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import json
import math
import os
import sys
import warnings
import zipfile
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common import torch_layers
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gsrl._files import replacing
from gsrl._version import __version__
from gsrl.estimators import ESTIMATORS, Estimator, make_estimator
from gsrl.schedules import ExponentialSchedule
from gsrl.temperature import TEMPERATURES, make_temperature

__all__ = [
    "CheckpointError",
    "Stored",
    "check_counts",
    "check_entries",
    "check_finite",
    "check_module",
    "copied",
    "fitting",
    "load",
    "other_kind",
    "register",
    "save",
]

FORMAT = "gsrl-checkpoint"
FORMAT_VERSION = 1
DOCUMENT = "checkpoint.json"
SMALL = 2**20
"""Numbers that may be allocated for what a file only names, however small it is."""

Class = TypeVar("Class", bound=type)
KeyPath = tuple[str, ...]
"""Where a value stands in the tree: the keys and indices that lead to it."""


class CheckpointError(ValueError):
    """A file that is not a whole gsrl checkpoint, or that holds what gsrl does not restore by itself.

    Example:
        >>> open("other.zip", "w").close()
        >>> try:
        ...     load("other.zip")
        ... except CheckpointError:
        ...     print("not a checkpoint")
        not a checkpoint
    """


# Public interface


def save(path: str | os.PathLike[str] | BinaryIO, tree: Any) -> None:
    """Write a tree to a file, whole or not at all.

    A path is written through a temporary file in the same folder, which then takes its place: when anything fails, the
    previous file is as it was. The same tree gives the same bytes. Tensors are stored without their graph and without
    being parameters, an `OrderedDict` as a dict, a `torch.Size` as a tuple, and a space without its random generator.

    Args:
        path: Path of the file, whose folder is made when missing; or a writable binary file object.
        tree: What to store; the module's docstring says what it may hold.

    Raises:
        OSError: The file cannot be written, for example because the disk is full.
        TypeError: `path` is neither, or the tree holds an array of objects or a tensor that is not dense.
        ValueError: The tree contains itself, or is too deep.

    Example:
        >>> save("tree.zip", {"weights": torch.ones(2), "steps": 3})
        >>> load("tree.zip")
        {'weights': tensor([1., 1.]), 'steps': 3}
    """
    encoder = _Encoder()
    try:
        root = encoder.encode(tree, ())
        document = {"format": FORMAT, "version": FORMAT_VERSION, "gsrl": __version__, "tree": root}
        text = json.dumps(document, allow_nan=False)
    except RecursionError:
        raise ValueError("tree contains itself, or is nested too deeply to be stored.") from None
    if isinstance(path, str | os.PathLike):
        Path(os.path.realpath(path)).parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            _write(file, text, encoder.arrays)
    elif hasattr(path, "write"):
        _write(path, text, encoder.arrays)
    else:
        raise TypeError(f"path must be a path or a writable binary file, but got {type(path).__name__}.")


def load(
    path: str | os.PathLike[str] | BinaryIO,
    *,
    device: torch.device | str = "cpu",
    trusted: bool = False,
    replace: Mapping[str, Any] | None = None,
) -> Any:
    """Read the tree that `save` wrote.

    Args:
        path: Path of the file, or a readable binary file object that can seek.
        device: Where the tensors go.
        trusted: Import the classes and functions that gsrl does not know, by name. This runs their modules' code, so
            say it only of a file whose origin you trust.
        replace: Values that take the place of top-level entries of the same name, which are then not decoded. Names
            that the tree does not have are ignored, as in Stable-Baselines3's `custom_objects`.

    Returns:
        The tree.

    Raises:
        CheckpointError: The file is not a checkpoint, is damaged, was written in a newer format, or holds something
            that gsrl does not restore by itself.
        OSError: The file cannot be opened; `FileNotFoundError` when there is none.
        TypeError: `path` is neither a path nor a readable file.

    Example:
        >>> save("tree.zip", {"weights": torch.ones(2), "steps": 3})
        >>> load("tree.zip")["steps"]
        3
    """
    device = torch.device(device)
    if isinstance(path, str | os.PathLike):
        with open(path, "rb") as file:
            return _read(file, file_name(path), device, trusted, replace or {})
    if not hasattr(path, "read"):
        raise TypeError(f"path must be a path or a readable binary file, but got {type(path).__name__}.")
    return _read(path, file_name(path), device, trusted, replace or {})


def copied(tree: Any) -> Any:
    """A state that does not change with its owner: tensors and arrays are copies, containers are new ones.

    Example:
        >>> copied({"weights": torch.ones(2)})
        {'weights': tensor([1., 1.])}
    """
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else copy.copy(leaf), tree)


def check_entries(tree: Any, expected: Mapping[Any, Any]) -> None:
    """Check that a tree has every entry that another one has, with tensors of the same shapes.

    An entry that is None in either tree only has to be there, and an empty dict not even that.

    Args:
        tree: What was loaded.
        expected: A tree of what is about to be restored. Only its dicts and tensors count.

    Raises:
        CheckpointError: An entry is missing, has another shape or is no dict; the message names it.

    Example:
        >>> check_entries({"weight": torch.zeros(3), "steps": 1}, {"weight": torch.zeros(3)})  # nothing wrong
        >>> check_entries({"weight": torch.zeros(3)}, {"weight": torch.zeros(2)})
        Traceback (most recent call last):
            ...
        gsrl.checkpoint.CheckpointError: weight has shape [3], but must have [2]
    """
    _check_entries(tree, expected, ())


@contextlib.contextmanager
def fitting(path: Any) -> Iterator[None]:
    """Raise one error, with the name of the file and what to do, for whatever a block finds wrong with a loaded tree.

    Args:
        path: Path of the file, or the file; a string may be what to call it.

    Raises:
        CheckpointError: The block raised any other exception, but for one of the system: an OSError, or that a device
            is out of memory.

    Example:
        >>> try:
        ...     with fitting("agent.zip"):
        ...         nn.Linear(2, 3).load_state_dict({})
        ... except CheckpointError as error:
        ...     print(str(error).partition(",")[0])
        agent.zip does not fit the settings
    """
    try:
        yield
    except (OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # libraries raise what they like at values that are none
        what = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = what + " ".join(str(error).split())  # torch's have several lines
        raise CheckpointError(
            f"{file_name(path)} does not fit the settings, or this version of gsrl, {__version__}: "
            f"{reason.rstrip('.')}; train again, or load it with the settings and the version that wrote it"
        ) from error


def other_kind(path: Any, name: str, tree: Any) -> CheckpointError:
    """Returns the error of a file that holds something else; what the file says of how it is opened is in it.

    Args:
        path: Path of the file.
        name: Name of the class that cannot read it.
        tree: What it holds.

    Example:
        >>> other_kind("agent.zip", "Population", {"opened_by": "DiscreteSAC.load"})
        CheckpointError('agent.zip is a gsrl checkpoint, but not a saved Population. It is opened by DiscreteSAC.load.')
    """
    opened_by = tree.get("opened_by") if isinstance(tree, dict) else None
    hint = f" It is opened by {opened_by}." if isinstance(opened_by, str) else ""
    return CheckpointError(f"{path} is a gsrl checkpoint, but not a saved {name}.{hint}")


def check_counts(tree: Mapping[str, Any], *names: str) -> None:
    """Refuses entries that are no integers of at least 0.

    Args:
        tree: What was loaded.
        names: Of the entries.

    Raises:
        CheckpointError: One is none; the message names it.

    Example:
        >>> check_counts({"steps": 3, "updates": 0}, "steps", "updates")  # nothing wrong
        >>> check_counts({"steps": -1}, "steps")
        Traceback (most recent call last):
            ...
        gsrl.checkpoint.CheckpointError: steps must be an integer of at least 0, but got -1
    """
    for name in names:
        value = tree[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise CheckpointError(f"{name} must be an integer of at least 0, but got {value!r}")


class Stored(NamedTuple):
    """How much a tree holds, which bounds what may be built to hold it.

    Example:
        >>> stored = Stored.of({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)})
        >>> stored
        Stored(tensors=2, numbers=8)
        >>> stored.check({"net_arch": [10**6]})
        Traceback (most recent call last):
            ...
        gsrl.checkpoint.CheckpointError: settings has a size of 1000000, but only 8 numbers are there
    """

    tensors: int
    """How many tensors and arrays: a network has no more layers, and a population no more members."""
    numbers: int
    """Elements of all of them: no layer is wider."""

    @classmethod
    def of(cls, tree: Any) -> Stored:
        """Counts the tensors and arrays of a tree, and their elements."""
        sizes = [math.prod(leaf.shape) for leaf in _leaves(tree) if isinstance(leaf, Tensor | np.ndarray)]
        return cls(len(sizes), sum(sizes))

    def check(self, settings: Any, name: str = "settings") -> None:
        """Refuses sizes of networks that this much does not fill: too many layers, or too wide ones.

        Args:
            settings: A tree of them, such as ``policy_kwargs``; only integers, spaces and the lengths of lists count.
                Integers that stand next to each other in a list are taken to be the sides of a matrix.
            name: What to call it.

        Raises:
            CheckpointError: A size is too large.
        """
        leaves, widths = _leaves(settings), _lists(settings)
        for space in (leaf for leaf in leaves if isinstance(leaf, spaces.Space)):
            if math.prod(space.shape or ()) > max(self.numbers, SMALL):
                raise CheckpointError(f"{name} has {space}, but only {self.numbers} numbers are there")
        if len(leaves) > max(self.tensors, 64):
            raise CheckpointError(f"{name} has {len(leaves)} sizes, but only {self.tensors} tensors are there")
        for leaf in leaves:
            if isinstance(leaf, int) and leaf > max(self.numbers, 64):
                raise CheckpointError(f"{name} has a size of {leaf}, but only {self.numbers} numbers are there")
        for sizes in widths:
            weights = sum(math.prod(pair) for pair in pairwise(sizes) if all(isinstance(size, int) for size in pair))
            if weights > max(self.numbers, 64**2):
                raise CheckpointError(
                    f"{name} has layers of {weights} weights, but only {self.numbers} numbers are there"
                )


def check_module(state: Any, make: Callable[[], nn.Module], name: str) -> None:
    """Compares the tensors of a state dict with those of a module, before that takes any memory.

    Args:
        state: The state dict that was read.
        make: Makes the module. It is called on torch's device ``meta``, where tensors have shapes and nothing else.
        name: What to call the state.

    Raises:
        CheckpointError: An entry is missing, has another shape or is no such tensor.

    Example:
        >>> state = nn.Linear(2, 3).state_dict()
        >>> check_module(state, lambda: nn.Linear(2, 3), "actor")  # nothing wrong
        >>> check_module(state, lambda: nn.Linear(2, 4), "actor")
        Traceback (most recent call last):
            ...
        gsrl.checkpoint.CheckpointError: actor.weight has shape [3, 2], but must have [4, 2]
    """
    with torch.device("meta"):
        expected = make().state_dict()
    _check_entries(state, expected, (name,))
    for key, tensor in expected.items():
        if not isinstance(state[key], Tensor):
            raise CheckpointError(f"{name}.{key} must be a tensor, but got {type(state[key]).__name__}")
        if tensor.is_floating_point() != state[key].is_floating_point():
            raise CheckpointError(f"{name}.{key} must be of {tensor.dtype}, but is of {state[key].dtype}")


def check_finite(state: Mapping[str, Any], what: str) -> None:
    """Warns of parameters that are NaN or infinite, whose values decide nothing.

    Args:
        state: Tensors by name.
        what: Whose they are, for the warning.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     check_finite({"weight": torch.tensor([torch.nan]), "bias": torch.zeros(1)}, "agent.zip")
        >>> str(caught[0].message).partition(":")[0]
        'agent.zip holds parameters that are not finite, such as weight (1 of 2)'
    """
    names = [
        name
        for name, value in state.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all()
    ]
    if names:
        warnings.warn(
            f"{what} holds parameters that are not finite, such as {names[0]} ({len(names)} of {len(state)}): its "
            "training diverged, and it cannot act.",
            stacklevel=3,
        )


def register(name: str) -> Callable[[Class], Class]:
    """Adds a class of gsrl's to those that checkpoints store by name; to be used as a decorator.

    Args:
        name: What files call the class, whichever module it is in: it stays when the class moves or is renamed.

    Returns:
        The decorator, which returns the class itself.

    Example:
        >>> from fractions import Fraction
        >>> register("mine.Fraction")(Fraction) is Fraction
        True
        >>> save("class.zip", {"class": Fraction})
        >>> load("class.zip")["class"]
        <class 'fractions.Fraction'>
    """

    def add(cls: Class) -> Class:
        _add_class(name, cls)
        return cls

    return add


# The tables: what a name in a file may mean. Lookups are exact; a name is never imported.

_CLASSES: dict[str, type] = {}
_CLASS_NAMES: dict[type, str] = {}
_EARLIER_NAMES = {
    "gsrl.algorithms.extractors.SmallCNN": "gsrl.SmallCNN",
    "gsrl.algorithms.policies.Actor": "gsrl.Actor",
    "gsrl.algorithms.policies.Critics": "gsrl.Critics",
    "gsrl.algorithms.policies.DiscreteSACPolicy": "gsrl.DiscreteSACPolicy",
    "gsrl.algorithms.policies.CnnPolicy": "gsrl.CnnPolicy",
    "gsrl.algorithms.policies.MultiInputPolicy": "gsrl.MultiInputPolicy",
    "gsrl.algorithms.reinforce.ValueNetwork": "gsrl.ValueNetwork",
    "gsrl.algorithms.reinforce.ReinforcePolicy": "gsrl.ReinforcePolicy",
    "gsrl.algorithms.reinforce.ReinforceCnnPolicy": "gsrl.ReinforceCnnPolicy",
    "gsrl.algorithms.reinforce.ReinforceMultiInputPolicy": "gsrl.ReinforceMultiInputPolicy",
    "gsrl.comms.channel.Channel": "gsrl.comms.Channel",
    "gsrl.comms.games.AttributeValueGame": "gsrl.comms.AttributeValueGame",
    "gsrl.comms.games.LewisGame": "gsrl.comms.LewisGame",
    "gsrl.comms.games.DiscriminationGame": "gsrl.comms.DiscriminationGame",
    "gsrl.comms.topologies.BroadcastGame": "gsrl.comms.BroadcastGame",
    "gsrl.comms.topologies.TargetedGame": "gsrl.comms.TargetedGame",
    "gsrl.comms.topologies.PopulationGame": "gsrl.comms.PopulationGame",
    "gsrl.comms.topologies.QuestionGame": "gsrl.comms.QuestionGame",
}
"""What classes were called in files by the modules that they were in, and what they are called now."""

_HOMES = {
    "gsrl": ("gsrl.algorithms", "gsrl.perception.latents"),
    "gsrl.comms": ("gsrl.comms",),
    "gsrl.perception": ("gsrl.perception.extractors",),
}
"""Modules of the library that register classes, by what their names begin with: nobody need have imported them."""


def _add_class(name: str, cls: type) -> None:
    _CLASSES[name] = cls
    _CLASS_NAMES.setdefault(cls, name)


for _module, _base in ((nn, nn.Module), (torch.optim, torch.optim.Optimizer), (torch_layers, nn.Module)):
    for _name, _value in vars(_module).items():
        if isinstance(_value, type) and issubclass(_value, _base):
            _add_class(f"{_module.__name__}.{_name}", _value)
for _value in set(np.sctypeDict.values()):
    _add_class(f"numpy.{_value.__name__}", _value)


class _Recipe(NamedTuple):
    """How an object is taken apart into settings, and built from them again."""

    cls: type
    settings: Callable[[Any], dict[str, Any]]
    build: Callable[..., Any]


def _box(low: np.ndarray, high: np.ndarray, bounded_below: np.ndarray, bounded_above: np.ndarray) -> spaces.Box:
    for name, array in (
        ("low", low),
        ("high", high),
        ("bounded_below", bounded_below),
        ("bounded_above", bounded_above),
    ):
        if not isinstance(array, np.ndarray) or array.shape != low.shape:
            raise ValueError(f"{name} must be an array of the shape of low")
    box = spaces.Box(low, high, dtype=low.dtype.type)
    # An integer box made from infinite bounds is unbounded, yet holds the dtype's limits.
    box.bounded_below, box.bounded_above = bounded_below, bounded_above
    return box


_RECIPES = {
    "gymnasium.spaces.Box": _Recipe(
        spaces.Box,
        lambda s: {
            "low": s.low,
            "high": s.high,
            "bounded_below": s.bounded_below,
            "bounded_above": s.bounded_above,
        },
        _box,
    ),
    "gymnasium.spaces.Discrete": _Recipe(
        spaces.Discrete,
        lambda s: {"n": int(s.n), "start": int(s.start), "dtype": s.dtype},
        spaces.Discrete,
    ),
    "gymnasium.spaces.MultiDiscrete": _Recipe(
        spaces.MultiDiscrete,
        lambda s: {"nvec": s.nvec, "start": s.start, "dtype": s.dtype},
        spaces.MultiDiscrete,
    ),
    "gymnasium.spaces.MultiBinary": _Recipe(spaces.MultiBinary, lambda s: {"n": s.n}, spaces.MultiBinary),
    "gymnasium.spaces.Dict": _Recipe(
        spaces.Dict,
        lambda s: {"items": tuple(s.spaces.items()), "sort_keys": s.sort_keys},
        lambda items, sort_keys: spaces.Dict(items, sort_keys=sort_keys),
    ),
    "gymnasium.spaces.Tuple": _Recipe(spaces.Tuple, lambda s: {"spaces": s.spaces}, spaces.Tuple),
    "stable_baselines3.FloatSchedule": _Recipe(
        FloatSchedule, lambda s: {"value_schedule": s.value_schedule}, FloatSchedule
    ),
    "stable_baselines3.ConstantSchedule": _Recipe(ConstantSchedule, lambda s: {"val": s.val}, ConstantSchedule),
    "stable_baselines3.LinearSchedule": _Recipe(
        LinearSchedule,
        lambda s: {"start": s.start, "end": s.end, "end_fraction": s.end_fraction},
        LinearSchedule,
    ),
    "gsrl.ExponentialSchedule": _Recipe(ExponentialSchedule, asdict, ExponentialSchedule),
    "stable_baselines3.TrainFreq": _Recipe(
        TrainFreq,
        lambda s: {"frequency": s.frequency, "unit": s.unit.value},
        lambda frequency, unit: TrainFreq(frequency, TrainFrequencyUnit(unit)),
    ),
}
_RECIPE_NAMES = {recipe.cls: name for name, recipe in _RECIPES.items()}

_TORCH_DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
# NumPy lacks these, so their bits are stored as integers of the same size.
_STORED_AS = {
    torch.bfloat16: torch.int16,
    torch.complex32: torch.int32,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e4m3fnuz: torch.uint8,
    torch.float8_e5m2: torch.uint8,
    torch.float8_e5m2fnuz: torch.uint8,
    torch.float8_e8m0fnu: torch.uint8,
}
_VIEWED_AS = {str(dtype): dtype for dtype in _STORED_AS}


# Writing


class _Encoder:
    """Turns a tree into JSON nodes, and collects its arrays.

    None, bool, int, finite float, str and list are themselves. So is a dict with str keys, unless it has the key
    "type"; every other node is an object whose "type" says what it is.
    """

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []

    def encode(self, value: Any, path: KeyPath) -> Any:
        """Return the JSON node of a value.

        Types are compared exactly: a subclass may hold more than its base.
        """
        cls = type(value)
        if value is None or cls in (bool, int, str):
            return value
        if cls is float:
            return value if math.isfinite(value) else {"type": "float", "value": str(value)}
        if cls is list:
            return self._encode_all(value, path)
        if cls in (tuple, torch.Size):
            return {"type": "tuple", "items": self._encode_all(value, path)}
        if cls is deque:
            return {"type": "deque", "items": self._encode_all(value, path), "maxlen": value.maxlen}
        if cls in (dict, OrderedDict):
            return self._encode_dict(value, path)
        if isinstance(value, Tensor):
            return self._encode_tensor(value, path)
        if cls is np.ndarray:
            return {"type": "numpy.array", "index": self._add(value, path)}
        if isinstance(value, np.generic):
            return {"type": "numpy.scalar", "index": self._add(np.asarray(value), path)}
        if isinstance(value, np.dtype) and value.kind in "?biufcmMSUO":
            return {"type": "numpy.dtype", "name": value.str}
        if cls in (torch.dtype, torch.device):
            return {"type": f"torch.{cls.__name__}", "name": str(value)}
        if isinstance(value, type) and value in _CLASS_NAMES:
            return {"type": "class", "name": _CLASS_NAMES[value]}
        if cls in _RECIPE_NAMES:
            name = _RECIPE_NAMES[cls]
            return self._encode_object("object", name, _RECIPES[name].settings(value), path)
        if cls in TEMPERATURES.values():
            return self._encode_object("temperature", value.name, value.settings, path)
        if cls in ESTIMATORS.values():
            return self._encode_object("estimator", value.name, value.settings, path)
        text = " ".join(repr(value).split())[:200]
        warnings.warn(
            f"{'.'.join(path)} is saved as a name only, loading will need custom_objects or trusted=True: {text}.",
            stacklevel=2,
        )
        return {"type": "unresolved", "name": _import_name(value), "repr": text}

    def _encode_all(self, values: Iterable[Any], path: KeyPath) -> list[Any]:
        return [self.encode(value, (*path, str(i))) for i, value in enumerate(values)]

    def _encode_dict(self, value: dict[Any, Any], path: KeyPath) -> dict[str, Any]:
        values = {key: self.encode(item, (*path, str(key))) for key, item in value.items()}
        if "type" not in values and all(type(key) is str for key in values):
            return values
        return {"type": "dict", "items": [[self.encode(key, path), node] for key, node in values.items()]}

    def _encode_object(self, kind: str, name: str, settings: dict[str, Any], path: KeyPath) -> dict[str, Any]:
        return {"type": kind, "name": name, "settings": self.encode(settings, path)}

    def _encode_tensor(self, value: Tensor, path: KeyPath) -> dict[str, Any]:
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise TypeError(f"tree must hold dense tensors with data, but got {_describe(value)} at {_dotted(path)}.")
        dense = value.detach().cpu().resolve_conj().resolve_neg()
        if dense.dtype in _STORED_AS:
            dense = dense.view(_STORED_AS[dense.dtype])
        try:
            array = dense.numpy()
        except TypeError:
            raise TypeError(
                f"tree must hold tensors of numbers, but got {_describe(value)} at {_dotted(path)}."
            ) from None
        return {"type": "torch.tensor", "index": self._add(array, path), "dtype": str(value.dtype)}

    def _add(self, array: np.ndarray, path: KeyPath) -> int:
        if array.dtype.hasobject:
            raise TypeError(f"tree must hold arrays of numbers, but got dtype {array.dtype} at {_dotted(path)}.")
        self.arrays.append(array)
        return len(self.arrays) - 1


def _write(file: BinaryIO, text: str, arrays: list[np.ndarray]) -> None:
    # Stored, not deflated: 1 MB of weights takes 0.6 ms instead of 42 ms, and is only 9% larger. The default ZipInfo
    # has no clock in it.
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(DOCUMENT), text)
        for index, array in enumerate(arrays):
            with archive.open(zipfile.ZipInfo(_array_name(index)), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _import_name(value: Any) -> str | None:
    """Return "module:qualname" of a class or function that can be imported by it, else None."""
    module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not (isinstance(module, str) and isinstance(qualname, str)):
        return None
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return f"{module}:{qualname}" if found is value else None


# Reading


def _read(file: BinaryIO, name: str, device: torch.device, trusted: bool, replace: Mapping[str, Any]) -> Any:
    try:
        size = file.seek(0, os.SEEK_END)
        with zipfile.ZipFile(file) as archive:
            root = _read_document(archive, name)["tree"]
            declared = sum(member.file_size for member in archive.infolist())
            if declared > size:
                raise ValueError(f"its members have {declared} bytes, but the file has {size}")
            return _Decoder(archive, name, size, device, trusted, replace).decode(root, ())
    except (CheckpointError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # damaged bytes make zipfile, json and NumPy raise many kinds
        raise CheckpointError(
            f"{name}: not a whole gsrl checkpoint ({type(error).__name__}: {error}); check the path or use another copy"
        ) from error


def _read_document(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    """Return what `checkpoint.json` holds, once it is known to be ours and not of a newer format."""
    names = archive.namelist()
    if "_stable_baselines3_version" in names:
        raise CheckpointError(
            f"{name}: saved by Stable-Baselines3, not by gsrl; load it with the Stable-Baselines3 class that saved it"
        )
    if DOCUMENT not in names:
        raise CheckpointError(f"{name}: a zip file that is no gsrl checkpoint, as it has no {DOCUMENT}; check the path")
    with _open(archive, DOCUMENT) as member:
        document = json.loads(member.read())
    if document["format"] != FORMAT:
        raise CheckpointError(f"{name}: its format is {document['format']!r}, not {FORMAT!r}; check the path")
    if document["version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{name}: written by gsrl {document['gsrl']} in format {document['version']}, but this gsrl {__version__} "
            f"reads formats up to {FORMAT_VERSION}; upgrade gsrl"
        )
    return dict(document)


def _open(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """Open a member of the archive. Nothing is extracted to the disk."""
    # Ours are never compressed: a small file cannot unfold into a huge one.
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return archive.open(name)


class _Decoder:
    """Builds a tree from JSON nodes and the arrays of an archive."""

    def __init__(
        self,
        archive: zipfile.ZipFile,
        file: str,
        size: int,
        device: torch.device,
        trusted: bool,
        replace: Mapping[str, Any],
    ) -> None:
        self.archive = archive
        self.file = file
        self.size = size
        self.indices: set[int] = set()
        self.device = device
        self.trusted = trusted
        self.replace = replace

    def decode(self, node: Any, path: KeyPath) -> Any:
        """Return the value of a JSON node."""
        match node:
            case None | bool() | int() | float() | str():
                return node
            case list():
                return self._decode_all(node, path)
            case {"type": "float", "value": str(text)}:
                return float(text)
            case {"type": "tuple", "items": list(items)}:
                return tuple(self._decode_all(items, path))
            case {"type": "deque", "items": list(items), "maxlen": maxlen}:
                return deque(self._decode_all(items, path), maxlen)
            case {"type": "dict", "items": list(items)}:
                return self._decode_dict([(self.decode(key, path), item) for key, item in items], path)
            case {"type": "torch.tensor", "index": int(index), "dtype": str(dtype)}:
                tensor = torch.from_numpy(self._array(index))
                return (tensor.view(_VIEWED_AS[dtype]) if dtype in _VIEWED_AS else tensor).to(self.device)
            case {"type": "numpy.array", "index": int(index)}:
                return self._array(index)
            case {"type": "numpy.scalar", "index": int(index)}:
                return self._array(index)[()]
            case {"type": "numpy.dtype", "name": str(name)}:
                return np.dtype(name)
            case {"type": "torch.dtype", "name": str(name)}:
                return _TORCH_DTYPES[name]
            case {"type": "torch.device", "name": str(name)}:
                return torch.device(name)
            case {"type": "class", "name": str(name)}:
                return self._class(name, path)
            case {"type": "object", "name": str(name), "settings": dict(settings)}:
                return self._build(_RECIPES[name].build, settings, path)
            case {"type": "temperature", "name": str(name), "settings": dict(settings)}:
                return self._build(functools.partial(make_temperature, name), settings, path)
            case {"type": "estimator", "name": str(name), "settings": dict(settings)}:
                if name not in ESTIMATORS:
                    raise self._error(
                        path,
                        f"names the estimator {name!r}, which is not registered: import what registers it first, see "
                        f"gsrl.estimators.register_estimator, or {_replacement(path)}",
                    )
                return self._build(functools.partial(self._estimator, name), settings, path)
            case {"type": "unresolved", "name": str() | None as name, "repr": str(text)}:
                return self._unresolved(name, text, path)
            case {"type": kind}:
                raise self._error(
                    path, f"holds a malformed node of type {kind!r}: the file is damaged, use another copy"
                )
            case _:
                return self._decode_dict(node.items(), path)

    def _decode_all(self, nodes: list[Any], path: KeyPath) -> list[Any]:
        return [self.decode(node, (*path, str(i))) for i, node in enumerate(nodes)]

    def _decode_dict(self, items: Iterable[tuple[Any, Any]], path: KeyPath) -> dict[Any, Any]:
        replace = self.replace if path == () else {}
        return {key: replace[key] if key in replace else self.decode(node, (*path, str(key))) for key, node in items}

    def _array(self, index: int) -> np.ndarray:
        name = _array_name(index)
        if index in self.indices:
            raise ValueError(f"{name} stands there twice")
        self.indices.add(index)
        with _open(self.archive, name) as member:
            declared = _declared_size(member)
        if declared != self.archive.getinfo(name).file_size:
            raise ValueError(f"{name} says that it has {declared} bytes, but it has another number")
        with _open(self.archive, name) as member:
            array = np.lib.format.read_array(member, allow_pickle=False)
            # The checksum is compared when the end is read.
            if member.read(1):
                raise ValueError(f"{_array_name(index)} has bytes after its array")
        return array

    def _estimator(self, name: str, **settings: Any) -> Estimator:
        if "n" in settings:  # it has a network, whose tensors are in the file as well
            n, K, width = (settings.get(size, 32) for size in ("n", "K", "width"))
            if (n * K + width) * width > max(self.size, SMALL):
                raise ValueError(f"its network of {n} x {K} inputs, {width} wide, is larger than the file")
        return make_estimator(name, **settings)

    def _class(self, name: str, path: KeyPath) -> type:
        name = _EARLIER_NAMES.get(name, name)
        for home in _HOMES.get(name.rpartition(".")[0], ()):
            if name not in _CLASSES:
                importlib.import_module(home)
        cls = _CLASSES.get(name)
        if cls is None:
            raise self._error(
                path, f"names the class {name}, which is not one of those gsrl restores: {_replacement(path)}"
            )
        return cls

    def _build(self, make: Callable[..., Any], settings: dict[str, Any], path: KeyPath) -> Any:
        values = self.decode(settings, path)
        try:
            return make(**values)
        except Exception as error:
            raise self._error(path, f"cannot be built ({error}): {_replacement(path)}") from error

    def _unresolved(self, name: str | None, text: str, path: KeyPath) -> Any:
        if name is None:
            raise self._error(
                path,
                f"holds {text}, which has no name to import it by, so gsrl cannot restore it: {_replacement(path)}",
            )
        if not self.trusted:
            raise self._error(
                path,
                f"holds {name} ({text}), which gsrl does not restore by itself: {_replacement(path)}, or pass "
                f"trusted=True to import it, which runs its code, if you trust where the file came from",
            )
        module, _, qualname = name.partition(":")
        try:
            value: Any = importlib.import_module(module)
            for part in qualname.split("."):
                value = getattr(value, part)
        except Exception as error:
            raise self._error(
                path, f"holds {name}, which cannot be imported ({error}): {_replacement(path)}"
            ) from error
        return value

    def _error(self, path: KeyPath, message: str) -> CheckpointError:
        return CheckpointError(f"{self.file}: {_dotted(path)} {message}")


def _declared_size(member: IO[bytes]) -> int:
    """Bytes of a ``.npy`` member by its own header, which is read; nothing is allocated for the array."""
    version = np.lib.format.read_magic(member)
    # Versions 2 and 3 differ in the encoding of field names alone.
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    return member.tell() + math.prod(shape) * dtype.itemsize


# Both


def _leaves(tree: Any) -> list[Any]:
    """What stands in the dicts, lists and tuples of a tree, at any depth."""
    leaves, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            waiting += node.values()
        elif isinstance(node, list | tuple | deque):
            waiting += node
        else:
            leaves.append(node)
    return leaves


def _lists(tree: Any) -> list[Any]:
    """The lists and tuples in a tree, at any depth."""
    lists, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            waiting += node.values()
        elif isinstance(node, list | tuple):
            lists.append(node)
            waiting += node
    return lists


def _array_name(index: int) -> str:
    return f"arrays/{index}.npy"


def _dotted(path: KeyPath) -> str:
    return ".".join(path) or "the tree"


def _replacement(path: KeyPath) -> str:
    """Say how the caller can do without the value at `path`."""
    if not path:
        return "save something else in its place"
    return f"pass custom_objects={{{json.dumps(path[0])}: ...}} to put something in its place"


def _describe(tensor: Tensor) -> str:
    return f"a tensor of {tensor.dtype}, {tensor.layout} on {tensor.device}"


def file_name(path: Any) -> str:
    return os.fspath(path) if isinstance(path, str | os.PathLike) else str(getattr(path, "name", "the file"))


def _check_entries(value: Any, expected: Any, path: KeyPath) -> None:
    if isinstance(expected, Mapping) and expected:
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{_dotted(path)} must be a dict, but got {type(value).__name__}")
        for key, item in expected.items():
            if key in value:
                if value[key] is not None:
                    _check_entries(value[key], item, (*path, str(key)))
            elif not isinstance(item, Mapping) or item:
                raise CheckpointError(f"{_dotted((*path, str(key)))} is missing")
    elif isinstance(expected, Tensor) and isinstance(value, Tensor) and value.shape != expected.shape:
        raise CheckpointError(f"{_dotted(path)} has shape {list(value.shape)}, but must have {list(expected.shape)}")
