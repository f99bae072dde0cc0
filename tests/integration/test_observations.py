"""Every kind of observation that DiscreteSAC learns from: stored as it was seen, learned, saved, predicted from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FilterObservation, FrameStackObservation, TransformObservation
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecTransposeImage

from gsrl import DiscreteSAC
from gsrl.algorithms.extractors import SmallCNN
from gsrl.replay import ReplayBuffer
from gsrl.vec_env import GymnasiumVecEnv

GAMMA = 0.5
MLP = {"net_arch": [16]}
CNN = {"features_extractor_kwargs": {"features_dim": 16}}
SMALL_CNN = {
    "features_extractor_class": SmallCNN,
    "features_extractor_kwargs": {"features_dim": 16, "channels": 4},
    "net_arch": [],
}
MULTI_INPUT = {"net_arch": [16], "features_extractor_kwargs": {"cnn_output_dim": 16}}


@dataclass(frozen=True)
class Kind:
    """A kind of observation, and the networks for it."""

    space: spaces.Space
    draw: Callable[[np.random.Generator, int], Any]
    """Makes an observation from which an answer, 0 or 1, can be told."""
    policy: str = "MlpPolicy"
    policy_kwargs: Any = None
    steps: int = 300
    """Enough to learn the answers."""
    learning_rate: float = 3e-3


def pixels(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


def picture(rng: np.random.Generator, answer: int, *shape: int) -> np.ndarray:
    """Noise, dark or bright."""
    return (rng.integers(0, 64, shape) + 191 * answer).astype(np.uint8)


def images(*shape: int) -> Kind:
    return Kind(pixels(*shape), lambda rng, answer: picture(rng, answer, *shape), "CnnPolicy", CNN, 160, 1e-3)


def dicts(*shape: int) -> Kind:
    """An image that holds the answer, among entries that do not."""
    entries = {
        "flags": spaces.MultiBinary(2),
        "image": pixels(*shape),
        "place": spaces.Discrete(3),
        "speed": spaces.Box(-1.0, 1.0, (2,), np.float32),
    }

    def draw(rng: np.random.Generator, answer: int) -> dict[str, Any]:
        return {
            "flags": rng.integers(0, 2, 2, dtype=np.int8),
            "image": picture(rng, answer, *shape),
            "place": rng.integers(3),
            "speed": rng.uniform(-1, 1, 2).astype(np.float32),
        }

    return Kind(spaces.Dict(entries), draw, "MultiInputPolicy", MULTI_INPUT, 240, 1e-3)


KINDS = {
    "box": Kind(
        spaces.Box(-1.0, 1.0, (3,), np.float32),
        lambda rng, answer: (np.array([2 * answer - 1, 1, -1]) * rng.uniform(0.2, 1, 3)).astype(np.float32),
    ),
    "box of two dimensions, float64": Kind(
        spaces.Box(-1.0, 1.0, (2, 2), np.float64),
        lambda rng, answer: np.array([[1, 1], [1, 2 * answer - 1]]) * rng.uniform(0.2, 1, (2, 2)),
    ),
    "discrete": Kind(spaces.Discrete(6), lambda rng, answer: 2 * rng.integers(3) + answer),
    "multi-discrete": Kind(
        spaces.MultiDiscrete([3, 2, 4]), lambda rng, answer: np.array([rng.integers(3), answer, rng.integers(4)])
    ),
    "multi-binary": Kind(
        spaces.MultiBinary(4), lambda rng, answer: np.array([*rng.integers(0, 2, 3), answer], np.int8)
    ),
    "dict of vectors": Kind(
        spaces.Dict(
            flag=spaces.MultiBinary(1), place=spaces.Discrete(3), speed=spaces.Box(-1.0, 1.0, (2,), np.float32)
        ),
        lambda rng, answer: {
            "flag": np.array([answer], np.int8),
            "place": rng.integers(3),
            "speed": rng.uniform(-1, 1, 2).astype(np.float32),
        },
        "MultiInputPolicy",
    ),
    "dict with an image, channels last": dicts(36, 36, 1),
    "dict with an image, channels first": dicts(3, 36, 36),
    "image, channels last": images(36, 36, 3),
    "image, channels first": images(3, 36, 36),
    "image, normalised": Kind(
        spaces.Box(0.0, 1.0, (1, 36, 36), np.float32),
        lambda rng, answer: picture(rng, answer, 1, 36, 36) / np.float32(255),
        "CnnPolicy",
        CNN | {"normalize_images": False},
        160,
        1e-3,
    ),
    "small image of booleans": Kind(
        spaces.Box(0, 1, (10, 10, 4), np.bool_),
        lambda rng, answer: rng.random((10, 10, 4)) < 0.2 + 0.6 * answer,
        "CnnPolicy",
        SMALL_CNN,
    ),
}


@dataclass
class Step:
    """What an environment saw of one step, without anything that came between it and the agent."""

    observation: Any
    action: int
    reward: float
    next_observation: Any
    terminated: bool
    truncated: bool


class Exam(gym.Env):
    """The right answer to an observation earns 1. Everything that happens is kept in a diary.

    Episodes take 1 to 5 steps in turn; their ends are terminations, truncations and both, in turn.
    """

    def __init__(self, kind: Kind) -> None:
        self.draw = kind.draw
        self.observation_space = kind.space
        self.action_space = spaces.Discrete(2)
        self.episodes = 0
        self.diary: list[Step] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episodes += 1
        self.time = 0
        self.ask()
        return self.observation, {}

    def ask(self) -> None:
        self.answer = int(self.np_random.integers(2))
        self.observation = self.draw(self.np_random, self.answer)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward = self.observation, float(action == self.answer)
        self.ask()
        self.time += 1
        over, ending = self.time == self.episodes % 5 + 1, self.episodes % 3
        terminated, truncated = over and ending in (0, 2), over and ending in (1, 2)
        self.diary.append(Step(observation, int(action), reward, self.observation, terminated, truncated))
        return self.observation, reward, terminated, truncated, {}

    def paper(self, size: int = 64) -> tuple[Any, np.ndarray]:
        """A batch of fresh observations, and the right answers."""
        rng = np.random.default_rng(99)
        answers = rng.integers(0, 2, size)
        drawn = [self.draw(rng, int(answer)) for answer in answers]
        return stack(drawn), answers


def stack(observations: list[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.stack([observation[key] for observation in observations]) for key in observations[0]}
    return np.stack(observations)


def make_model(kind: Kind, env: Any, policy_kwargs: Any = None, **settings: Any) -> DiscreteSAC:
    networks = {"layer_norm": False, "normalize_observations": False}
    networks |= policy_kwargs or kind.policy_kwargs or MLP
    defaults: dict[str, Any] = {
        "policy": kind.policy,
        "learning_rate": kind.learning_rate,
        "gradient_steps": -1,
        "buffer_size": 1000,
        "learning_starts": 40,
        "batch_size": 32,
        "tau": 0.005,
        "gamma": GAMMA,
        "n_steps": 1,
        "reward_scale": 1.0,
        "ent_coef": 0.2,
        "critics": "min",
        "entropy_in_target": True,
        "exploration_eps": 0.0,
        "seed": 0,
        "device": "cpu",
    }
    return DiscreteSAC(env=env, policy_kwargs=networks, **defaults | settings)


def together(exams: list[Any]) -> DummyVecEnv:
    return DummyVecEnv([lambda env=exam: env for exam in exams])


def entries(observation: Any, space: spaces.Space) -> dict[str, np.ndarray]:
    """An observation as the networks take it: entry by entry, channels first, double precision rounded."""
    if isinstance(space, spaces.Dict):
        return {key: entries(observation[key], space[key])[""] for key in space}
    array = np.asarray(observation)
    if space.dtype == np.uint8 and array.ndim == 3 and array.shape[-1] < array.shape[0]:
        array = np.moveaxis(array, -1, 0)
    return {"": array.astype(np.float32) if space.dtype == np.float64 else array}


def assert_equal(stored: Any, expected: dict[str, np.ndarray]) -> None:
    """A row of the replay against `entries`; a scalar is stored as a vector of one."""
    stored = stored if isinstance(stored, dict) else {"": stored}
    assert stored.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(stored[key].reshape(array.shape), array)
        assert stored[key].dtype == array.dtype


def assert_replay_is(buffer: ReplayBuffer | None, diaries: list[list[Step]], space: spaces.Space) -> None:
    """The replay holds every step of every diary, in the same order, and each end as it was."""
    assert buffer is not None
    assert buffer.size() == len(diaries[0]) < buffer.buffer_size
    ends = set()
    for e, diary in enumerate(diaries):
        for row, step in enumerate(diary):
            for stored, expected in (
                (buffer.observations, step.observation),
                (buffer.next_observations, step.next_observation),
            ):
                here = {k: v[row, e] for k, v in stored.items()} if isinstance(stored, dict) else stored[row, e]
                assert_equal(here, entries(expected, space))
            assert buffer.actions[row, e] == step.action
            assert buffer.rewards[row, e] == step.reward
            assert buffer.terminated[row, e] == step.terminated
            assert buffer.truncated[row, e] == (step.truncated and not step.terminated)
            ends.add((step.terminated, step.truncated))
    assert ends == {(False, False), (True, False), (False, True), (True, True)}


@pytest.mark.parametrize("name", KINDS)
def test_observations_are_stored_learned_saved_and_predicted_from(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    exams = [Exam(kind), Exam(kind)]
    model = make_model(kind, together(exams)).learn(kind.steps)
    assert_replay_is(model.replay_buffer, [exam.diary for exam in exams], exams[0].observation_space)
    paper, answers = exams[0].paper()
    np.testing.assert_array_equal(model.predict(paper, deterministic=True)[0], answers)

    model.save(tmp_path / "model")
    expected = model.predict(paper)[0]
    for env in (None, Exam(kind)):
        loaded = DiscreteSAC.load(tmp_path / "model", env=env, device="cpu")
        np.testing.assert_array_equal(loaded.predict(paper)[0], expected)
        np.testing.assert_array_equal(loaded.predict(paper, deterministic=True)[0], answers)
    one, answer = exams[0].paper(1)
    one = {key: array[0] for key, array in one.items()} if isinstance(one, dict) else one[0]
    action, _ = loaded.predict(one, deterministic=True)
    assert action.shape == ()
    assert action == answer[0]
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.num_timesteps == kind.steps + 20


# The same observations in other forms


def one_hot(*sizes: int) -> Callable[[Any], np.ndarray]:
    def encode(observation: Any) -> np.ndarray:
        choices = zip(sizes, np.ravel(observation), strict=True)
        return np.concatenate([np.eye(size, dtype=np.float32)[choice] for size, choice in choices])

    return encode


def flat_dict(observation: dict[str, Any]) -> np.ndarray:
    return np.concatenate([observation["flag"], one_hot(3)(observation["place"]), observation["speed"]]).astype("f4")


def channels_first(observation: Any) -> Any:
    if isinstance(observation, dict):
        return observation | {"image": channels_first(observation["image"])}
    return np.moveaxis(observation, -1, 0)


def unit_box(*shape: int) -> spaces.Box:
    return spaces.Box(-1.0, 1.0, shape, np.float32)


OTHER_FORMS: dict[str, tuple[str, Callable[[Any], Any], spaces.Space, dict[str, Any]]] = {
    "flat": ("box of two dimensions, float64", lambda x: x.ravel().astype("f4"), unit_box(4), {}),
    "one-hot": ("discrete", one_hot(6), unit_box(6), {}),
    "one-hot, joined": ("multi-discrete", one_hot(3, 2, 4), unit_box(9), {}),
    "floats for bits": ("multi-binary", np.float32, unit_box(4), {}),
    "entries of a dict, joined": ("dict of vectors", flat_dict, unit_box(6), {"policy": "MlpPolicy"}),
    "channels first in a dict": ("dict with an image, channels last", channels_first, dicts(1, 36, 36).space, {}),
    "channels first": ("image, channels last", channels_first, pixels(3, 36, 36), {}),
    "normalised": (
        "image, channels first",
        lambda x: x / np.float32(255),
        unit_box(3, 36, 36),
        {"policy_kwargs": CNN | {"normalize_images": False}},
    ),
    "channels first, booleans": (
        "small image of booleans",
        channels_first,
        spaces.Box(0, 1, (4, 10, 10), np.bool_),
        {},
    ),
    "floats for booleans": ("small image of booleans", np.float32, unit_box(10, 10, 4), {}),
}


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_the_same_observations_in_another_form_train_the_same_networks(form: str) -> None:
    name, transform, space, changes = OTHER_FORMS[form]
    kind = KINDS[name]
    exam, other = Exam(kind), Exam(kind)
    model = make_model(kind, exam).learn(80)
    transformed = make_model(kind, TransformObservation(other, transform, space), **changes).learn(80)
    assert [step.action for step in exam.diary] == [step.action for step in other.diary]
    for ours, theirs in zip(model.policy.parameters(), transformed.policy.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert model._n_updates == transformed._n_updates == 40


def test_images_are_transposed_once() -> None:
    kind = KINDS["image, channels last"]
    exams = [Exam(kind)]
    env = VecTransposeImage(together(exams))
    model = make_model(kind, env, learning_starts=20).learn(30)
    assert model.env is env
    assert model.observation_space == make_model(kind, Exam(kind)).observation_space == pixels(3, 36, 36)
    assert_replay_is(model.replay_buffer, [exams[0].diary], model.observation_space)


# MinAtar


def test_minatar(tmp_path: Path) -> None:
    minatar = pytest.importorskip("minatar.gym")
    if "MinAtar/Breakout-v1" not in gym.registry:
        minatar.register_envs()
    env = gym.make("MinAtar/Breakout-v1")
    assert env.observation_space == spaces.Box(0, 1, (10, 10, 4), np.bool_)
    kwargs = {"learning_starts": 100, "batch_size": 16, "seed": 0, "device": "cpu"}
    model = DiscreteSAC("CnnPolicy", env, policy_kwargs=SMALL_CNN, **kwargs).learn(200)
    model.dump_logs()  # everything is finite
    buffer = model.replay_buffer
    assert buffer is not None
    assert isinstance(buffer.observations, np.ndarray)
    assert buffer.observations.dtype == np.bool_
    assert buffer.terminated[:200].sum() > 5
    # In the channels of MinAtar's Breakout: one paddle in the last row, one ball.
    assert (buffer.observations[:200, 0, 9, :, 0].sum(-1) == 1).all()
    assert (buffer.observations[:200, 0, :, :, 1].sum((-1, -2)) == 1).all()
    model.save(tmp_path / "model")
    loaded = DiscreteSAC.load(tmp_path / "model", env=env, device="cpu")
    seen = buffer.observations[:200, 0]
    np.testing.assert_array_equal(loaded.predict(seen)[0], model.predict(seen)[0])
    loaded.learn(50, reset_num_timesteps=False)


# Frame stacks

DEPTH = 3
GREY = Kind(pixels(36, 36), lambda rng, answer: picture(rng, answer, 36, 36), "CnnPolicy", CNN, 80, 1e-3)


def along_the_last_axis(frames: list[Any]) -> Any:
    """As Stable-Baselines3 stacks frames, before it brings the channels to the front."""
    if isinstance(frames[0], dict):
        return {key: np.concatenate([frame[key] for frame in frames], axis=-1) for key in ("image", "speed")}
    return np.concatenate(frames, axis=-1)


def blank(frame: Any) -> Any:
    return {key: 0 * entry for key, entry in frame.items()} if isinstance(frame, dict) else 0 * frame


def stacked(diary: list[Step], join: Callable[[Any], Any], pad: Callable[[Any], Any]) -> list[Step]:
    """The diary of an environment that shows the last frames of the episode, padded before its first."""
    frames: list[Any] = []
    steps = []
    for step in diary:
        frames = frames or [pad(step.observation)] * (DEPTH - 1) + [step.observation]
        following = [*frames[1:], step.next_observation]
        steps.append(replace(step, observation=join(frames), next_observation=join(following)))
        frames = [] if step.terminated or step.truncated else following
    return steps


def check_stacks(
    kind: Kind, env: VecEnv, exams: list[Exam], join: Callable[[Any], Any], pad: Callable[[Any], Any], tmp_path: Path
) -> None:
    """Train, and compare the replay with stacks that are put together from the diaries; save, load and predict."""
    model = make_model(kind, env, gradient_steps=1).learn(80)
    diaries = [stacked(exam.diary, join, pad) for exam in exams]
    assert sum(step.truncated and not step.terminated for diary in diaries for step in diary) > 5
    assert_replay_is(model.replay_buffer, diaries, model.observation_space)
    model.save(tmp_path / "model")
    loaded = DiscreteSAC.load(tmp_path / "model", env=env, device="cpu")
    seen = stack([step.observation for step in diaries[0]])
    np.testing.assert_array_equal(loaded.predict(seen)[0], model.predict(seen)[0])
    loaded.learn(20, reset_num_timesteps=False)


@pytest.mark.parametrize(("kind", "shape"), [(KINDS["box"], (3, 3)), (GREY, (3, 36, 36))], ids=["box", "grey image"])
def test_gymnasiums_frame_stacks(kind: Kind, shape: tuple[int, ...], tmp_path: Path) -> None:
    exams = [Exam(kind), Exam(kind)]
    env = DummyVecEnv([lambda exam=exam: FrameStackObservation(exam, DEPTH) for exam in exams])
    assert env.observation_space.shape == shape
    check_stacks(kind, env, exams, np.stack, lambda first: first, tmp_path)


@pytest.mark.parametrize("name", ["box", "image, channels last", "dict with an image, channels last"])
def test_frame_stacks_of_stable_baselines3(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    exams = [Exam(kind), Exam(kind)]
    if isinstance(kind.space, spaces.Dict):
        env = DummyVecEnv([lambda exam=exam: FilterObservation(exam, ["image", "speed"]) for exam in exams])
    else:
        env = together(exams)
    check_stacks(kind, VecFrameStack(env, DEPTH), exams, along_the_last_axis, blank, tmp_path)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_frame_stacks_of_stable_baselines3_around_gymnasiums_vector_environments(
    mode: AutoresetMode, tmp_path: Path
) -> None:
    kind = KINDS["box"]
    exams = [Exam(kind), Exam(kind)]
    env = GymnasiumVecEnv(SyncVectorEnv([lambda exam=exam: exam for exam in exams], autoreset_mode=mode))
    check_stacks(kind, VecFrameStack(env, DEPTH), exams, along_the_last_axis, blank, tmp_path)


def test_frame_stacks_around_dummy_steps_are_refused() -> None:
    """VecFrameStack would keep the final frame, which comes with a dummy step, for the next episode."""
    vector_env = gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="vector_entry_point")
    env = VecFrameStack(GymnasiumVecEnv(vector_env), DEPTH)
    model = DiscreteSAC("MlpPolicy", env, policy_kwargs=MLP, learning_starts=100, seed=0, device="cpu")
    with pytest.raises(ValueError, match="VecFrameStack of a vector environment with dummy steps"):
        model.learn(100)


# n-step returns


def identity(observation: dict[str, np.ndarray]) -> bytes:
    return b"".join(array.tobytes() for array in observation.values())


def three_steps(diary: list[Step], start: int) -> tuple[float, float, Any]:
    """Sum of discounted rewards, discount of the value that follows, and the observation it is taken at."""
    total, discount = 0.0, 1.0
    for step in diary[start : start + 3]:
        total += discount * step.reward
        discount *= GAMMA
        if step.terminated or step.truncated:
            break
    return total, 0.0 if step.terminated else discount, step.next_observation


@pytest.mark.parametrize(
    "name", ["dict of vectors", "dict with an image, channels last", "image, channels last", "image, channels first"]
)
def test_transitions_of_three_steps_are_those_of_brute_force(name: str) -> None:
    kind = KINDS[name]
    exams = [Exam(kind), Exam(kind)]
    model = make_model(kind, together(exams), n_steps=3, n_step_correction=False, buffer_size=60, gradient_steps=1)
    model.learn(110)
    space = model.observation_space
    diaries = [exam.diary for exam in exams]
    places = {
        identity(entries(step.observation, space)): (diary, start)
        for diary in diaries
        for start, step in enumerate(diary)
    }
    assert model.replay_buffer is not None
    batch = model.replay_buffer.sample(800)
    found = set()
    for b in range(800):
        now, after = (
            {key: tensor[b].numpy() for key, tensor in (o.items() if isinstance(o, dict) else [("", o)])}
            for o in (batch.observations, batch.next_observations)
        )
        diary, start = places[identity(now)]
        reward, discount, next_observation = three_steps(diary, start)
        assert batch.rewards[b] == reward
        assert batch.discounts[b] == discount
        assert batch.actions[b] == diary[start].action
        assert_equal(after, entries(next_observation, space))
        found.add((id(diary), start, discount))
    # Of a ring of 30 rows each, all were drawn, with windows of every length.
    assert {(which, start) for which, start, _ in found} == {(id(diary), t) for diary in diaries for t in range(25, 55)}
    assert {discount for *_, discount in found} == {0.0, GAMMA, GAMMA**2, GAMMA**3}
