from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gsrl.spaces import OneHotCodec

STARTS = st.integers(-5, 5)
BATCHES = st.lists(st.integers(0, 3), max_size=2).map(tuple)
SMALL_SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=2)


@st.composite
def multi_discretes(draw):
    nvec = draw(hnp.arrays(np.int64, SMALL_SHAPES, elements=st.integers(1, 3)))
    return MultiDiscrete(nvec, start=draw(hnp.arrays(np.int64, nvec.shape, elements=STARTS)))


SPACES = st.one_of(
    st.builds(lambda n, start: Discrete(n, start=start), st.integers(1, 9), STARTS),
    multi_discretes(),
    st.builds(MultiBinary, st.one_of(st.integers(1, 6), SMALL_SHAPES)),
)


def all_actions(space) -> np.ndarray:
    """Every element of a space `[count, *space.shape]`, written down without the codec (at most the first 200)."""
    if isinstance(space, Discrete):
        return np.arange(space.start, space.start + space.n)
    starts = np.zeros(space.shape, int) if isinstance(space, MultiBinary) else space.start
    sizes = np.full(space.shape, 2) if isinstance(space, MultiBinary) else space.nvec
    ranges = [range(s, s + k) for s, k in zip(starts.ravel().tolist(), sizes.ravel().tolist(), strict=True)]
    return np.array(list(itertools.islice(itertools.product(*ranges), 200))).reshape(-1, *space.shape)


@settings(max_examples=60, deadline=None)
@given(space=SPACES)
def test_every_element_makes_an_exact_round_trip(space):
    codec = OneHotCodec(space)
    actions = all_actions(space)
    one_hot = codec.encode(actions)
    assert one_hot.shape == (len(actions), codec.n, codec.K)
    assert one_hot.dtype == np.float32
    np.testing.assert_array_equal(np.sort(one_hot, axis=-1)[..., -1], 1)
    np.testing.assert_array_equal(one_hot.sum(-1), 1)
    assert len(np.unique(one_hot.reshape(len(actions), -1), axis=0)) == len(actions)
    if codec.mask is not None:
        assert not one_hot[:, ~codec.mask.numpy()].any()
    decoded = codec.decode(one_hot)
    assert decoded.dtype == space.dtype
    np.testing.assert_array_equal(decoded, actions)
    np.testing.assert_array_equal(codec.from_indices(codec.to_indices(actions)), actions)


@settings(max_examples=60, deadline=None)
@given(space=SPACES, batch=BATCHES, seed=st.integers(0, 2**16))
def test_numpy_and_torch_agree_on_any_batch_shape(space, batch, seed):
    codec = OneHotCodec(space)
    elements = all_actions(space)
    actions = elements[np.random.default_rng(seed).integers(len(elements), size=batch)]
    one_hot, tensor = codec.encode(actions), codec.encode(torch.as_tensor(actions))
    assert one_hot.shape == tensor.shape == (*batch, codec.n, codec.K)
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(one_hot, tensor.numpy())
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        decoded = codec.decode(tensor.to(dtype))
        assert decoded.dtype == torch.int64
        np.testing.assert_array_equal(decoded.numpy(), actions)
    np.testing.assert_array_equal(codec.decode(one_hot.astype(np.float16)), actions)
    indices = codec.to_indices(actions)
    assert indices.shape == (*batch, codec.n)
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(indices, codec.to_indices(torch.as_tensor(actions)).numpy())
    np.testing.assert_array_equal(indices, one_hot.argmax(-1))


def test_discrete_by_hand():
    codec = OneHotCodec(Discrete(3, start=-1))
    assert (codec.n, codec.K, codec.sizes, codec.mask) == (1, 3, (3,), None)
    np.testing.assert_array_equal(codec.encode(1), [[0, 0, 1]])
    np.testing.assert_array_equal(codec.encode(np.array([-1, 0])), [[[1, 0, 0]], [[0, 1, 0]]])
    decoded = codec.decode(np.array([[0, 1, 0]]))
    assert isinstance(decoded, np.ndarray)
    assert decoded.shape == ()
    assert decoded == 0


def test_multi_discrete_by_hand():
    codec = OneHotCodec(MultiDiscrete([[2, 3], [1, 3]], start=[[0, -1], [5, 0]]))
    assert (codec.n, codec.K, codec.sizes) == (4, 3, (2, 3, 1, 3))
    expected_mask = [[True, True, False], [True, True, True], [True, False, False], [True, True, True]]
    assert codec.mask is not None
    assert codec.mask.dtype == torch.bool
    assert codec.mask.tolist() == expected_mask
    actions = np.array([[1, -1], [5, 2]])
    np.testing.assert_array_equal(codec.to_indices(actions), [1, 0, 0, 2])
    np.testing.assert_array_equal(codec.encode(actions), [[0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]])


def test_multi_binary_by_hand():
    codec = OneHotCodec(MultiBinary((2, 2)))
    assert (codec.n, codec.K, codec.sizes, codec.mask) == (4, 2, (2, 2, 2, 2), None)
    np.testing.assert_array_equal(codec.encode(np.array([[0, 1], [1, 0]])), [[1, 0], [0, 1], [0, 1], [1, 0]])
    np.testing.assert_array_equal(codec.encode(np.eye(2, dtype=bool)), codec.encode(np.eye(2)))
    assert codec.decode(np.array([[1, 0], [0, 1], [0, 1], [1, 0]])).tolist() == [[0, 1], [1, 0]]


