"""Action masks in the replay buffer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from gsrl.replay import ReplayBuffer
from tests.common.replay import assert_same_batch, everything, make_buffer


def bits(number: int, length: int) -> np.ndarray:
    """The binary digits of `number`, the lowest first."""
    return (number >> np.arange(length)) % 2 == 1


class TestMasks:
    """The mask at time t is the number t + 1 in binary; the action is its lowest legal choice."""

    LENGTH = 5

    def add(self, buffer: ReplayBuffer, time: int, ends: str, **changes: Any) -> None:
        observation = np.full((len(ends), 1), time, np.float32)
        masks = np.stack([bits(time + 1, self.LENGTH)] * len(ends))
        infos = [
            {"TimeLimit.truncated": end == "t", "action_mask": bits(time + 2, self.LENGTH) & (end != "T")}
            for end in ends
        ]
        arguments: dict[str, Any] = {
            "obs": observation,
            "next_obs": observation + 1,
            "action": masks.argmax(1),
            "reward": np.ones(len(ends)),
            "done": np.array([end != "." for end in ends]),
            "infos": infos,
            "action_masks": masks,
        }
        buffer.add(**(arguments | changes))

    def filled(self, ends: str, **kwargs: Any) -> ReplayBuffer:
        buffer = make_buffer(action_space=spaces.Discrete(self.LENGTH), masked=True, **kwargs)
        for time, end in enumerate(ends):
            self.add(buffer, time, end)
        return buffer

    def numbers(self, masks: torch.Tensor) -> list[int]:
        """Masks of one factor, read as numbers."""
        assert masks.dtype == torch.bool
        assert masks.shape[1:] == (1, self.LENGTH)
        return (masks[:, 0] * 2 ** torch.arange(self.LENGTH)).sum(-1).tolist()

    def test_one_step(self) -> None:
        batch = everything(self.filled("...t."))
        assert self.numbers(batch.action_mask) == [1, 2, 3, 4, 5]
        assert self.numbers(batch.next_action_mask) == [2, 3, 4, 5, 6]

    def test_where_an_episode_terminated_all_is_legal(self) -> None:
        batch = everything(self.filled(".T."))
        assert self.numbers(batch.action_mask) == [1, 2, 3]
        assert self.numbers(batch.next_action_mask) == [2, 31, 4]
        assert batch.discounts.tolist() == [0.5, 0, 0.5]

    def test_a_terminated_step_needs_no_mask(self) -> None:
        buffer = self.filled("")
        self.add(buffer, 0, "T", infos=[{}])
        assert self.numbers(everything(buffer).next_action_mask) == [31]

    def test_the_successor_is_the_end_of_the_window(self) -> None:
        batch = everything(self.filled("...t..T", n_steps=3))
        assert self.numbers(batch.action_mask) == [1, 2, 3, 4, 5, 6, 7]
        assert batch.next_observations.flatten().tolist() == [3, 4, 4, 4, 7, 7, 7]
        assert self.numbers(batch.next_action_mask) == [4, 5, 5, 5, 31, 31, 31]

    def test_in_the_ring(self) -> None:
        batch = everything(self.filled("......", buffer_size=4, n_steps=2))
        assert self.numbers(batch.action_mask) == [5, 6, 3, 4]
        assert self.numbers(batch.next_action_mask) == [7, 7, 5, 6]

    @pytest.mark.parametrize(
        ("space", "action", "flat", "matrix"),
        [
            (spaces.MultiDiscrete([2, 3]), [1, 2], [0, 1, 1, 0, 1], [[0, 1, 0], [1, 0, 1]]),
            (spaces.MultiBinary(2), [0, 1], [1, 0, 1, 1], [[1, 0], [1, 1]]),
            (spaces.Discrete(3, start=-1), 1, [0, 1, 1], [[0, 1, 1]]),
        ],
    )
    def test_spaces(self, space: spaces.Space, action: Any, flat: list[int], matrix: list[list[int]]) -> None:
        buffer = make_buffer(action_space=space, masked=True, n_envs=2)
        observation = np.zeros((2, 1), np.float32)
        every = np.ones(len(flat), bool)
        buffer.add(
            observation,
            observation,
            np.array([action, action]),
            np.zeros(2),
            np.zeros(2, bool),
            [{"action_mask": np.array(flat)}, {"action_mask": every}],
            np.array([every, flat]),
        )
        batch = everything(buffer)
        every_matrix = (np.ones_like(matrix, dtype=bool) if buffer.codec.mask is None else buffer.codec.mask).tolist()
        assert batch.action_mask.tolist() == [every_matrix, np.array(matrix, bool).tolist()]
        assert batch.next_action_mask.tolist() == [np.array(matrix, bool).tolist(), every_matrix]

    def test_kept_as_bits(self) -> None:
        buffer = make_buffer(action_space=spaces.Discrete(10_000), masked=True)
        assert (buffer.action_masks.shape, buffer.action_masks.dtype) == ((8, 1, 1250), np.uint8)
        assert buffer.next_action_masks.nbytes == 8 * 1250
        assert "action_masks" not in make_buffer(action_space=spaces.Discrete(10_000)).columns

    def test_the_rest_of_the_batch_is_that_of_a_buffer_without_masks(self) -> None:
        masked, plain = self.filled("..T.t..", n_steps=2), make_buffer(action_space=spaces.Discrete(5), n_steps=2)
        for time, end in enumerate("..T.t.."):
            self.add(plain, time, end, action_masks=None)
        assert_same_batch(masked.sample(32)[:5], plain.sample(32)[:5])

    def test_round_trip(self) -> None:
        buffer, restored = self.filled(".T..t."), self.filled("....")
        state = buffer.state_dict()
        assert state["action_masks"].shape == (6, 1, 1)
        restored.load_state_dict(state)
        assert_same_batch(everything(buffer), everything(restored))
        assert_same_batch(buffer.sample(16), restored.sample(16))

    def test_state_of_a_buffer_without_masks(self) -> None:
        with pytest.raises(ValueError, match=r"state must have the entries .*'action_masks'"):
            self.filled("..").load_state_dict(make_buffer(action_space=spaces.Discrete(5)).state_dict())

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"action_masks": None}, "action_masks must be given at every step"),
            ({"action_masks": np.ones((1, 5), bool)}, r"action_masks must have shape \(2, 5\), but got \(1, 5\)"),
            ({"action_masks": np.ones((2, 4), bool)}, r"action_masks must have shape \(2, 5\), but got \(2, 4\)"),
            ({"action_masks": np.full((2, 5), 2)}, "action_masks must be boolean, or 0 and 1, but got .*2"),
            ({"action_masks": np.eye(2, 5) == 1}, r"environment 1 took choice 0 of factor 0, counted from 0, which"),
            (
                {"action_masks": np.array([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])},
                "action_masks must leave every factor a legal choice, but got none for factor 0 in row 1",
            ),
            (
                {"infos": [{"action_mask": np.ones(5, bool)}, {}]},
                r"infos\[1\]\['action_mask'\] must have shape \(5,\), but got None",
            ),
            (
                {"infos": [{"action_mask": np.ones((1, 5), bool)}] * 2},
                r"infos\[0\]\['action_mask'\] must have shape \(5,\), but got \(1, 5\)",
            ),
            (
                {"infos": [{"action_mask": np.ones(5)}, {"action_mask": np.zeros(5)}]},
                "'action_mask' of the infos must leave every factor a legal choice, but got none for factor 0 in row 1",
            ),
        ],
    )
    def test_add_refuses_and_stores_nothing(self, changes: dict[str, Any], message: str) -> None:
        buffer = make_buffer(action_space=spaces.Discrete(self.LENGTH), masked=True, n_envs=2)
        with pytest.raises(ValueError, match=message):
            self.add(buffer, 0, "..", **changes)
        assert len(buffer) == 0
        self.add(buffer, 0, "..")
        assert len(buffer) == 2

    def test_the_illegal_factor_is_named(self) -> None:
        buffer = make_buffer(action_space=spaces.MultiDiscrete([2, 3]), masked=True)
        observation, masks = np.zeros((1, 1)), np.array([[1, 1, 1, 1, 0]])
        with pytest.raises(ValueError, match="environment 0 took choice 2 of factor 1"):
            buffer.add(observation, observation, np.array([[1, 2]]), np.zeros(1), np.array([True]), [{}], masks)

    def test_masks_given_to_a_buffer_without_them(self) -> None:
        buffer = make_buffer(action_space=spaces.Discrete(self.LENGTH))
        with pytest.raises(ValueError, match="action_masks were given to a buffer made with masked=False"):
            self.add(buffer, 0, ".")
