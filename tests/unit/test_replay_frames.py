"""Frames that are stored once: what is sampled and saved is what a buffer of whole observations has, to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecTransposeImage

from gsrl import DiscreteSAC, Population
from gsrl.algorithms.extractors import SmallCNN
from gsrl.replay import ReplayBuffer, Stack, stack_of
from tests.common.replay import TWO, assert_same_batch, assert_same_state, everything, generators


class Stacks:
    """Stacked frames of random episodes, of W environments, that now and then are not what a wrapper would show."""

    def __init__(self, count: int, axis: int, frame: tuple[int, ...], dtype: Any, width: int, faults: float) -> None:
        self.count, self.axis, self.frame, self.dtype = count, axis, frame, dtype
        self.rng, self.faults = np.random.default_rng([count, width]), faults
        shape = list(frame)
        shape[axis] *= count
        self.space = spaces.Box(0, 1 if dtype is np.bool_ else 255, tuple(shape), dtype)
        self.frames = [self._reset() for _ in range(width)]

    def _draw(self) -> np.ndarray:
        if self.dtype is np.float32:
            return self.rng.choice(np.array([0.0, -0.0, 1.5], np.float32), self.frame)
        return self.rng.integers(0, 2, self.frame).astype(self.dtype)

    def _reset(self) -> list[np.ndarray]:
        first = self._draw()
        padding = [first, np.zeros_like(first), self._draw()][self.rng.integers(3)]
        return [padding] * (self.count - 1) + [first]

    def _shown(self) -> np.ndarray:
        return np.stack([np.concatenate(each, axis=self.axis) for each in self.frames])

    def step(self) -> tuple[Any, ...]:
        """Arguments of ``add``."""
        before = self._shown()
        width = len(self.frames)
        for env, each in enumerate(self.frames):
            self.frames[env] = [*each[1:], self._draw()]
        after = self._shown()
        terminated, truncated = (self.rng.random(width) < 0.15 for _ in range(2))
        for env in np.flatnonzero(terminated | truncated | (self.rng.random(width) < self.faults)).tolist():
            self.frames[env] = self._reset()  # by a fault, in the middle of an episode
        infos = [
            {"TimeLimit.truncated": bool(cut and not over)} for over, cut in zip(terminated, truncated, strict=True)
        ]
        actions, rewards = self.rng.integers(0, 2, width), self.rng.normal(size=width)
        return before, after, actions, rewards, terminated | truncated, infos


def twins(stacks: Stacks, **settings: Any) -> tuple[ReplayBuffer, ReplayBuffer]:
    """Buffers with and without frames that are stored once."""
    stack = Stack(stacks.count, stacks.axis)
    made = []
    for each in (stack, None):
        members = settings.get("num_members")
        generator: Any = np.random.default_rng(0) if members is None else generators(members)
        made.append(ReplayBuffer(settings["rows"] * settings["n_envs"], stacks.space, TWO, n_envs=settings["n_envs"],
                                 n_steps=3, stepwise=settings["stepwise"], num_members=members, stack=each,
                                 generator=generator))  # fmt: skip
    return made[0], made[1]


SHAPES = {
    "bool, channels last": (4, -1, (3, 3, 2), np.bool_),
    "uint8, channels first": (3, 0, (1, 4, 4), np.uint8),
    "one frame": (1, 0, (5,), np.bool_),
    "signed zeros, a vector": (2, -1, (3,), np.float32),
    "longer than the ring": (9, 0, (1, 2), np.uint8),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("n_envs", "members", "rows"), [(1, None, 1), (1, None, 7), (3, None, 2), (2, 2, 5)])
def test_everything_is_reconstructed_round_the_end_of_the_ring(
    name: str, n_envs: int, members: int | None, rows: int
) -> None:
    stacks = Stacks(*SHAPES[name], width=n_envs * (members or 1), faults=0.1)
    how = {"n_envs": n_envs, "num_members": members, "rows": rows, "stepwise": rows == 5}
    once, whole = twins(stacks, **how)
    for step in range(3 * rows + 25):
        given = stacks.step()
        once.add(*given)
        whole.add(*given)
        given[0][:] = 0  # nobody holds what was given
        given[1][:] = 0
        if step % 9 == 4:
            once.end_episodes()
            whole.end_episodes()
        if members is None:
            assert_same_batch(everything(once), everything(whole))
        assert_same_batch(once.sample(16), whole.sample(16))
        if step % 6 == 5:
            state = once.state_dict()
            loaded, _ = twins(stacks, **how)
            loaded.load_state_dict(copy.deepcopy(state))
            assert_same_state(loaded.state_dict(), state)
            once = loaded  # which goes on
    if members is not None:
        alone, other = twins(stacks, **{**how, "num_members": None})
        alone.load_state_dict(once.member_state(1))
        other.load_state_dict(whole.member_state(1))
        assert_same_batch(everything(alone), everything(other))
        swapped, reference = twins(stacks, **how)
        swapped.load_members(once, [1, 0])
        reference.load_members(whole, [1, 0])
        assert_same_batch(swapped.sample(16), reference.sample(16))
    once.reset()
    assert len(once) == 0
    once.add(*stacks.step())


def test_a_state_that_does_not_fit_is_refused() -> None:
    stacks = Stacks(4, -1, (3, 3, 2), np.bool_, width=1, faults=0.0)
    how: dict[str, Any] = {"n_envs": 1, "rows": 12, "stepwise": False}
    once, whole = twins(stacks, **how)
    for _ in range(15):
        once.add(*stacks.step())
    good = once.state_dict()
    fresh, _ = twins(stacks, **how)

    def changed(change: Callable[[Any], Any]) -> Any:
        state = copy.deepcopy(good)
        change(state)
        return state

    for change, message in [
        (lambda state: state.pop("kept"), "must have the entry 'kept'"),
        (lambda state: state["kept"].pop("ends"), r"state\['kept'\] must have the entries"),
        (lambda state: state["kept"].update(stack=3), r"state\['kept'\]\['stack'\] must be 4, but got 3"),
        (lambda state: state["kept"].update(starts=state["kept"]["starts"][1:]), r"\['starts'\] must be the \d+ ind"),
        (lambda state: state["kept"].update(ends_frames=np.zeros(3)), "'ends_frames'.* must be an array uint8"),
        (lambda state: state["linked"].fill(True), "episodes that begin and end in the ring"),
        (lambda state: state["ages"].__setitem__(slice(None), 2), "episodes that begin and end in the ring"),
    ]:
        with pytest.raises(ValueError, match=message):
            fresh.load_state_dict(changed(change))
    assert len(fresh) == 0
    with pytest.raises(ValueError, match=r"state must have the entry .kept."):
        fresh.load_state_dict(whole.state_dict())
    for wrong in (Stack(5), Stack(4, 1), Stack(0)):
        with pytest.raises(ValueError, match="stack must be of frames along the first or the last axis"):
            ReplayBuffer(4, stacks.space, TWO, stack=wrong, generator=np.random.default_rng(0))
    with pytest.raises(ValueError, match="stack must be None for a Dict"):
        ReplayBuffer(4, spaces.Dict({"x": stacks.space}), TWO, stack=Stack(), generator=np.random.default_rng(0))


def bytes_of(state: Any) -> int:
    if isinstance(state, dict):
        return sum(bytes_of(value) for name, value in state.items() if name != "generator")
    return state.nbytes if isinstance(state, np.ndarray) else 0


@pytest.mark.parametrize(("count", "channels"), [(1, 4), (4, 4), (1, 10), (4, 10)])
def test_bytes_of_a_transition(count: int, channels: int) -> None:
    """Of MinAtar: 61 to 136 MB for a million transitions, stacked or not, where 809 to 8,009 MB were."""
    stacks = Stacks(count, -1, (10, 10, channels), np.bool_, width=1, faults=0.0)
    once, whole = twins(stacks, n_envs=1, rows=300, stepwise=False)
    for _ in range(320):
        given = stacks.step()
        once.add(*given)
        whole.add(*given)
    frame = (100 * channels + 7) // 8
    state = once.state_dict()
    begun, ended = (len(state["kept"][name]) for name in ("starts", "ends"))
    apart = begun * ((count - 1) * frame + 8) + ended * (count * frame + 8)
    assert bytes_of(state) + once.closed.nbytes == 300 * (frame + 1 + 10) + apart
    assert bytes_of(whole.state_dict()) + whole.closed.nbytes == 300 * (2 * 100 * channels * count + 1 + 8)
    ends = int((state["terminated"] | state["truncated"]).sum())
    assert abs(ended - ends) <= 1
    assert (begun == 0) if count == 1 else abs(begun - ends) <= 1
    million = 10**6 * ((frame + 1 + 10) + ((2 * count - 1) * frame + 16) / 20)  # of episodes of 20 steps
    assert million < 200e6


class Corridor(gym.Env[Any, np.int64]):
    """Noise on a few pixels, with episodes that end by chance, or are cut."""

    action_space = spaces.Discrete(2)

    def __init__(self, shape: tuple[int, ...] = (6, 6, 1), dtype: Any = np.uint8) -> None:
        self.observation_space = spaces.Box(0, 255 if dtype is np.uint8 else 1, shape, dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._draw(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self._draw(), float(action), self.np_random.random() < 0.1, self.np_random.random() < 0.1, {}

    def _draw(self) -> np.ndarray:
        space: Any = self.observation_space
        return self.np_random.integers(0, 2, space.shape).astype(space.dtype)


def large() -> VecEnv:
    return DummyVecEnv([lambda: Corridor((36, 36, 1))] * 2)


WRAPPED: dict[str, tuple[Callable[[], VecEnv], Stack]] = {
    "none": (lambda: DummyVecEnv([Corridor] * 2), Stack()),
    "of a vector": (lambda: VecFrameStack(large(), 4), Stack(4, -1)),
    "transposed before": (lambda: VecFrameStack(VecTransposeImage(large()), 4), Stack(4, 0)),
    "transposed after": (lambda: VecTransposeImage(VecFrameStack(large(), 4)), Stack(4, 0)),
    "of gymnasium": (lambda: DummyVecEnv([lambda: FrameStackObservation(Corridor((6, 6)), 3)] * 2), Stack(3, 0)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_stacks_are_found_and_agents_learn_to_the_same_bits(name: str) -> None:
    make, expected = WRAPPED[name]
    assert stack_of(make()) == expected
    policy = {"features_extractor_class": SmallCNN, "features_extractor_kwargs": {"channels": 2, "features_dim": 4}}
    settings: dict[str, Any] = {"buffer_size": 30, "learning_starts": 10, "batch_size": 8, "seed": 0, "device": "cpu"}
    models = [
        DiscreteSAC("CnnPolicy", make(), policy_kwargs=policy, optimize_memory_usage=once, **settings)
        for once in (True, False)
    ]
    for each in models:
        each.learn(40).learn(20)
    once = models[0].replay_buffer
    assert once is not None
    assert (once.columns["ages"].reshape(-1) > 0).mean() > 0.3  # most rows do go on
    for key, value in models[0].policy.state_dict().items():
        assert torch.equal(value, models[1].policy.state_dict()[key])


def test_populations_and_files(tmp_path: Any) -> None:
    def make() -> gym.Env:
        return FrameStackObservation(Corridor((6, 6)), 3)

    kwargs = {"features_extractor_class": SmallCNN, "features_extractor_kwargs": {"channels": 2, "features_dim": 4}}
    settings: dict[str, Any] = {"buffer_size": 30, "learning_starts": 10, "batch_size": 8, "device": "cpu"}
    how = {**settings, "policy_kwargs": kwargs, "optimize_memory_usage": True}
    population: Any = Population(DiscreteSAC, make, [1, 2], policy="CnnPolicy", **how).learn(40)
    population.save(tmp_path / "population")
    loaded: Any = Population.load(tmp_path / "population", DiscreteSAC, make, device="cpu")
    assert_same_state(loaded.replay_buffer.state_dict(), population.replay_buffer.state_dict())
    member = population.member(1)
    single: Any = DiscreteSAC("CnnPolicy", make(), seed=2, **how).learn(40)
    assert_same_batch(everything(member.replay_buffer)[:3], everything(single.replay_buffer)[:3])
    single.save(tmp_path / "single", include=["replay_buffer"])
    again: Any = DiscreteSAC.load(tmp_path / "single", env=make(), device="cpu")
    assert_same_state(again.replay_buffer.state_dict(), single.replay_buffer.state_dict())
    # What was begun with whole observations goes on with them.
    how |= {"optimize_memory_usage": False}
    whole: Any = DiscreteSAC("CnnPolicy", make(), seed=2, **how).learn(40)
    again.load_state_dict(whole.state_dict())
    assert again.replay_buffer.stack is None
    assert_same_state(again.replay_buffer.state_dict(), whole.replay_buffer.state_dict())
    members: Any = Population(DiscreteSAC, make, [1, 2], policy="CnnPolicy", **how).learn(40)
    population.load_state_dict(members.state_dict())
    assert_same_state(population.replay_buffer.state_dict(), members.replay_buffer.state_dict())
    population.keep([1])
    assert population.replay_buffer.stack is None
    with pytest.raises(ValueError, match="optimize_memory_usage must be False for observations that are no Box"):
        DiscreteSAC("MlpPolicy", "FrozenLake-v1", optimize_memory_usage=True)
    with pytest.raises(AttributeError, match="the replay buffer is there"):
        single.optimize_memory_usage = False