def test_decode_takes_the_largest_entry_of_relaxed_rows_and_the_first_of_equals():
    codec = OneHotCodec(Discrete(3))
    assert codec.decode(torch.tensor([[[0.2, 0.5, 0.3]], [[0.4, 0.2, 0.4]], [[0.0, 0.0, 1 - 1e-7]]])).tolist() == [
        1,
        0,
        2,
    ]


def test_views_and_read_only_arrays_are_taken():
    codec = OneHotCodec(MultiDiscrete([3, 3]))
    actions = np.array([[0, 2], [1, 1]])[::-1]
    actions.flags.writeable = False
    np.testing.assert_array_equal(codec.decode(codec.encode(actions)[::-1]), [[0, 2], [1, 1]])


def test_works_under_vmap_and_agrees_with_the_batch():
    codec = OneHotCodec(MultiDiscrete([[2, 3], [1, 3]], start=[[0, -1], [5, 0]]))
    actions = torch.as_tensor(all_actions(codec.space))
    one_hot = torch.func.vmap(codec.encode)(actions)
    assert torch.equal(one_hot, codec.encode(actions))
    assert torch.equal(torch.func.vmap(codec.decode)(one_hot), actions)
    assert torch.equal(torch.func.vmap(torch.func.vmap(codec.decode))(one_hot[None]), actions[None])


def test_decode_works_inside_grad():
    codec = OneHotCodec(Discrete(3))

    def cost(weights):
        return (weights * codec.encode(codec.decode(weights))).sum()

    assert torch.func.grad(cost)(torch.tensor([[0.2, 0.5, 0.3]])).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("space", [Box(0, 1, (2,)), "Discrete(2)", None])
def test_other_spaces_are_refused(space):
    with pytest.raises(TypeError, match="space must be Discrete, MultiDiscrete or MultiBinary, but got"):
        OneHotCodec(space)


def test_empty_spaces_are_refused():
    with pytest.raises(ValueError, match="space must have at least one factor"):
        OneHotCodec(MultiDiscrete([]))
    without_a_choice = MultiDiscrete([2, 2])
    without_a_choice.nvec = np.array([2, 0])
    with pytest.raises(ValueError, match="each with at least one choice"):
        OneHotCodec(without_a_choice)


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize(
    ("space", "actions", "message"),
    [
        (Discrete(3, start=-1), 2, "actions takes 2 for factor 0, expected an integer from -1 to 1"),
        (Discrete(3, start=-1), [0, -2], "actions takes -2 for factor 0, expected an integer from -1 to 1"),
        (
            MultiDiscrete([3, 2], start=[0, 4]),
            [[0, 4], [1, 6]],
            "takes 6 for factor 1, expected an integer from 4 to 5",
        ),
        (MultiBinary((1, 2)), [[0, 2]], "actions takes 2 for factor 1, expected an integer from 0 to 1"),
        (Discrete(3), [0.0, 0.5], "actions must be integers, but got 0.5"),
        (Discrete(3), float("nan"), "actions must be integers, but got nan"),
        (Discrete(3), float("inf"), "actions must be integers, but got inf"),
        (MultiDiscrete([3, 2]), [0], r"actions must have shape \[\*batch, 2\], but got \[1\]"),
        (MultiBinary((1, 2)), [0, 1], r"actions must have shape \[\*batch, 1, 2\], but got \[2\]"),
        (MultiDiscrete([3, 2]), 0, r"actions must have shape \[\*batch, 2\], but got \[\]"),
    ],
)
def test_bad_actions_are_refused(space, actions, message, convert):
    with pytest.raises(ValueError, match=message):
        OneHotCodec(space).encode(convert(actions))
    with pytest.raises(ValueError, match=message):
        OneHotCodec(space).to_indices(convert(actions))


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_bad_indices_and_one_hot_matrices_are_refused(convert):
    codec = OneHotCodec(MultiDiscrete([3, 2], start=[0, 4]))
    with pytest.raises(ValueError, match="indices takes 2 for factor 1, expected an integer from 0 to 1"):
        codec.from_indices(convert([0, 2]))
    with pytest.raises(ValueError, match=r"indices must have shape \[\*batch, 2\], but got \[3\]"):
        codec.from_indices(convert([0, 1, 1]))
    with pytest.raises(ValueError, match="one_hot takes 2 for factor 1, expected an integer from 0 to 1"):
        codec.decode(convert([[1.0, 0, 0], [0, 0, 1]]))
    with pytest.raises(ValueError, match=r"one_hot must have shape \[\*batch, 2, 3\], but got \[3, 2\]"):
        codec.decode(convert([[1.0, 0], [0, 1], [0, 1]]))
    for row in ([0.0, 0, 0], [-1.0, -2, -3], [1.0, float("nan"), 0]):
        with pytest.raises(ValueError, match="one_hot must have a positive entry and no NaN in every row"):
            codec.decode(convert([[1.0, 0, 0], row]))


def test_what_is_no_number_is_refused():
    with pytest.raises(TypeError, match="actions must be numbers, but got an array of dtype <U1"):
        OneHotCodec(Discrete(3)).encode("a")
    with pytest.raises(TypeError, match=r"actions must be integers, but got a tensor of dtype torch.complex64"):
        OneHotCodec(Discrete(3)).encode(torch.tensor(1 + 0j))


def test_shapes_are_checked_under_vmap_too():
    codec = OneHotCodec(MultiDiscrete([3, 2]))
    with pytest.raises(ValueError, match=r"actions must have shape \[\*batch, 2\], but got \[3\]"):
        torch.func.vmap(codec.encode)(torch.zeros(4, 3, dtype=torch.int64))
