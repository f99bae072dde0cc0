"""Members of one replay buffer, each against a buffer of its own."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from gsrl.replay import ReplayBuffer
from tests.common.replay import Twins, assert_same_batch, assert_same_state, generators, make_buffer


class TestMembers:
    """Member i of S equals a buffer of one, bit for bit."""

    @pytest.mark.parametrize("seed", range(10))
    def test_against_buffers_of_one(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        num_members = int(rng.integers(1, 5))
        twins = Twins(
            gamma=rng.uniform(size=num_members).tolist(),
            n_steps=rng.integers(1, 13, num_members).tolist(),  # from 8 terms on, NumPy adds in another order
            reward_scale=rng.uniform(0.1, 10, num_members).tolist(),
            rows=int(rng.integers(2, 25)),
            n_envs=int(rng.integers(1, 4)),
            masked=bool(seed % 2),
            seed=seed,
        )
        for time in range(50):
            twins.add()
            if time % 17 == 0:
                for buffer in (twins.together, *twins.alone):
                    buffer.end_episodes()
            twins.assert_same_sample()
        assert len(twins.together) == len(twins.alone[0])
        assert twins.together.size() == twins.alone[0].size()
        for member, buffer in enumerate(twins.alone):
            assert_same_state(twins.together.member_state(member), buffer.state_dict())

    @pytest.mark.parametrize("n_steps", [1, 3, 8, 17, 150])
    def test_windows_of_one_length(self, n_steps: int) -> None:
        twins = Twins([0.9, 0.99], [n_steps, n_steps], [0.1, 3.0], rows=200)
        for _ in range(230):
            twins.add(done=0.01)
        twins.assert_same_sample(256)

    def test_by_hand(self) -> None:
        """Two members of two environments: gamma 1/2 and n = 1, gamma 1 and n = 3."""
        buffer = make_buffer(8, num_members=2, n_envs=2, gamma=[0.5, 1.0], n_steps=[1, 3], generator=generators(2))
        for time, ends in enumerate(["....", "...T", "...."]):
            observation = np.array([[10.0 * time + e] for e in range(4)], np.float32)
            done = np.array([end == "T" for end in ends])
            buffer.add(observation, observation + 10, np.full(4, time % 2), np.full(4, 2.0**time), done, [{}] * 4)
        assert buffer.observations.shape == (2, 4, 2, 1)
        assert buffer.rewards[1, :3].tolist() == [[1, 1], [2, 2], [4, 4]]
        assert (len(buffer), buffer.size()) == (6, 3)
        batch = buffer._get_samples(np.arange(6) + np.array([[0], [8]]))
        assert batch.observations.shape == (2, 6, 1)
        assert batch.observations[..., 0].tolist() == [[0, 1, 10, 11, 20, 21], [2, 3, 12, 13, 22, 23]]
        assert batch.actions[..., 0].tolist() == [[0, 0, 1, 1, 0, 0]] * 2
        assert batch.rewards.tolist() == [[1, 1, 2, 2, 4, 4], [7, 3, 6, 2, 4, 4]]
        assert batch.next_observations[..., 0].tolist() == [[10, 11, 20, 21, 30, 31], [32, 23, 32, 23, 32, 33]]
        assert batch.discounts.tolist() == [[0.5] * 6, [1, 0, 1, 0, 1, 1]]

    def test_one_setting_is_that_of_all(self) -> None:
        twins = Twins([0.9, 0.9], [2, 2])
        shared = make_buffer(
            6,
            Twins.SPACE,
            action_space=Twins.ACTIONS,
            gamma=0.9,
            n_steps=2,
            num_members=2,
            generator=tuple(generators(2)),
        )
        for _ in range(4):
            twins.add()
        shared.load_state_dict(twins.together.state_dict())
        assert_same_batch(shared.sample(16), twins.together.sample(16))

    def test_generators_of_a_draw(self) -> None:
        twins = Twins([0.9, 0.9], [2, 2])
        for _ in range(4):
            twins.add()
        before = twins.together.state_dict()
        left, right = (twins.together.sample(8, generator=generators(2)) for _ in range(2))
        assert_same_batch(left, right)
        assert_same_state(twins.together.state_dict(), before)

    def test_a_redraw_leaves_the_streams_of_others_alone(self) -> None:
        """Member 1 has dummy steps and draws more often; member 0 has none, and its generator does not notice."""
        twins = Twins([0.9, 0.9], [1, 1], rows=40)
        for _ in range(40):
            twins.add()
        twins.together.dummy[0] = twins.alone[0].dummy[:] = False
        twins.together.load_state_dict(twins.together.state_dict())  # counts them
        twins.alone[0].load_state_dict(twins.alone[0].state_dict())
        assert twins.together.dummy[1].any()
        twins.assert_same_sample(400)
        expected = generators(1)[0]
        expected.integers(len(twins.together), size=400)
        assert twins.together.generator[0].bit_generator.state == expected.bit_generator.state

    @pytest.mark.parametrize("steps", [0, 3, 6, 9], ids=["empty", "partly filled", "just full", "wrapped"])
    @pytest.mark.parametrize("masked", [False, True])
    def test_round_trip(self, steps: int, masked: bool) -> None:
        settings: dict[str, Any] = {"gamma": [0.5, 0.9, 1.0], "n_steps": [1, 4, 2], "n_envs": 2, "masked": masked}
        twins, other = Twins(**settings), Twins(**settings, seed=1)
        for _ in range(steps):
            twins.add()
        for _ in range(8):
            other.add()
        other.together.sample(5)
        other.together.load_state_dict(twins.together.state_dict())
        assert_same_state(other.together.state_dict(), twins.together.state_dict())
        twins.together = other.together
        twins.add(dummy=0.0)
        twins.assert_same_sample()

    def test_the_rest_of_the_state_is_json(self) -> None:
        state = Twins([0.5, 0.9], [1, 2]).together.state_dict()
        rest = {key: state[key] for key in ("num_members", "n_envs", "buffer_size", "pos", "full", "generator")}
        assert json.loads(json.dumps(rest)) == rest
        assert rest["num_members"] == len(rest["generator"]) == 2

    @pytest.mark.parametrize("steps", [3, 9], ids=["partly filled", "wrapped"])
    def test_a_member_goes_on_alone(self, steps: int) -> None:
        twins = Twins([0.5, 0.9], [5, 3], masked=True)
        for _ in range(steps):
            twins.add()
        twins.assert_same_sample()
        restored = Twins([0.5, 0.9], [5, 3], masked=True).alone[1]
        restored.load_state_dict(twins.together.member_state(1))
        assert_same_batch(restored.sample(32), twins.alone[1].sample(32))

    def test_some_members_go_on(self) -> None:
        twins = Twins([0.5, 0.9, 1.0], [5, 3, 1])
        for _ in range(9):
            twins.add()
        rest = Twins([1.0, 0.5], [1, 5])
        rest.together.load_members(twins.together, [2, 0])
        rest.alone = [twins.alone[2], twins.alone[0]]
        rest.assert_same_sample()
        rest.add(dummy=0.0)
        rest.assert_same_sample()

    def test_memory(self) -> None:
        """41 bytes a transition of CartPole: 64 members with 100,000 each take less than 1 GiB."""
        env = gym.make("CartPole-v1")
        rows, num_members = 1000, 2
        buffer = ReplayBuffer(
            rows, env.observation_space, env.action_space, num_members=num_members, generator=generators(num_members)
        )
        arrays = [value for value in vars(buffer).values() if isinstance(value, np.ndarray) and value.nbytes >= rows]
        bytes_of_a_transition = sum(array.nbytes for array in arrays) / (rows * num_members)
        assert bytes_of_a_transition == 2 * 16 + 1 + 8
        assert 64 * 100_000 * bytes_of_a_transition < 0.25 * 2**30

    @pytest.mark.parametrize(
        ("settings", "error", "message"),
        [
            ({"num_members": 0}, ValueError, "num_members must be at least 1, or None, but got 0"),
            (
                {"generator": np.random.default_rng(0)},
                TypeError,
                r"one a member, but got Generator\.$",
            ),
            (
                {"generator": generators(3)},
                ValueError,
                "a sequence of 2 numpy.random.Generator, one a member, but got 3",
            ),
            ({"generator": [1, 2]}, TypeError, "a sequence of 2 numpy.random.Generator.* got one with a int"),
            ({"gamma": [0.9] * 3}, ValueError, r"gamma must be one number, or 2, .* array of shape \(3,\)"),
            ({"gamma": [0.9, 1.1]}, ValueError, r"gamma must lie in \[0, 1\], but got 1.1"),
            ({"n_steps": [[1, 2]]}, ValueError, r"n_steps must be one integer, or 2, .* array of shape \(1, 2\)"),
            ({"n_steps": [1, 0]}, ValueError, "n_steps must be at least 1, but got 0"),
            ({"n_steps": [1, 1.5]}, TypeError, r"n_steps must be of type integer, but got \[1, 1.5\]"),
        ],
    )
    def test_constructor(self, settings: dict[str, Any], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            make_buffer(**({"num_members": 2, "generator": generators(2)} | settings))

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"obs": np.zeros((2, 1))}, r"^obs must have shape \(4, 1\), but got \(2, 1\)"),
            ({"obs": np.array([[0], [0], [0], [np.nan]])}, "^obs must be finite, but got nan in environment 3"),
            ({"reward": np.array([0, 0, np.inf, 0])}, "reward must be finite, but got inf in environment 2"),
            ({"action": np.array([0, 0, 2, 0])}, "takes 2 for factor 0, expected an integer from 0 to 1"),
            ({"action": np.array([0, 0, -1, 0])}, "takes -1 for factor 0, expected an integer from 0 to 1"),
            ({"infos": [{}] * 2}, r"infos must hold one dict per environment \(4\), but got 2"),
            ({"action_masks": np.eye(2, dtype=bool)[[0, 0, 0, 1]]}, "environment 3 took choice 0 of factor 0"),
        ],
    )
    def test_add_refuses_and_stores_nothing(self, wrong: dict[str, Any], message: str) -> None:
        buffer = make_buffer(num_members=2, n_envs=2, masked=True, generator=generators(2))
        right = {
            "obs": np.zeros((4, 1)),
            "next_obs": np.zeros((4, 1)),
            "action": np.zeros(4, int),
            "reward": np.zeros(4),
            "done": np.zeros(4, bool),
            "infos": [{"action_mask": np.ones(2, bool)}] * 4,
            "action_masks": np.ones((4, 2), bool),
        }
        with pytest.raises(ValueError, match=message):
            buffer.add(**(right | wrong))
        assert len(buffer) == 0

    def test_sample(self) -> None:
        buffer = make_buffer(num_members=2, generator=generators(2))
        with pytest.raises(ValueError, match="empty replay buffer"):
            buffer.sample(1)
        observation = np.zeros((2, 1), np.float32)
        infos = [{}, {"dummy_step": True}]  # a member that was only reset has nothing to sample
        buffer.add(observation, observation, np.zeros(2, int), np.zeros(2), np.zeros(2, bool), infos)
        with pytest.raises(ValueError, match="empty replay buffer"):
            buffer.sample(1)
        buffer.add(observation, observation, np.zeros(2, int), np.zeros(2), np.zeros(2, bool), [{}, {}])
        assert buffer.sample(3).rewards.shape == (2, 3)
        with pytest.raises(TypeError, match="generator must be a sequence of 2"):
            buffer.sample(1, generator=np.random.default_rng(0))

    def test_states_that_do_not_fit(self) -> None:
        twins, three = Twins([0.5, 0.9], [1, 2]), Twins([0.5, 0.9, 1.0], [1, 2, 3])
        for _ in range(3):
            twins.add()
            three.add()
        before = twins.together.state_dict()
        with pytest.raises(ValueError, match=r"state\['num_members'\] must be 2, but got 3"):
            twins.together.load_state_dict(three.together.state_dict())
        with pytest.raises(ValueError, match="state must have the entries"):
            twins.together.load_state_dict(twins.alone[0].state_dict())
        with pytest.raises(ValueError, match=r"state\['generator'\] must hold 2 states, but got 1"):
            twins.together.load_state_dict(before | {"generator": before["generator"][:1]})
        other = np.random.Generator(np.random.SFC64(0)).bit_generator.state
        mixed = [np.random.default_rng(99).bit_generator.state, other]
        with pytest.raises(ValueError, match="PCG64"):  # not even the first generator takes its state
            twins.together.load_state_dict(before | {"generator": mixed})
        with pytest.raises(ValueError, match=r"state\['num_members'\] must be 2, but got 1"):
            twins.together.load_members(three.together, [0])
        with pytest.raises(ValueError, match="member must be one of the 3 of the buffer, but got 3"):
            twins.together.load_members(three.together, [0, 3])
        assert_same_state(twins.together.state_dict(), before)

    @pytest.mark.parametrize("member", [-1, 2])
    def test_no_such_member(self, member: int) -> None:
        with pytest.raises(ValueError, match=f"member must be one of the 2 of the buffer, but got {member}"):
            Twins([0.5, 0.9], [1, 2]).together.member_state(member)

    def test_a_single_buffer_has_no_members(self) -> None:
        with pytest.raises(ValueError, match="member must be one of the 0 of the buffer, but got 0"):
            make_buffer().member_state(0)
