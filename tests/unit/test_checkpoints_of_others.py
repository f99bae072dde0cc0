"""Checkpoints that others wrote: of classes unknown here, of other versions, damaged and hostile."""

from __future__ import annotations

import io
import json
import pickle
import random
import sys
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import FloatSchedule

from gsrl._version import __version__
from gsrl.checkpoint import CheckpointError, check_entries, fitting, load, save
from gsrl.estimators import StraightThrough
from tests.common.checkpoints import round_trip, same
from tests.common.estimators import registered

# Unresolved values


class Extractor(FlattenExtractor):
    """A user's class that can be imported by name."""


def schedule(progress_remaining: float) -> float:
    return progress_remaining


def test_importable_classes_need_trust_or_replacement() -> None:
    file = io.BytesIO()
    save(file, {"policy_kwargs": {"net": [1], "features_extractor_class": Extractor}, "lr": FloatSchedule(schedule)})
    with pytest.raises(CheckpointError) as error:
        load(file)
    message = str(error.value)
    assert "policy_kwargs.features_extractor_class" in message
    assert f"{__name__}:Extractor" in message
    assert 'custom_objects={"policy_kwargs": ...}' in message
    assert "trusted=True" in message

    with pytest.raises(CheckpointError, match=r'lr.value_schedule holds .*custom_objects=\{"lr": ...\}'):
        load(file, replace={"policy_kwargs": {}})
    assert load(file, replace={"policy_kwargs": {}, "lr": 0.1, "absent": 1}) == {"policy_kwargs": {}, "lr": 0.1}

    trusted = load(file, trusted=True)
    assert trusted["policy_kwargs"] == {"net": [1], "features_extractor_class": Extractor}
    assert trusted["lr"](0.25) == 0.25


def test_lambdas_and_instances_need_replacement() -> None:
    for value in (lambda _: 0.1, Extractor(spaces.Box(0, 1, (2,)))):
        with pytest.raises(CheckpointError, match=r"learning_rate holds .* no name to import it by.*custom_objects"):
            round_trip({"learning_rate": value}, trusted=True)
        assert round_trip({"learning_rate": value}, replace={"learning_rate": 1}) == {"learning_rate": 1}


def test_replacement_works_in_a_dict_with_other_keys() -> None:
    tree = {"type": "mine", 3: lambda: 0, "nested": {"type": 1}}
    assert round_trip(tree, replace={"type": "yours", 3: 4}) == {"type": "yours", 3: 4, "nested": {"type": 1}}


EXPECTED: dict[str, Any] = {"a": {"w": torch.zeros(2, 3), 0: None}, "b": 1, "state": {}, "array": np.zeros(2)}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (EXPECTED, None),
        (EXPECTED | {"more": 1, "array": np.zeros(3)}, None),
        ({name: value for name, value in EXPECTED.items() if name != "state"}, None),
        (EXPECTED | {"a": None}, None),
        (EXPECTED | {"a": {"w": None, 0: torch.zeros(4)}}, None),
        ({}, "a is missing"),
        (EXPECTED | {"a": {}}, "a.w is missing"),
        (EXPECTED | {"a": {"w": torch.zeros(2, 3)}}, "a.0 is missing"),
        ({name: value for name, value in EXPECTED.items() if name != "array"}, "array is missing"),
        (EXPECTED | {"a": {"w": torch.zeros(3), 0: 1}}, "a.w has shape [3], but must have [2, 3]"),
        (EXPECTED | {"a": [1]}, "a must be a dict, but got list"),
        (None, "the tree must be a dict, but got NoneType"),
    ],
)
def test_entries(tree: Any, message: str | None) -> None:
    if message is None:
        check_entries(tree, EXPECTED)
    else:
        with pytest.raises(CheckpointError) as error:
            check_entries(tree, EXPECTED)
        assert str(error.value) == message


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CheckpointError("a.w is missing"), "a.w is missing"),
        (ValueError("pos must be 3."), "pos must be 3"),
        (KeyError("pos"), "KeyError: 'pos'"),
        (RuntimeError("size mismatch:\n\tfor w"), "RuntimeError: size mismatch: for w"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (gym.error.Error("no such space"), "Error: no such space"),
    ],
)
def test_what_does_not_fit_is_one_error_with_the_name_of_the_file(error: Exception, reason: str) -> None:
    advice = "train again, or load it with the settings and the version that wrote it"
    for path, name in ((Path("a/model.zip"), "a/model.zip"), ("model", "model"), (io.BytesIO(), "the file")):
        with pytest.raises(CheckpointError) as raised, fitting(path):
            raise error
        expected = f"{name} does not fit the settings, or this version of gsrl, {__version__}: {reason}; {advice}"
        assert str(raised.value) == expected
        assert raised.value.__cause__ is error
    with pytest.raises(PermissionError), fitting("model"):  # that is not the file's content
        raise PermissionError


