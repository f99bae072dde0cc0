"""Files of others: whatever is wrong in one is a `CheckpointError`, and costs no more than its size says."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import resource
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch

from gsrl import DiscreteSAC, Population, Reinforce, checkpoint
from gsrl.checkpoint import CheckpointError
from gsrl.comms import DIAL, Channel, LewisGame, SignallingGame
from gsrl.comms.riddle import SwitchRiddle

KINDS = (
    "DiscreteSAC",
    "Reinforce",
    "Population",
    "SignallingGame",
    "DIAL",
    "replay buffer",
    "parameters",
    "policy",
    "actor",
)
Loader = Callable[[io.BytesIO], Any]


@cache
def saved(kind: str) -> tuple[bytes, Loader]:
    """A small file of a kind, and what loads such a file and uses what it has loaded."""
    torch.set_num_threads(1)
    file = io.BytesIO()
    observations = np.zeros((3, 4), np.float32)
    if kind in ("DiscreteSAC", "Reinforce", "replay buffer", "parameters", "policy", "actor"):
        cls: Any = Reinforce if kind == "Reinforce" else DiscreteSAC
        more = {"n_episodes": 2} if kind == "Reinforce" else {"buffer_size": 50, "learning_starts": 5, "batch_size": 4}
        agent = cls("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **more)
        agent.learn(10)
        if kind == "replay buffer":
            agent.save_replay_buffer(file)
            return file.getvalue(), lambda file: agent.load_replay_buffer(file) or agent.replay_buffer.sample(4)
        if kind in ("policy", "actor"):
            part = agent.policy if kind == "policy" else agent.policy.actor
            part.save(file)
            load_part = partial(type(part).load, device="cpu")
            return file.getvalue(), lambda file: load_part(file)(torch.zeros(3, 4))
        agent.save(file)
        if kind == "parameters":
            return file.getvalue(), lambda file: agent.set_parameters(file)
        return file.getvalue(), lambda file: cls.load(file, device="cpu").predict(observations)
    if kind == "Population":
        more = {"buffer_size": 50, "learning_starts": 5, "batch_size": 4, "policy_kwargs": {"net_arch": [8]}}
        population = Population(DiscreteSAC, "CartPole-v1", [0, 1], device="cpu", **more)
        population.learn(10)
        population.save(file)
        load = partial(Population.load, algorithm=DiscreteSAC, env="CartPole-v1", device="cpu")
        return file.getvalue(), lambda file: load(file).predict(np.zeros((2, 4), np.float32))
    if kind == "SignallingGame":
        games = SignallingGame(LewisGame(4), Channel(4), seeds=[0, 1], hidden=8, batch_size=8, device="cpu")
        games.learn(2)
        games.save(file)
        return file.getvalue(), lambda file: SignallingGame.load(file, device="cpu").evaluate()
    make = partial(SwitchRiddle, 3)
    teams = DIAL(make, [0, 1], hidden=8, batch_size=4, device="cpu")
    teams.learn(4)
    teams.save(file)
    return file.getvalue(), lambda file: DIAL.load(file, make, device="cpu").evaluate(2)


VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    3,
    10**6,
    10**10,
    10**400,
    2.5,
    "",
    "mlp",
    "../x",
    "auto_1e400",
    "policy.__class__",
    [],
    {},
    [[]],
    [10**9] * 3,
    [8] * 2000,
    {"type": "float", "value": "nan"},
    {"type": "class", "name": "torch.nn.Transformer"},
    {"type": "class", "name": "gsrl.DiscreteSACPolicy"},
    {"type": "class", "name": "gsrl.comms.games.LewisGame"},
    {"type": "estimator", "name": "relax", "settings": {"n": 1, "K": 10**9}},
    {"type": "estimator", "name": "rloo", "settings": {"num_samples": 10**9}},
    {"type": "estimator", "name": "exact", "settings": {}},
    {"type": "object", "name": "gymnasium.spaces.Discrete", "settings": {"n": 10**12, "start": 0, "dtype": None}},
    {"type": "object", "name": "gymnasium.spaces.MultiBinary", "settings": {"n": 10**9}},
    {"type": "torch.tensor", "index": 0, "dtype": "torch.float32"},
    {"type": "numpy.array", "index": 0},
    {"type": "deque", "items": [], "maxlen": 10**30},
]
HEADERS = [
    ("<f4", (10**12,)),
    ("<f4", (10**5, 10**5)),
    ("<f4", (0, 10**12)),
    ("|V1000000000", (1,)),
    ("<f8", (3, 2)),
    ("<U9", (4,)),
    ("<c8", (2,)),
    ("|O", (1,)),
    ("|b1", ()),
]


def nodes(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a document, with each of its keys."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from nodes(node[key])


def mutated(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A file of which one thing is changed, and which."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    document = json.loads(members["checkpoint.json"])
    arrays = [name for name in members if name.endswith(".npy")]
    kind = rng.choice(["node", "node", "node", "node", "delete", "header", "member"])
    what: Any
    if kind in ("node", "delete"):
        container, key = rng.choice(list(nodes(document["tree"])))
        what = key
        if kind == "node":
            container[key] = copy.deepcopy(rng.choice(VALUES))
            what = key, container[key]
        else:
            del container[key]
    elif kind == "header":
        name, (description, shape) = rng.choice(arrays), rng.choice(HEADERS)
        buffer = io.BytesIO()
        header = {"descr": description, "fortran_order": rng.random() < 0.2, "shape": shape}
        np.lib.format.write_array_header_1_0(buffer, header)
        payload = members[name][128:]
        members[name] = buffer.getvalue() + (payload if rng.random() < 0.5 else payload[:8])
        what = name, header
    else:
        name = rng.choice(arrays)
        what = name
        del members[name]
    members["checkpoint.json"] = json.dumps(document).encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue(), f"{kind} {what}"[:300]


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_is_refused_or_loads(kind: str) -> None:
    """Seeded, so that what is found once is found again."""
    content, load = saved(kind)
    load(io.BytesIO(content))
    rng = random.Random(kind)
    rounds = 30
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for _ in range(rounds):
        file, what = mutated(content, rng)
        with warnings.catch_warnings(action="ignore"):
            try:
                load(io.BytesIO(file))
            except CheckpointError:
                refused += 1
            except Exception as error:
                raise AssertionError(f"{kind}, {what}: {type(error).__name__}: {error}") from error
    assert refused > rounds / 3
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 300, f"{grown} MiB for files of {len(content)} bytes"


# What each kind of cost, and of fault, comes to


def rewritten(content: bytes, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> io.BytesIO:
    """A file with another tree, or other arrays."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    document = json.loads(members.pop("checkpoint.json"))
    change(document["tree"], members)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("checkpoint.json", json.dumps(document))
        for name, data in members.items():
            archive.writestr(name, data)
    return file


