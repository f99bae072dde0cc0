"""Our vector environments against DummyVecEnv: the same steps in every mode, the same training, clear refusals."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize

from gsrl import DiscreteSAC
from gsrl.vec_env import GymnasiumVecEnv, SyncVecEnv

SAME_STEP, NEXT_STEP, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED
OBSERVATION_SPACES = {
    "box": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "discrete": spaces.Discrete(100),
    "dict": spaces.Dict({"time": spaces.Discrete(100), "sum": spaces.Box(-np.inf, np.inf, (1, 1), np.float64)}),
}


class Draws(gym.Env[Any, np.int64]):
    """Episodes of 1 to 4 steps; what is observed, its length, and how it ends depend on the seed and the actions."""

    def __init__(self, observe: str = "box", render_mode: str | None = None) -> None:
        self.observe = observe
        self.observation_space = OBSERVATION_SPACES[observe]
        self.action_space = spaces.Discrete(3)
        self.render_mode = render_mode
        self.scale = 1.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.sum = 0, self.np_random.normal() + (options or {}).get("offset", 0.0)
        self.length, self.ending = self.np_random.integers(1, 5), self.np_random.integers(3)
        return self.observation(), {"action_mask": self.action_masks(), "begun": True}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        self.sum += 0.1 * float(action)
        over = self.time >= self.length
        terminated, truncated = over and self.ending in (0, 2), over and self.ending in (1, 2)
        info: dict[str, Any] = {"action_mask": self.action_masks(), "nested": {"time": self.time}}
        if self.time % 2 == 0:
            info["even"] = f"step {self.time}"
        return self.observation(), self.scale * self.sum, terminated, truncated, info

    def observation(self) -> Any:
        if self.observe == "discrete":
            return self.time
        if self.observe == "dict":
            return {"time": self.time, "sum": np.array([[self.sum]])}
        return np.array([self.time, self.sum], dtype=np.float32)

    def action_masks(self) -> np.ndarray:
        return np.array([True, self.sum > 0, self.time % 2 == 0])

    def scaled(self, factor: float) -> float:
        return self.scale * factor

    def render(self) -> Any:
        return np.full((2, 3, 3), self.time, dtype=np.uint8)


class Scripted(gym.Env[np.ndarray, np.int64]):
    """Observes (episode, time); episodes take two steps and end by what `endings` says of each in turn."""

    endings = ((True, False), (False, True), (True, True))

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self.episode, self.time = self.episode + 1, 0
        return np.array([self.episode, 0], dtype=np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        terminated, truncated = self.endings[self.episode % 3] if self.time == 2 else (False, False)
        return np.array([self.episode, self.time], dtype=np.float32), 1.0 + self.episode, terminated, truncated, {}


class Hoarder(gym.Env[np.ndarray, np.int64]):
    """Observes an image; keeps one array, one info and one list in it for ever, and writes over them."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (3, 4, 4), np.uint8)
        self.action_space = spaces.Discrete(3)
        self.image, self.time = np.zeros((3, 4, 4), np.uint8), 0
        self.info: dict[str, Any] = {"trace": [], "action_mask": np.ones(3, np.bool_), "time": 0}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self.image += 100
        return self.image, {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        self.image[:] = self.time
        self.info["time"] = self.time
        self.info["trace"].append(int(action))
        self.info["action_mask"][:] = [True, self.time % 2 == 0, self.time % 3 == 0]
        return self.image, float(self.time), self.time % 5 == 0, self.time % 4 == 0, self.info


def equal(left: Any, right: Any) -> bool:
    """Whether trees of arrays, dicts and plain values are equal."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    return np.array_equal(left, right)


def make_envs(n_envs: int = 3, **settings: Any) -> list[Callable[[], gym.Env]]:
    return [lambda: Draws(**settings)] * n_envs


def reference(n_envs: int = 3, **settings: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(Draws(**settings))] * n_envs)


def without_seconds(info: dict[str, Any]) -> dict[str, Any]:
    if "episode" not in info:
        return info
    return info | {"episode": {key: value for key, value in info["episode"].items() if key != "t"}}


def assert_same_steps(left: VecEnv, right: VecEnv, steps: int = 60) -> None:
    """Seed, reset and step both, with the same random actions, and compare all that they return."""
    assert left.observation_space == right.observation_space
    assert left.action_space == right.action_space
    left.seed(5)
    right.seed(5)
    assert equal(left.reset(), right.reset())
    rng, ends = np.random.default_rng(0), 0
    for _ in range(steps):
        actions = rng.integers(3, size=left.num_envs)
        (obs, rewards, dones, infos), expected = left.step(actions), right.step(actions)
        assert equal(obs, expected[0])
        np.testing.assert_array_equal(rewards, expected[1])
        assert rewards.dtype == expected[1].dtype
        np.testing.assert_array_equal(dones, expected[2])
        for i in range(left.num_envs):
            assert equal(without_seconds(infos[i]), without_seconds(expected[3][i]))
            assert equal(left.reset_infos[i], right.reset_infos[i])
        ends += dones.sum()
    assert ends > steps // 2
    left.close()
    right.close()


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("observe", OBSERVATION_SPACES)
def test_every_autoreset_mode_steps_as_dummy_vec_env(mode: AutoresetMode, observe: str) -> None:
    vector_env = SyncVectorEnv(make_envs(observe=observe), copy=False, autoreset_mode=mode)
    assert_same_steps(GymnasiumVecEnv(vector_env), reference(observe=observe))


@pytest.mark.parametrize(
    ("mode", "observe", "shared_memory"),
    [(SAME_STEP, "dict", True), (NEXT_STEP, "box", True), (DISABLED, "discrete", True), (SAME_STEP, "box", False)],
)
def test_async_steps_as_dummy_vec_env(mode: AutoresetMode, observe: str, shared_memory: bool) -> None:
    vector_env = AsyncVectorEnv(make_envs(2, observe=observe), shared_memory=shared_memory, autoreset_mode=mode)
    assert_same_steps(GymnasiumVecEnv(vector_env), reference(2, observe=observe), steps=30)


def test_statistics_of_a_vector_wrapper_give_way() -> None:
    """Gymnasium's wrapper forgets all returns, whichever sub-environment is reset."""
    vector_env = gym.wrappers.vector.RecordEpisodeStatistics(SyncVectorEnv(make_envs()))
    assert_same_steps(GymnasiumVecEnv(vector_env), reference())


@pytest.mark.parametrize("mode", AutoresetMode)
def test_ends_of_episodes_are_told_exactly(mode: AutoresetMode) -> None:
    env = GymnasiumVecEnv(SyncVectorEnv([Scripted], autoreset_mode=mode))
    np.testing.assert_array_equal(env.reset(), [[0, 0]])
    for episode, truncated_only in enumerate([False, True, False]):
        observations, rewards, dones, infos = env.step(np.array([0]))
        np.testing.assert_array_equal(observations, [[episode, 1]])
        assert (rewards[0], dones[0], infos) == (1.0 + episode, False, [{"TimeLimit.truncated": False}])

        observations, rewards, dones, infos = env.step(np.array([0]))
        np.testing.assert_array_equal(observations, [[episode + 1, 0]])
        assert (rewards[0], dones[0]) == (1.0 + episode, True)
        np.testing.assert_array_equal(infos[0]["terminal_observation"], [episode, 2])
        assert infos[0]["TimeLimit.truncated"] is truncated_only
        assert infos[0]["episode"]["r"] == 2.0 * (1 + episode)
        assert infos[0]["episode"]["l"] == 2
        assert infos[0]["episode"]["t"] >= 0.0


def test_observations_stay_as_they_were_returned() -> None:
    env = GymnasiumVecEnv(SyncVectorEnv([Scripted], copy=False))
    first = env.reset()
    second = env.step(np.array([0]))[0]
    final = env.step(np.array([0]))[3][0]["terminal_observation"]
    env.step(np.array([0]))
    np.testing.assert_array_equal(np.concatenate([first, second, [final]]), [[0, 0], [0, 1], [0, 2]])


# Seeds, options, attributes


def test_seeds_hold_for_one_reset_and_come_from_no_global_generator() -> None:
    env = GymnasiumVecEnv(SyncVectorEnv(make_envs()))
    assert env.seed(7) == [7, 8, 9]
    first = env.reset()
    for i in range(3):
        np.testing.assert_array_equal(first[i], Draws().reset(seed=7 + i)[0])
    assert not np.array_equal(env.reset(), first)
    before = np.random.get_state()[1].copy()
    assert env.seed() == [None, None, None]
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_options_reach_the_next_reset() -> None:
    env = GymnasiumVecEnv(SyncVectorEnv(make_envs()))
    env.seed(7)
    plain = env.reset()
    env.seed(7)
    env.set_options({"offset": 10.0})
    np.testing.assert_allclose(env.reset() - plain, [[0, 10]] * 3, rtol=1e-6)
    env.set_options([{"offset": 1.0}, {}, {}])
    with pytest.raises(ValueError, match="options must be the same for all sub-environments"):
        env.reset()


def test_attributes_and_methods_of_sub_environments() -> None:
    env = GymnasiumVecEnv(SyncVectorEnv(make_envs()))
    assert env.get_attr("scale") == [1.0, 1.0, 1.0]
    env.set_attr("scale", 2.0, indices=[0, 2])
    assert env.get_attr("scale", indices=[1, 2]) == [1.0, 2.0]
    assert env.env_method("scaled", 3.0) == [6.0, 3.0, 6.0]
    assert env.env_method("scaled", factor=3.0, indices=1) == [3.0]
    assert env.has_attr("action_masks")
    assert not env.has_attr("absent")
    for call in (env.get_attr, env.env_method, lambda name: env.set_attr(name, 1)):
        with pytest.raises(AttributeError, match=r"SyncVectorEnv.* no sub-environments with an attribute 'absent'"):
            call("absent")
    assert env.env_is_wrapped(gym.Wrapper) == [False, False, False]
    assert env.env_is_wrapped(Monitor, indices=0) == [True]  # its work is done here


def test_attributes_and_methods_of_other_processes() -> None:
    env = GymnasiumVecEnv(AsyncVectorEnv(make_envs(2)))
    env.set_attr("scale", 2.0)
    assert env.get_attr("scale", indices=[1]) == [2.0]
    assert env.env_method("scaled", 3.0) == [6.0, 6.0]
    with pytest.raises(AttributeError, match="'absent'"):
        env.get_attr("absent")
    for call in (lambda: env.env_method("scaled", 3.0, indices=[0]), lambda: env.set_attr("scale", 1.0, indices=1)):
        with pytest.raises(ValueError, match="indices must be None"):
            call()
    with pytest.raises(AttributeError, match="not a SyncVectorEnv"):
        env.env_is_wrapped(gym.Wrapper)
    assert env.reset().shape == (2, 2)  # none of this has ended a process
    env.close()


def test_render_and_close() -> None:
    env = GymnasiumVecEnv(SyncVectorEnv(make_envs(render_mode="rgb_array")))
    env.reset()
    assert env.render_mode == "rgb_array"
    assert [image.shape for image in env.get_images()] == [(2, 3, 3)] * 3
    assert env.render().shape == (4, 6, 3)  # two by two
    env.close()
    env.close()
    assert env.vector_env.closed


# Training


@pytest.mark.parametrize("algorithm", [PPO, DQN])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_training_equals_that_on_dummy_vec_env(algorithm: type[BaseAlgorithm], mode: AutoresetMode) -> None:
    def train(env: VecEnv) -> BaseAlgorithm:
        settings: dict[str, Any] = {"batch_size": 16, "policy_kwargs": {"net_arch": [8]}, "seed": 3, "device": "cpu"}
        settings |= {"n_steps": 32, "n_epochs": 2} if algorithm is PPO else {"learning_starts": 20, "train_freq": 1}
        return algorithm("MlpPolicy", env, **settings).learn(256)

    def make() -> gym.Env:
        return gym.make("CartPole-v1", max_episode_steps=15)  # so that some episodes are truncated

    def evaluate(model: BaseAlgorithm) -> tuple[list[float], list[int]]:
        assert model.env is not None
        model.env.seed(11)
        return evaluate_policy(model, model.env, n_eval_episodes=6, return_episode_rewards=True)

    ours = train(GymnasiumVecEnv(SyncVectorEnv([make] * 2, autoreset_mode=mode)))
    theirs = train(DummyVecEnv([lambda: Monitor(make())] * 2))
    for name, value in theirs.policy.state_dict().items():
        assert torch.equal(ours.policy.state_dict()[name], value)
    episodes = [(episode["r"], episode["l"]) for episode in theirs.ep_info_buffer]
    assert [(episode["r"], episode["l"]) for episode in ours.ep_info_buffer] == episodes
    assert {length for _, length in episodes} > {15}
    assert sum(length for _, length in episodes) > 220  # of 256 steps: no episode is left out
    assert evaluate(ours) == evaluate(theirs)


def test_evaluation_counts_episodes_without_warning() -> None:
    env = GymnasiumVecEnv(SyncVectorEnv([lambda: gym.make("CartPole-v1", max_episode_steps=9)] * 2))
    model = DQN("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        returns, lengths = evaluate_policy(model, env, n_eval_episodes=5, return_episode_rewards=True)
    assert returns == lengths
    assert len(returns) == 5
    assert max(lengths) <= 9


def test_monitor_of_the_sub_environments_has_the_last_word() -> None:
    """A wrapper around Monitor may end episodes more often, as those for Atari do when a life is lost."""

    class EndAtOnce(gym.Wrapper):
        def step(self, action: Any) -> Any:
            observation, reward, _, truncated, info = super().step(action)
            return observation, reward, True, truncated, info

        def reset(self, **kwargs: Any) -> Any:
            alive = 0 < getattr(self.unwrapped, "time", 0) < 2
            return (np.array([-1, -1], dtype=np.float32), {}) if alive else super().reset(**kwargs)

    for vector_class in (SyncVectorEnv, AsyncVectorEnv):
        env = GymnasiumVecEnv(vector_class([lambda: EndAtOnce(Monitor(Scripted()))]))
        env.reset()
        _, _, dones, infos = env.step(np.array([0]))
        assert dones[0]
        assert "episode" not in infos[0]
        _, _, dones, infos = env.step(np.array([0]))
        assert dones[0]
        assert (infos[0]["episode"]["r"], infos[0]["episode"]["l"]) == (2.0, 2)
        env.close()


# Dummy steps


def per_environment(env: VecEnv, steps: int, first: np.ndarray) -> Iterator[list[Any]]:
    """The transitions of each sub-environment, under actions that depend on the observation alone."""
    transitions: list[list[Any]] = [[] for _ in range(env.num_envs)]
    observations = first
    for _ in range(steps):
        actions = (np.abs(observations.sum(axis=1)) * 10).astype(np.int64) % 3
        following, rewards, dones, infos = env.step(actions)
        for i, info in enumerate(infos):
            if not info.get("dummy_step", False):
                after = info["terminal_observation"] if dones[i] else following[i]
                transition = (*observations[i], actions[i], rewards[i], *after, dones[i], info["TimeLimit.truncated"])
                transitions[i].append((transition, info["action_mask"].tolist(), info.get("episode", {}).get("l")))
        observations = following
    env.close()
    yield from transitions


def test_without_its_dummy_steps_an_environment_steps_as_dummy_vec_env() -> None:
    ours = GymnasiumVecEnv(AsyncVectorEnv(make_envs(2), shared_memory=False))
    assert ours.has_dummy_steps
    theirs = reference(2)
    ours.seed(5)
    theirs.seed(5)
    ours.allow_dummy_steps()
    pairs = zip(per_environment(ours, 40, ours.reset()), per_environment(theirs, 40, theirs.reset()), strict=True)
    for kept, expected in pairs:
        assert 20 < len(kept) < 40
        assert kept == expected[: len(kept)]


def test_dummy_steps_are_marked_in_cartpole_of_numpy() -> None:
    vector_env = gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="vector_entry_point", max_episode_steps=2)
    env = GymnasiumVecEnv(vector_env)
    env.allow_dummy_steps()
    first = env.reset()
    lengths, last = [], first
    for step in range(6):  # two steps of an episode and a dummy, twice
        observations, rewards, dones, infos = env.step(np.array([0, 1]))
        dummy = step % 3 == 2
        assert [info.get("dummy_step", False) for info in infos] == [dummy] * 2
        assert rewards.tolist() == [0.0 if dummy else 1.0] * 2
        assert dones.tolist() == [step % 3 == 1] * 2
        for i, info in enumerate(infos):
            if dones[i]:
                assert info["TimeLimit.truncated"]
                np.testing.assert_array_equal(info["terminal_observation"], observations[i])
                lengths.append((info["episode"]["r"], info["episode"]["l"]))
        assert (np.abs(observations) <= 0.05).all() == dummy  # the first observation of an episode is that near to 0
        assert not np.array_equal(observations, last)
        last = observations
    assert lengths == [(2.0, 2)] * 4


def test_action_masks_around_dummy_steps_are_those_of_the_observation_returned() -> None:
    env = GymnasiumVecEnv(AsyncVectorEnv(make_envs(1), shared_memory=False))
    env.seed(0)
    env.allow_dummy_steps()
    observations = env.reset()
    mask = env.reset_infos[0]["action_mask"]
    for _ in range(20):
        time, total = observations[0]
        assert mask.tolist() == [True, total > 0, time % 2 == 0]
        observations, _, dones, infos = env.step(np.array([0]))
        mask = (env.reset_infos if dones[0] else infos)[0]["action_mask"]
        if infos[0].get("dummy_step", False):
            assert env.reset_infos[0]["begun"]
    env.close()


def cartpole(num_envs: int = 2) -> VectorEnv:
    return gym.make_vec("CartPole-v1", num_envs=num_envs, vectorization_mode="vector_entry_point")


@pytest.mark.parametrize("algorithm", [PPO, DQN])
@pytest.mark.parametrize("wrap", [lambda env: env, VecMonitor, VecNormalize])
def test_algorithms_that_would_learn_from_dummy_steps_are_refused(
    algorithm: type[BaseAlgorithm], wrap: Callable[[VecEnv], VecEnv]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # VecMonitor says that its statistics take over
        model = algorithm("MlpPolicy", wrap(GymnasiumVecEnv(cartpole())), policy_kwargs={"net_arch": [8]}, device="cpu")
    with pytest.raises(RuntimeError, match=r"CartPoleVectorEnv.* resets by dummy steps"):
        model.learn(10)
    assert model.num_timesteps == 0


def test_discrete_sac_trains_without_dummy_steps_and_passes_no_permission_on() -> None:
    env = GymnasiumVecEnv(cartpole(4))
    policy_kwargs = {"net_arch": [8]}
    model = DiscreteSAC(
        "MlpPolicy", env, policy_kwargs=policy_kwargs, learning_starts=40, batch_size=16, seed=0, device="cpu"
    )
    model.learn(400)
    assert len(model.ep_info_buffer) > 5
    assert all(episode["r"] == episode["l"] for episode in model.ep_info_buffer)
    model.learn(40)
    assert model.replay_buffer is not None
    # Only dummy steps earn nothing.
    assert (model.replay_buffer.rewards[:110] == 0.0).any()
    assert (model.replay_buffer.sample(1000).rewards == 1.0).all()
    with pytest.raises(RuntimeError, match="dummy steps"):
        PPO("MlpPolicy", env, policy_kwargs=policy_kwargs, device="cpu").learn(10)


# Errors


def test_wrong_input_is_refused() -> None:
    with pytest.raises(TypeError, match=r"vector_env must be a gymnasium.vector.VectorEnv.* got <.*Draws"):
        GymnasiumVecEnv(Draws())  # type: ignore[arg-type]
    silent = SyncVectorEnv(make_envs())
    del silent.metadata["autoreset_mode"]
    with pytest.raises(ValueError, match=r"AutoresetMode in metadata\['autoreset_mode'\], but got None"):
        GymnasiumVecEnv(silent)

    env = GymnasiumVecEnv(SyncVectorEnv(make_envs()))
    env.reset()
    with pytest.raises(ValueError, match=r"actions must have shape \[3\], but got \[2\]"):
        env.step(np.array([0, 1]))
    env = GymnasiumVecEnv(cartpole())  # one object, that has no sub-environments
    for call in (env.get_attr, env.env_method, lambda name: env.set_attr(name, 1.0)):
        with pytest.raises(
            AttributeError, match=r"CartPoleVectorEnv.* no sub-environments with an attribute 'gravity'"
        ):
            call("gravity")


def test_infos_and_final_observations_that_are_missing_are_named() -> None:
    class Broken(SyncVectorEnv):
        def step(self, actions: Any) -> Any:
            *result, infos = super().step(actions)
            return *result, self.spoil(infos)

        @staticmethod
        def spoil(infos: dict[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in infos.items() if key not in ("final_obs", "_final_obs")}

    env = GymnasiumVecEnv(Broken([Scripted], autoreset_mode=SAME_STEP))
    env.reset()
    env.step(np.array([0]))
    with pytest.raises(RuntimeError, match=r"final observation of sub-environment 0, but got none"):
        env.step(np.array([0]))

    Broken.spoil = staticmethod(lambda infos: {"fps": 30.0})
    env.reset()
    with pytest.raises(ValueError, match=r"infos\['fps'\] must have one entry a sub-environment \(1\), but got 30.0"):
        env.step(np.array([0]))


# Environments of one process


@pytest.mark.parametrize("observe", OBSERVATION_SPACES)
@pytest.mark.parametrize("n_envs", [2, 5])
def test_sync_vec_env_steps_as_dummy_vec_env(observe: str, n_envs: int) -> None:
    env = SyncVecEnv([lambda: Monitor(Draws(observe=observe))] * n_envs)
    assert_same_steps(env, reference(n_envs, observe=observe))


def test_sync_vec_env_steps_as_dummy_vec_env_on_cartpole() -> None:
    make_env = [lambda: Monitor(gym.make("CartPole-v1", max_episode_steps=12))] * 2
    ours, theirs = SyncVecEnv(make_env), DummyVecEnv(make_env)
    ours.seed(0)
    theirs.seed(0)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    rng, truncated = np.random.default_rng(0), 0
    for _ in range(60):
        actions = rng.integers(2, size=2)
        (observations, rewards, dones, infos), expected = ours.step(actions), theirs.step(actions)
        np.testing.assert_array_equal(observations, expected[0])
        assert (observations.dtype, rewards.dtype, dones.dtype) == tuple(array.dtype for array in expected[:3])
        np.testing.assert_array_equal(rewards, expected[1])
        np.testing.assert_array_equal(dones, expected[2])
        assert all(equal(without_seconds(a), without_seconds(b)) for a, b in zip(infos, expected[3], strict=True))
        truncated += sum(info["TimeLimit.truncated"] for info in infos)
    assert truncated > 0


def test_what_sync_vec_env_returned_is_the_callers() -> None:
    """Neither the environment, nor the caller who writes over a result, reaches any other one."""
    ours, theirs = SyncVecEnv([Hoarder, Hoarder]), DummyVecEnv([Hoarder, Hoarder])
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    kept, expected = [], []
    for step in range(12):
        actions = np.array([step % 3, step % 2])
        kept.append(ours.step(actions))
        expected.append(theirs.step(actions))
        spoilt = ours.step(actions)
        theirs.step(actions)
        spoilt[0][:], spoilt[1][:], spoilt[2][:] = 7, -1.0, True
        for info in spoilt[3]:
            info["action_mask"][:] = False
            info["trace"].clear()
    for (observations, rewards, dones, infos), (*arrays, their_infos) in zip(kept, expected, strict=True):
        for array, theirs_array in zip((observations, rewards, dones), arrays, strict=True):
            np.testing.assert_array_equal(array, theirs_array)
        for info, their_info in zip(infos, their_infos, strict=True):
            # Theirs has the final observation still, in the info that the environment returns again.
            assert info.keys() - {"terminal_observation"} == their_info.keys() - {"terminal_observation"}
            assert all(equal(info[key], their_info[key]) for key in info.keys() - {"terminal_observation"})
        assert ["terminal_observation" in info for info in infos] == dones.tolist()


def test_sync_vec_env_keeps_the_final_observation_of_an_environment_that_writes_over_it() -> None:
    env = SyncVecEnv([Hoarder])
    env.reset()
    for _ in range(4):
        observations, _, dones, infos = env.step(np.array([0]))
    assert dones.tolist() == [True]
    assert infos[0]["terminal_observation"].max() == 4
    assert observations.max() == 104


def test_sync_vec_env_refuses_one_environment_twice() -> None:
    env = Draws()
    with pytest.raises(ValueError, match="returned the same instance"):
        SyncVecEnv([lambda: env] * 2)


def test_a_single_environment_trains_as_in_dummy_vec_env() -> None:
    def train(env: gym.Env | VecEnv) -> DiscreteSAC:
        settings: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "learning_starts": 20, "seed": 1}
        return DiscreteSAC("MultiInputPolicy", env, batch_size=8, **settings).learn(60)

    ours, theirs = train(Draws(observe="dict")), train(reference(1, observe="dict"))
    assert isinstance(ours.env, SyncVecEnv)
    assert ours.masked
    for left, right in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert torch.equal(left, right)