def test_trust_that_cannot_be_met() -> None:
    file = written({"a": {"type": "unresolved", "name": "no_such_module:Net", "repr": "Net"}})
    with pytest.raises(CheckpointError, match="a holds no_such_module:Net, which cannot be imported"):
        load(file, trusted=True)


# Files of others, damaged and hostile


def written(tree: Any, members: dict[str, bytes] | None = None, text: str | None = None, **header: Any) -> io.BytesIO:
    """A file with any JSON and any members, as somebody else might write it."""
    file = io.BytesIO()
    content = {"format": "gsrl-checkpoint", "version": 1, "gsrl": "0", "tree": tree} | header
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("checkpoint.json", text or json.dumps(content))
        for name, data in (members or {}).items():
            archive.writestr(name, data)
    return file


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def npy_header(description: str, shape: tuple[int, ...], payload: bytes) -> bytes:
    header = repr({"descr": description, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + payload


def test_a_newer_format_says_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "new.zip"
    path.write_bytes(written({}, version=7, gsrl="9.8.7").getvalue())
    with pytest.raises(CheckpointError) as error:
        load(path)
    assert str(error.value) == (
        f"{path}: written by gsrl 9.8.7 in format 7, but this gsrl {__version__} reads formats up to 1; upgrade gsrl"
    )


def test_a_stable_baselines3_file(tmp_path: Path) -> None:
    from stable_baselines3 import DQN

    path = tmp_path / "dqn.zip"
    DQN("MlpPolicy", gym.make("CartPole-v1"), buffer_size=10).save(path)
    with pytest.raises(CheckpointError, match=r"dqn.zip: saved by Stable-Baselines3"):
        load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a zip file"),
        (b"hello", "not a zip file"),
        (pickle.dumps({"a": 1}), "not a zip file"),
        (written({}).getvalue()[:-30], "not a zip file"),
        (written({}, format="other").getvalue(), "its format is 'other'"),
        (written({}, text="[]").getvalue(), "not a whole gsrl checkpoint"),
        (written({}, text="{}").getvalue(), "not a whole gsrl checkpoint"),
        (written({}, text="{").getvalue(), "not a whole gsrl checkpoint"),
        (written({}, version="1").getvalue(), "not a whole gsrl checkpoint"),
    ],
)
def test_other_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.zip"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"file\.zip: .*{message}"):
        load(path)


def test_a_foreign_zip_and_one_of_torch(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"no gsrl checkpoint, as it has no checkpoint.json"):
        load(tmp_path / "weights.pt")


def test_compressed_members_are_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("checkpoint.json", "{}")
    with pytest.raises(CheckpointError, match=r"checkpoint.json is compressed"):
        load(file)


ONE = {"arrays/0.npy": npy(np.arange(3))}


@pytest.mark.parametrize(
    ("node", "members"),
    [
        ({"type": "numpy.array", "index": 1}, ONE),
        ({"type": "numpy.array", "index": -1}, ONE),
        ({"type": "numpy.array", "index": "0"}, ONE),
        ({"type": "numpy.array", "index": "../../x"}, {"../../x.npy": npy(np.arange(3))}),
        ({"type": "numpy.array", "index": 0}, {"arrays/0.npy": npy(np.array([1, None]), allow_pickle=True)}),
        ({"type": "numpy.array", "index": 0}, {"arrays/0.npy": npy_header("O", (1,), b"A" * 8)}),
        ({"type": "numpy.array", "index": 0}, {"arrays/0.npy": npy_header("<f4", (10**15,), b"A" * 8)}),
        ({"type": "numpy.array", "index": 0}, {"arrays/0.npy": npy_header("<f4", (-1,), b"A" * 8)}),
        ({"type": "numpy.array", "index": 0}, {"arrays/0.npy": npy_header("<f4", (1,), b"A" * 8)}),
        ({"type": "numpy.array", "index": 0}, {"arrays/0.npy": b"\x93NUMPY"}),
        ({"type": "torch.tensor", "index": 0, "dtype": "torch.int64"}, {"arrays/0.npy": npy(np.array(["a"]))}),
        ({"type": "dict", "items": [1, 2]}, {}),
        ({"type": "dict", "items": [[[], 2]]}, {}),
        ({"type": "deque", "items": [], "maxlen": "x"}, {}),
        ({"type": "deque", "items": []}, {}),
        ({"type": "float", "value": "one"}, {}),
        ({"type": "numpy.dtype", "name": "nothing"}, {}),
        ({"type": "torch.dtype", "name": "torch.load"}, {}),
        ({"type": "torch.device", "name": "toaster"}, {}),
        ({"type": "object", "name": "os.system", "settings": {}}, {}),
        ({"type": "object", "name": "gymnasium.spaces.Discrete", "settings": {"n": 0}}, {}),
        ({"type": "object", "name": "gymnasium.spaces.Discrete", "settings": {"m": 3}}, {}),
        ({"type": "object", "name": "gymnasium.spaces.Discrete", "settings": {"type": "float", "value": "nan"}}, {}),
        ({"type": "object", "name": "stable_baselines3.FloatSchedule", "settings": {"value_schedule": "x"}}, {}),
        ({"type": "temperature", "name": "constant", "settings": {"value": -1}}, {}),
        ({"type": "temperature", "name": "constant", "settings": {"name": "state"}}, {}),
        ({"type": "estimator", "name": "nothing", "settings": {}}, {}),
        ({"type": "unresolved", "name": 3, "repr": ""}, {}),
        ({"type": "pickle", "data": ""}, {}),
        ({"type": 3}, {}),
        ({"type": None}, {}),
        ({"type": ["class"]}, {}),
    ],
)
def test_malformed_nodes(node: Any, members: dict[str, bytes]) -> None:
    file = written({"a": node}, members)
    with pytest.raises(CheckpointError):
        load(file, trusted=True)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "os:system",
        "builtins.eval",
        "torch.load",
        "torch.nn.modules.sys",
        "torch.nn.modules.module.torch.hub.load",
        "torch.nn.ReLU.__init__",
        "torch.nn.ReLU ",
        "stable_baselines3.common.torch_layers.nn.ReLU",
        "",
    ],
)
def test_names_outside_the_table(name: str) -> None:
    file = written({"policy_kwargs": {"activation_fn": {"type": "class", "name": name}}})
    for trusted in (False, True):
        with pytest.raises(CheckpointError, match=r"policy_kwargs.activation_fn names the class .*custom_objects="):
            load(file, trusted=trusted)