def with_settings(**settings: Any) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    return lambda tree, members: tree.update(settings)


def space(name: str, **settings: Any) -> dict[str, Any]:
    return {"type": "object", "name": f"gymnasium.spaces.{name}", "settings": settings}


DTYPE = {"type": "numpy.dtype", "name": "<i8"}


@pytest.mark.parametrize("kind", ["DiscreteSAC", "Reinforce"])
@pytest.mark.parametrize(
    "settings",
    [
        {"policy_kwargs": {"net_arch": [100_000, 100_000]}},
        {"policy_kwargs": {"net_arch": [10**9]}},
        {"policy_kwargs": {"net_arch": [8] * 2_000}},
        {"action_space": space("Discrete", n=10**12, start=0, dtype=DTYPE)},
        {"action_space": space("MultiBinary", n=10**12)},
        {"observation_space": space("Discrete", n=10**12, start=0, dtype=DTYPE)},
        {"observation_space": space("MultiBinary", n=10**12)},
        {"n_envs": 10**12},
        {"stats_window_size": "x"},
    ],
)
def test_nothing_is_built_that_the_parameters_do_not_fill(kind: str, settings: dict[str, Any]) -> None:
    content, load = saved(kind)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            load(rewritten(content, with_settings(**settings)))
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    finally:
        tracemalloc.stop()


def test_an_array_is_read_once() -> None:
    """A reference is not a copy: a small file named one array many times, and took as many times its memory."""
    content, load = saved("DiscreteSAC")
    array = {"type": "numpy.array", "index": 0}
    with pytest.raises(CheckpointError, match=r"arrays/0.npy stands there twice"):
        load(rewritten(content, with_settings(more=[array] * 10_000)))


def test_members_that_lie_over_one_another_are_refused() -> None:
    file = io.BytesIO()
    checkpoint.save(file, {"a": np.zeros(1000)})
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo("arrays/0.npy")
    # A second entry of the directory for the same bytes.
    with zipfile.ZipFile(file, "a") as archive:
        again = copy.copy(info)
        again.filename = "arrays/1.npy"
        archive.filelist.append(again)
        archive.NameToInfo[again.filename] = again
        archive._didModify = True
    with pytest.raises(CheckpointError, match=r"its members have .* bytes, but the file has"):
        checkpoint.load(file)


@pytest.mark.parametrize("kind", ["DiscreteSAC", "Reinforce", "Population", "SignallingGame", "DIAL"])
def test_parameters_that_are_not_finite_are_told(kind: str) -> None:
    content, load = saved(kind)

    def spoil(tree: dict[str, Any], members: dict[str, bytes]) -> None:
        member = tree if kind in ("DiscreteSAC", "Reinforce") else tree["members"][0]
        state = member.get("agents", member.get("loss")) or member["parameters"]["policy"]
        index = next(iter(state.values()))["index"]
        array = np.lib.format.read_array(io.BytesIO(members[f"arrays/{index}.npy"]))
        array[...] = np.nan
        buffer = io.BytesIO()
        np.save(buffer, array)
        members[f"arrays/{index}.npy"] = buffer.getvalue()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.suppress(ValueError):  # it cannot act
            load(rewritten(content, spoil))
    assert any("parameters that are not finite, such as" in str(warning.message) for warning in caught)


def test_a_folder_that_learn_would_write_to_is_told() -> None:
    content, _ = saved("Reinforce")
    file = rewritten(content, with_settings(tensorboard_log="/somewhere"))
    with pytest.warns(UserWarning, match=r"learn writes its TensorBoard log to '/somewhere': give tensorboard_log="):
        Reinforce.load(file, device="cpu")
    with warnings.catch_warnings(action="error"):
        assert Reinforce.load(file, device="cpu", tensorboard_log=None).tensorboard_log is None
        Reinforce.load(file, device="cpu", trusted=True)


def test_names_of_parameters_are_no_paths_of_attributes() -> None:
    content, load = saved("parameters")

    def add(tree: dict[str, Any], members: dict[str, bytes]) -> None:
        tree["parameters"]["policy.actor"] = {}

    with pytest.raises(CheckpointError, match=r"parameters must be of .* but got .*'policy.actor'"):
        load(rewritten(content, add))
