"""What of the replay buffer is saved, drawn, normalised, and on which device."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from gsrl.replay import ReplayBuffer, ring
from tests.common.replay import (
    COUNTER,
    Twins,
    add,
    assert_same_batch,
    assert_same_state,
    everything,
    filled,
    make_buffer,
)


class TestDevices:
    """Observations that are kept on a device; here it is the CPU's memory, as if it were another's."""

    @pytest.mark.parametrize("masked", [False, True])
    def test_what_is_sampled_and_saved_is_the_same(self, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        twins = []
        for on_host in (True, False):
            monkeypatch.setattr(ring, "_is_host", lambda device, on_host=on_host: on_host)
            twins.append(Twins([0.9, 0.99], [1, 3], rows=5, n_envs=2, masked=masked))
        host, device = twins
        assert not isinstance(device.together.observations["speed"], np.ndarray)
        for _ in range(12):
            for each in twins:
                each.add()
                each.assert_same_sample()
        for ours, theirs in ((device.together, host.together), (device.alone[1], host.alone[1])):
            assert_same_state(ours.state_dict(), theirs.state_dict())
            assert_same_batch(ours.sample(16), theirs.sample(16))
        assert_same_state(device.together.member_state(1), host.alone[1].state_dict())
        fresh = Twins([0.9, 0.99], [1, 3], rows=5, n_envs=2, masked=masked).together  # on the device
        fresh.load_state_dict(host.together.state_dict())
        assert_same_state(fresh.state_dict(), host.together.state_dict())
        assert_same_batch(fresh.sample(16), host.together.sample(16))

    def test_normalised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        env = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
        env.obs_rms.mean[:] = 2.0
        batches = []
        for on_host in (True, False):
            monkeypatch.setattr(ring, "_is_host", lambda device, on_host=on_host: on_host)
            space = env.observation_space
            buffer = make_buffer(8, space, action_space=env.action_space)
            step = np.ones((1, 4), np.float32)
            for _ in range(3):
                buffer.add(step, step + 1, np.array([1]), np.array([1.0]), np.array([False]), [{}])
            batches.append(buffer.sample(4, env))
        assert_same_batch(*batches)


class TestVecNormalize:
    @pytest.fixture
    def env(self) -> VecNormalize:
        env = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2), gamma=0.9, clip_reward=0.25)
        env.seed(0)
        env.action_space.seed(0)
        env.reset()
        return env

    def collect(self, env: VecNormalize, buffer: ReplayBuffer, steps: int) -> None:
        """As the rollouts of Stable-Baselines3 do: what is stored is unnormalised."""
        for _ in range(steps):
            before = env.get_original_obs()
            actions = np.array([env.action_space.sample() for _ in range(env.num_envs)])
            _, _, dones, infos = env.step(actions)
            after = env.get_original_obs()
            for i in np.flatnonzero(dones):
                after[i] = env.unnormalize_obs(infos[i]["terminal_observation"])
            buffer.add(before, after, actions, env.get_original_reward(), dones, infos)

    def test_observations_and_each_reward_are_normalised(self, env: VecNormalize) -> None:
        buffer = make_buffer(100, env.observation_space, n_envs=2, n_steps=3, gamma=0.9)
        self.collect(env, buffer, 50)
        raw, batch = everything(buffer), everything(buffer, env)
        assert batch.observations.dtype == batch.next_observations.dtype == torch.float32
        np.testing.assert_array_equal(batch.observations, env.normalize_obs(raw.observations.numpy()))
        np.testing.assert_array_equal(batch.next_observations, env.normalize_obs(raw.next_observations.numpy()))
        assert torch.equal(batch.discounts, raw.discounts)
        # Every reward of CartPole is 1 and is clipped to 1/4: before the sum of up to three, not after it.
        assert env.normalize_reward(np.ones(1)).tolist() == [0.25]
        torch.testing.assert_close(batch.rewards, raw.rewards * 0.25)
        assert batch.rewards.dtype == torch.float32
        assert batch.rewards.max().item() == pytest.approx(0.25 * (1 + 0.9 + 0.81))

    def test_statistics_are_those_of_the_moment_of_sampling(self, env: VecNormalize) -> None:
        buffer = make_buffer(100, env.observation_space, n_envs=2)
        self.collect(env, buffer, 10)
        before = everything(buffer, env).observations
        env.obs_rms.mean = env.obs_rms.mean + 1.0
        assert not torch.allclose(before, everything(buffer, env).observations)

    def test_without_normalised_observations(self) -> None:
        env = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]), norm_obs=False)
        env.reset()
        buffer = make_buffer(20, env.observation_space)
        self.collect(env, buffer, 5)
        assert torch.equal(everything(buffer, env).observations, everything(buffer).observations)


class TestRandomness:
    def test_same_seed_same_samples(self) -> None:
        left, right, other = (filled([1, 2, 4, 8], "....", generator=np.random.default_rng(seed)) for seed in (3, 3, 4))
        for _ in range(3):
            assert_same_batch(left.sample(16), right.sample(16))
        assert not torch.equal(left.sample(64).observations, other.sample(64).observations)

    def test_global_generators_are_left_alone(self) -> None:
        numpy_state, torch_state = np.random.get_state(legacy=False), torch.random.get_rng_state()
        filled([1, 2, 4, 8], "....", n_steps=2).sample(16)
        after = np.random.get_state(legacy=False)
        assert after["state"]["pos"] == numpy_state["state"]["pos"]
        np.testing.assert_array_equal(after["state"]["key"], numpy_state["state"]["key"])
        assert torch.equal(torch.random.get_rng_state(), torch_state)

    def test_uniform_over_rows_and_environments(self) -> None:
        """Chi-squared over 20 transitions; a correct sampler fails for one seed in a thousand (this one is fixed)."""
        buffer = make_buffer(40, n_envs=2)
        for time in range(10):
            add(buffer, time, [0.0, 0.0], "..")
        draws = buffer.sample(20_000).observations.flatten().numpy()
        _, counts = np.unique(draws, return_counts=True)
        assert len(counts) == 20
        assert ((counts - 1000) ** 2 / 1000).sum() < 43.82  # the 0.999 quantile at 19 degrees of freedom


class TestState:
    @pytest.mark.parametrize("steps", [0, 3, 4, 6], ids=["empty", "partly filled", "just full", "wrapped"])
    def test_round_trip(self, steps: int) -> None:
        buffer = filled([float(i) for i in range(steps)], ("..T.t." * 2)[:steps], buffer_size=4, n_steps=3)
        state = buffer.state_dict()
        restored = filled([9.0] * 4, "TTTT", buffer_size=4, n_steps=3, generator=np.random.default_rng(99))
        restored.load_state_dict(state)
        for time in (20, 21):  # both go on alike, at the same place in the ring
            add(buffer, time, [1.0], ".")
            add(restored, time, [1.0], ".")
            assert_same_batch(everything(buffer), everything(restored))
            assert_same_batch(buffer.sample(32), restored.sample(32))

    def test_round_trip_of_dict_observations(self) -> None:
        space = spaces.Dict(a=COUNTER, b=spaces.Discrete(3))
        buffer, restored = make_buffer(space=space), make_buffer(space=space)
        for time in range(3):
            observation = {"a": np.array([[float(time)]]), "b": np.array([time])}
            buffer.add(observation, observation, np.array([1]), np.array([1.0]), np.array([False]), [{}])
        restored.load_state_dict(buffer.state_dict())
        assert_same_batch(buffer.sample(8), restored.sample(8))

    def test_the_state_is_a_copy_of_the_filled_part(self) -> None:
        buffer = filled([1, 2], "..")
        state = buffer.state_dict()
        assert {key: state[key].shape for key in ("observations", "actions", "rewards")} == {
            "observations": (2, 1, 1),
            "actions": (2, 1, 1),
            "rewards": (2, 1),
        }
        buffer.rewards[:] = 0.0
        assert state["rewards"].flatten().tolist() == [1, 2]

    def test_everything_but_the_arrays_is_json(self) -> None:
        state = filled([1, 2], "..").state_dict()
        rest = {key: value for key, value in state.items() if not isinstance(value, np.ndarray)}
        assert json.loads(json.dumps(rest)) == rest

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            ({"buffer_size": 6}, r"state\['buffer_size'\] must be 8, but got 6"),
            ({"buffer_size": 16, "n_envs": 2}, r"state\['n_envs'\] must be 1, but got 2"),
            (
                {"space": spaces.Box(0, 1, (2,))},
                r"state\['observations'\] must be .* \(0, 1, 1\), but got .* \(0, 1, 2\)",
            ),
            ({"space": spaces.Dict(a=COUNTER)}, r"state\['observations'\] must be an array .*, but got dict"),
            ({"action_space": spaces.Discrete(300)}, r"state\['actions'\] must be an array uint8 .*, but got uint16"),
            ({"generator": np.random.Generator(np.random.SFC64(0))}, "PCG64"),
        ],
    )
    def test_state_of_another_kind_of_buffer(self, other: dict[str, Any], message: str) -> None:
        buffer = filled([1, 2], "..")
        before = buffer.state_dict()
        with pytest.raises(ValueError, match=message):
            buffer.load_state_dict(make_buffer(**other).state_dict())
        after = buffer.state_dict()
        assert after["generator"] == before["generator"]
        np.testing.assert_array_equal(after["rewards"], before["rewards"])

    def test_missing_entry_wrong_place_and_wrong_keys(self) -> None:
        buffer = filled([1, 2], "..")
        state = buffer.state_dict()
        with pytest.raises(ValueError, match="state must have the entries"):
            buffer.load_state_dict({key: value for key, value in state.items() if key != "rewards"})
        with pytest.raises(ValueError, match=r"state\['pos'\] must lie in \[0, 8\), but got 8"):
            buffer.load_state_dict(state | {"pos": 8})
        with pytest.raises(ValueError, match=r"state\['observations'\] must be an array .* \(1, 1, 1\), but got"):
            buffer.load_state_dict(state | {"pos": 1})
        in_dict = make_buffer(space=spaces.Dict(a=COUNTER))
        with pytest.raises(ValueError, match=r"must be a dict with the keys \['a'\], but got \['b'\]"):
            in_dict.load_state_dict(in_dict.state_dict() | {"observations": {"b": np.zeros((0, 1, 1), np.float32)}})