def test_builds_that_fail_name_their_place() -> None:
    with pytest.raises(CheckpointError, match=r'estimator cannot be built \(.*\'nothing\'.*\{"estimator": ...\}'):
        load(written({"estimator": {"type": "estimator", "name": "rloo", "settings": {"nothing": 1}}}))


def test_an_estimator_is_found_where_it_is_registered_and_never_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(StraightThrough):
        name = "mine"

    file = io.BytesIO()
    with registered(Mine):
        save(file, {"estimator": Mine(0.5)})
        loaded = load(io.BytesIO(file.getvalue()))["estimator"]
        assert type(loaded) is Mine
        assert loaded.temperature() == 0.5
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"{name} is imported"))
    for trusted in (False, True):
        with pytest.raises(CheckpointError, match=r"estimator names the estimator 'mine', which is not registered: "):
            load(io.BytesIO(file.getvalue()), trusted=trusted)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_absurd_depth(opening: str, closing: str) -> None:
    for depth in (2_000, 200_000):
        tree = opening * depth + "1" + closing * depth
        text = '{"format": "gsrl-checkpoint", "version": 1, "gsrl": "0", "tree": ' + tree + "}"
        with pytest.raises(CheckpointError, match="RecursionError"):
            load(written(None, text=text))


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_hostile_files_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "executed"
    payload = pickle.dumps(Bomb(mark))
    pickle.loads(payload)
    assert mark.exists()  # the bomb works
    mark.unlink()

    (tmp_path / "hostile_module.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nNet = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    objects = npy(np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    array = {"type": "numpy.array", "index": 0}
    unresolved = {"type": "unresolved", "name": "hostile_module:Net", "repr": ""}
    files = [
        io.BytesIO(payload),
        written(array, {"arrays/0.npy": objects}),
        written(array, {"arrays/0.npy": payload}),
        written({"a": {"type": "class", "name": "hostile_module.Net"}}),
        written({"a": unresolved}),
        written({"a": {"type": "object", "name": "hostile_module:Net", "settings": {}}}),
    ]
    for file in files:
        with pytest.raises(CheckpointError):
            load(file)
    assert load(written({"a": unresolved}), replace={"a": 0}) == {"a": 0}
    assert load(written(1, {"../../x": b"", "data.pkl": payload, "/etc/x": b""})) == 1
    assert not mark.exists()
    assert "hostile_module" not in sys.modules


def test_damaged_bytes_are_noticed() -> None:
    """A changed or missing byte gives an error of ours, or (in a date, say) the same tree."""
    tree = {"w": torch.arange(100.0), "b": np.arange(7, dtype=np.uint8), "s": spaces.Discrete(3), "n": [1.5, None]}
    file = io.BytesIO()
    save(file, tree)
    content = file.getvalue()
    rng = random.Random(0)
    refused = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= rng.randrange(1, 256)
        try:
            assert same(load(io.BytesIO(damaged)), tree)
        except CheckpointError:
            refused += 1
    assert refused > len(content) / 2
    for length in range(0, len(content), 7):
        with pytest.raises(CheckpointError):
            load(io.BytesIO(content[:length]))
