"""Trees of tensors, arrays, spaces, classes and settings go through a file unchanged, or are refused by name."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import zipfile
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from torch import nn

import gsrl.checkpoint as checkpoint
from gsrl import algorithms, comms
from gsrl.checkpoint import CheckpointError, load, save
from gsrl.estimators import ESTIMATORS, STGumbel, make_estimator
from gsrl.temperature import TEMPERATURES, ConstantTemperature, ExponentialTemperature
from tests.common.checkpoints import document, round_trip, same

# Round trips


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**128), 2**128),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        [
            torch.tensor(1.5, dtype=torch.bfloat16),
            torch.arange(6).reshape(2, 3).t(),
            np.array([True, False]),
            np.float32(0.1),
            np.zeros((0, 3), np.uint8),
            torch.float64,
            nn.ReLU,
        ]
    ),
)
KEYS = st.one_of(
    st.text(max_size=4), st.just("type"), st.integers(), st.booleans(), st.none(), st.tuples(st.integers())
)
TREES = st.recursive(
    LEAVES,
    lambda children: st.one_of(
        st.lists(children, max_size=4),
        st.lists(children, max_size=4).map(tuple),
        st.dictionaries(KEYS, children, max_size=4),
        st.builds(deque, st.lists(children, max_size=3), st.sampled_from([None, 2])),
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module", autouse=True)
def denormal_numbers() -> None:
    """Runs of the command line in this process turn them off, and trees hold some."""
    torch.set_flush_denormal(False)


@settings(max_examples=150, deadline=None)
@given(TREES)
def test_any_tree_round_trips(tree: Any) -> None:
    assert same(round_trip(tree), tree)


@pytest.mark.parametrize("dtype", [d for d in checkpoint._TORCH_DTYPES.values() if d.is_floating_point or d.is_complex])
def test_every_floating_dtype_is_bit_exact_or_refused(dtype: torch.dtype) -> None:
    if dtype is torch.float4_e2m1fn_x2:
        with pytest.raises(TypeError, match=r"tensors of numbers, but got a tensor of torch.float4\S* .* at w"):
            save(io.BytesIO(), {"w": torch.zeros(4, dtype=torch.uint8).view(dtype)})
        return
    tensor = torch.arange(64, dtype=torch.uint8).view(dtype)
    assert same(round_trip(tensor), tensor)


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"],
)
def test_integer_tensors(dtype: str) -> None:
    tensor = torch.tensor([[0, 1], [1, 1]], dtype=getattr(torch, dtype))
    assert same(round_trip(tensor), tensor)
    assert same(round_trip(tensor[0, 1]), tensor[0, 1])


def test_views_conjugates_and_parameters_become_plain_tensors() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    z = torch.tensor([1 + 2j])
    loaded = round_trip({"w": weight, "column": weight[:, 1], "expanded": torch.ones(1).expand(3), "z": z.conj()})
    assert type(loaded["w"]) is torch.Tensor
    assert not loaded["w"].requires_grad
    assert loaded["w"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert loaded["column"].tolist() == [2.0, 4.0]
    assert loaded["expanded"].tolist() == [1.0, 1.0, 1.0]
    assert loaded["z"].tolist() == [1 - 2j]


def test_loaded_tensors_own_their_memory() -> None:
    loaded = round_trip([torch.zeros(2), np.zeros(2)])
    loaded[0] += 1
    loaded[1] += 1
    assert loaded[0].tolist() == [1, 1]
    assert loaded[1].tolist() == [1, 1]


def test_tensors_go_to_the_device() -> None:
    assert round_trip({"a": [torch.zeros(3)]}, device="meta")["a"][0].device.type == "meta"


ARRAYS = [
    np.array([[1, 2], [3, 4]], dtype=">i2"),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array(3.0),
    np.array(["a", "longer"]),
    np.array([b"ab"]),
    np.array([np.nan, -0.0, np.inf]),
    np.array(["2024-01-01"], "datetime64[D]"),
    np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    np.frombuffer(b"\x00\x01\xff", np.uint8),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: str(a.dtype))
def test_arrays_and_their_scalars(array: np.ndarray) -> None:
    assert same(round_trip(array), array)
    scalar = array.reshape(-1)[0]
    assert same(round_trip(scalar), scalar)


@pytest.mark.parametrize(
    "dtype", [np.dtype(t) for t in ("?", "u1", "i8", "f2", "f4", ">f4", "c16", "U5", "S3", "M8[s]", "O")]
)
def test_numpy_dtypes(dtype: np.dtype) -> None:
    assert round_trip(dtype) == dtype


def test_torch_dtypes_and_devices() -> None:
    tree = [torch.float32, torch.bfloat16, torch.bool, torch.device("cpu"), torch.device("cuda", 1)]
    assert round_trip(tree) == tree


def test_generator_states_continue_the_same_numbers() -> None:
    a, t = np.random.default_rng(3), torch.Generator().manual_seed(3)
    loaded = round_trip({"numpy": a.bit_generator.state, "torch": t.get_state()})
    b, u = np.random.default_rng(0), torch.Generator()
    b.bit_generator.state = loaded["numpy"]
    u.set_state(loaded["torch"])
    assert a.integers(1000, size=5).tolist() == b.integers(1000, size=5).tolist()
    assert torch.equal(torch.rand(5, generator=t), torch.rand(5, generator=u))


def test_module_and_optimiser_states_continue_the_same_training() -> None:
    def step(model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        model(torch.tensor([[1.0, 2.0]])).pow(2).sum().backward()
        optimiser.step()

    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    adam, other = torch.optim.Adam(first.parameters()), torch.optim.Adam(second.parameters())
    step(first, adam)
    loaded = round_trip({"model": first.state_dict(), "adam": adam.state_dict()})
    second.load_state_dict(loaded["model"])
    other.load_state_dict(loaded["adam"])
    step(first, adam)
    step(second, other)
    assert torch.equal(first.weight, second.weight)


def test_ordered_dicts_and_sizes_become_plain() -> None:
    loaded = round_trip({"state": OrderedDict(b=1, a=2), "shape": torch.Size([2, 3])})
    assert same(loaded, {"state": {"b": 1, "a": 2}, "shape": (2, 3)})


SPACES: list[spaces.Space] = [
    spaces.Box(np.array([-1, -np.inf], np.float32), np.array([np.inf, 0.1], np.float32)),
    spaces.Box(0, 255, (2, 3), np.uint8),
    spaces.Box(-np.inf, np.inf, (2,), np.int32),
    spaces.Box(0, 1, (2,), np.bool_),
    spaces.Box(-(2**63), 2**63 - 2, (1,), np.int64),
    spaces.Box(0.0, 0.1, (), np.float64),
    spaces.Discrete(5, start=-2),
    spaces.Discrete(5, dtype=np.uint8),
    spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[0, -1], [2, 3]]), dtype=np.int32),
    spaces.MultiBinary(3),
    spaces.MultiBinary([2, 3]),
    spaces.Tuple([spaces.Discrete(2), spaces.Tuple([])]),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Dict({"x": spaces.MultiBinary(1)})}),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Discrete(3)}, sort_keys=False),
    spaces.Dict({"type": spaces.Discrete(2)}),
]


def attributes(value: Any) -> Any:
    """What a space is made of, as a tree, without its generator and its caches."""
    if isinstance(value, spaces.Space):
        return [type(value), attributes({k: v for k, v in vars(value).items() if k not in CACHES})]
    if isinstance(value, dict):
        return {key: attributes(item) for key, item in value.items()}
    return [attributes(item) for item in value] if isinstance(value, tuple) else value


CACHES = {"_np_random", "low_repr", "high_repr"}


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces(space: spaces.Space) -> None:
    loaded = round_trip(space)
    assert loaded == space
    assert same(attributes(loaded), attributes(space))


def test_a_subclass_of_a_space_is_not_taken_for_it() -> None:
    class Odd(spaces.Discrete):
        pass

    with pytest.raises(CheckpointError, match="no name to import it by"):
        round_trip({"action_space": Odd(3)})


def test_classes() -> None:
    tree = {
        "activation_fn": nn.ReLU,
        "optimizer_class": torch.optim.AdamW,
        "features": [NatureCNN, FlattenExtractor],
        "dtype": np.float32,
    }
    assert round_trip(tree) == tree


def test_the_file_names_classes_as_users_write_them() -> None:
    file = io.BytesIO()
    save(file, [nn.ReLU, torch.optim.Adam, FlattenExtractor, np.float32])
    assert [node["name"] for node in document(file)["tree"]] == [
        "torch.nn.ReLU",
        "torch.optim.Adam",
        "stable_baselines3.common.torch_layers.FlattenExtractor",
        "numpy.float32",
    ]


def test_a_class_is_stored_by_the_name_it_was_given_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_CLASSES", dict(checkpoint._CLASSES))
    monkeypatch.setattr(checkpoint, "_CLASS_NAMES", dict(checkpoint._CLASS_NAMES))
    files = []
    for module in ("gsrl.here", "gsrl.there"):
        policy = checkpoint.register("gsrl.Policy")(type("Policy", (nn.Module,), {"__module__": module}))
        assert round_trip(policy) is policy
        files.append(io.BytesIO())
        save(files[-1], policy)
    assert files[0].getvalue() == files[1].getvalue()
    assert load(files[0]) is policy
    assert document(files[0])["tree"] == {"type": "class", "name": "gsrl.Policy"}


def test_classes_of_gsrl_have_names_of_their_own() -> None:
    ours = {cls: name for cls, name in checkpoint._CLASS_NAMES.items() if cls.__module__.startswith("gsrl.")}
    assert set(checkpoint._EARLIER_NAMES.values()) <= set(ours.values())
    for cls, name in ours.items():
        assert checkpoint._CLASSES[name] is cls
        assert not name.startswith(cls.__module__)


@pytest.mark.parametrize("earlier", checkpoint._EARLIER_NAMES)
def test_files_that_name_classes_by_their_modules_are_read(earlier: str) -> None:
    name = earlier.rpartition(".")[2]
    public = comms if earlier.startswith("gsrl.comms.") else algorithms
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        node = {"type": "class", "name": earlier}
        archive.writestr(checkpoint.DOCUMENT, json.dumps({"format": checkpoint.FORMAT, "version": 1, "tree": node}))
    assert load(file).__name__ == name
    assert load(file) is getattr(public, name, None) or name in ("Actor", "Critics", "ValueNetwork")


def test_schedules_and_train_frequency() -> None:
    loaded = round_trip(
        {
            "lr": FloatSchedule(LinearSchedule(1e-3, 1e-4, 0.5)),
            "clip": FloatSchedule(0.2),
            "bare": ConstantSchedule(0.3),
            "train_freq": TrainFreq(4, TrainFrequencyUnit.EPISODE),
        }
    )
    assert repr(loaded["lr"]) == "FloatSchedule(LinearSchedule(start=0.001, end=0.0001, end_fraction=0.5))"
    assert loaded["lr"](0.75) == LinearSchedule(1e-3, 1e-4, 0.5)(0.75)
    assert loaded["clip"](0.1) == 0.2
    assert type(loaded["bare"]) is ConstantSchedule
    assert loaded["bare"](1.0) == 0.3
    assert same(loaded["train_freq"], TrainFreq(4, TrainFrequencyUnit.EPISODE))


def test_temperatures() -> None:
    schedule = round_trip(ExponentialTemperature(2.0, 0.5, 10))
    assert type(schedule) is ExponentialTemperature
    assert schedule.settings == {"initial": 2.0, "minimum": 0.5, "steps": 10}
    assert round_trip(ConstantTemperature(0.7)).settings == {"value": 0.7}
    assert round_trip(TEMPERATURES["state"](3, 1.0)).settings == {"in_features": 3, "maximum": 1.0}


def test_estimators() -> None:
    loaded = round_trip({"estimator": STGumbel(temperature=ExponentialTemperature(2.0, 0.5, 10))})["estimator"]
    assert type(loaded) is STGumbel
    assert loaded.settings["temperature"].settings == {"initial": 2.0, "minimum": 0.5, "steps": 10}
    assert type(round_trip(make_estimator("rloo"))) is ESTIMATORS["rloo"]


def test_a_subclass_of_an_estimator_is_not_taken_for_it() -> None:
    class Mine(STGumbel):
        pass

    with pytest.raises(CheckpointError, match=r'custom_objects=\{"estimator": ...\}'):
        round_trip({"estimator": Mine()})


# Refusals on saving


@pytest.mark.parametrize(
    ("leaf", "got"),
    [
        (np.array([None]), "dtype object"),
        (np.array([(1, None)], dtype=[("a", "i4"), ("b", "O")]), r"dtype \["),
        (torch.eye(2).to_sparse(), "torch.sparse_coo"),
        (torch.empty(2, device="meta"), "on meta"),
    ],
)
def test_what_cannot_be_stored_is_named(leaf: Any, got: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=f"tree must hold .*{got}.* at buffer.1"):
        save(tmp_path / "a.zip", {"buffer": [0, leaf]})
    assert os.listdir(tmp_path) == []


def test_a_tree_that_contains_itself() -> None:
    tree: list[Any] = []
    tree.append(tree)
    with pytest.raises(ValueError, match="tree contains itself"):
        save(io.BytesIO(), tree)


@pytest.mark.parametrize("function", [lambda path: save(path, {}), load])
def test_a_path_of_the_wrong_type(function: Any) -> None:
    with pytest.raises(TypeError, match=r"path must be a path or a .* binary file, but got int"):
        function(3)


# Files


def test_paths_folders_and_links(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "model.zip"
    save(target, {"a": 1})
    assert load(str(target)) == {"a": 1}
    link = tmp_path / "latest.zip"
    link.symlink_to(target)
    save(link, {"a": 2})
    assert link.is_symlink()
    assert load(target) == {"a": 2}
    assert os.listdir(target.parent) == ["model.zip"]


def test_the_same_tree_gives_the_same_bytes() -> None:
    files = io.BytesIO(), io.BytesIO()
    for file in files:
        save(file, {"a": torch.arange(3), "b": [1.0, nn.ReLU]})
    assert files[0].getvalue() == files[1].getvalue()


def test_no_global_random_state_is_touched(tmp_path: Path) -> None:
    before = np.random.get_state()[1].copy(), torch.get_rng_state(), random.getstate()  # type: ignore[index]
    save(tmp_path / "a.zip", {"w": torch.ones(2)})
    load(tmp_path / "a.zip")
    assert (np.random.get_state()[1] == before[0]).all()  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert random.getstate() == before[2]


def test_a_missing_file_stays_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.zip")


def full_disk(*args: Any, **kwargs: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "target", [(os, "replace"), (os, "fsync"), (np.lib.format, "write_array"), (zipfile.ZipFile, "writestr")]
)
def test_a_full_disk_leaves_the_previous_file(
    target: tuple[Any, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.zip"
    save(path, {"w": torch.zeros(3)})
    before = path.read_bytes()
    monkeypatch.setattr(*target, full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(path, {"w": torch.ones(3)})
    assert os.listdir(tmp_path) == ["model.zip"]
    assert path.read_bytes() == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
def test_a_full_device_is_an_oserror() -> None:
    with pytest.raises(OSError, match="No space left"), open("/dev/full", "wb", buffering=0) as file:
        save(file, {"w": torch.ones(3)})
