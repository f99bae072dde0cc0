"""Masks: checked, as matrices, written by the wrapper, and found again in vectorised environments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import FilterObservation, TimeLimit
from numpy.typing import ArrayLike
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize

from gsrl.masking import ActionMasker, VecActionMasker, adapt, check_masks, current_masks, to_matrix
from gsrl.spaces import OneHotCodec
from gsrl.vec_env import GymnasiumVecEnv

THREE = OneHotCodec(spaces.Discrete(3))
UNEVEN = OneHotCodec(spaces.MultiDiscrete([2, 3]))
T, F = True, False


class Ring(gym.Env):
    """Position p on a ring of 3, where action p is illegal and raises. An action moves there.

    An episode starts one further than the one before, at 0 first, and terminates on the third step. It gives no masks.
    """

    observation_space: spaces.Space = spaces.Box(0, 3, (1,), np.float32)
    action_space = spaces.Discrete(3)
    start = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.start = (self.start + 1) % 3
        self.position, self.time = self.start, 0
        return self.observe(), self.info()

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == self.position:
            raise ValueError(f"illegal action {action}")
        self.position, self.time = int(action), self.time + 1
        return self.observe(), 1.0, self.time == 3, False, self.info()

    def mask(self) -> np.ndarray:
        return np.arange(3) != self.position

    def observe(self) -> Any:
        return np.array([self.position], np.float32)

    def info(self) -> dict[str, Any]:
        return {}


class RingWithMethod(Ring):
    def action_masks(self) -> np.ndarray:
        if self.time == 3:
            raise RuntimeError("asked after the end")
        return self.mask()

    legal = action_masks


class RingWithInfo(Ring):
    def info(self) -> dict[str, Any]:
        return {"action_mask": self.mask().astype(np.int8), "legal": self.mask(), "position": self.position}


class RingWithObservation(Ring):
    observation_space = spaces.Dict(
        position=Ring.observation_space, action_mask=spaces.MultiBinary(3), legal=spaces.MultiBinary(3)
    )

    def observe(self) -> Any:
        mask = self.mask().astype(np.int8)
        return {"position": super().observe(), "action_mask": mask, "legal": mask}


class Given(gym.Env):
    """Gives these masks in the info, one after the other; None: leaves it out."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)

    def __init__(self, *masks: Any, action_space: spaces.Space = Ring.action_space) -> None:
        self.masks, self.action_space = list(masks), action_space

    def info(self) -> dict[str, Any]:
        mask = self.masks.pop(0)
        return {} if mask is None else {"action_mask": mask}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(1, np.float32), self.info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), 0.0, False, False, self.info()


class TestCheckMasks:
    @pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.int64, np.float32])
    def test_booleans_of_any_dtype(self, dtype: type) -> None:
        masks = check_masks(THREE, np.array([[1, 0, 0], [0, 1, 1]], dtype))
        assert masks.dtype == np.bool_
        assert masks.tolist() == [[T, F, F], [F, T, T]]

    @pytest.mark.parametrize(
        ("codec", "masks", "message"),
        [
            (THREE, [1, 0], r"^masks must have shape \[\*batch, 3\] for Discrete\(3\), but got \[2\]"),
            (UNEVEN, [[1, 1, 1]], r"\[\*batch, 5\] for MultiDiscrete\(\[2 3\]\), but got \[1, 3\]"),
            (UNEVEN, ([1, 1], [1, 1, 1]), r"^masks must have shape \[\*batch, 5\] for .*, but got unequal lengths\.$"),
            (THREE, True, r"got \[\]"),
            (THREE, ["a", "b", "c"], r"^masks must be boolean, or 0 and 1, but got .*a"),
            (THREE, [1, None, 0], r"^masks must be boolean, or 0 and 1, but got None"),
            (THREE, [1, 2, 0], r"^masks must be boolean, or 0 and 1, but got .*2"),
            (THREE, [1.0, np.nan, 0.0], r"0 and 1, but got .*nan"),
            (THREE, [0, 0, 0], r"^masks must leave every factor a legal choice, but got none for factor 0\.$"),
            (THREE, [[1, 0, 0], [0, 0, 0]], r"got none for factor 0 in row 1\.$"),
            (UNEVEN, [[1, 0, 0, 0, 1], [1, 0, 0, 0, 0]], r"got none for factor 1 in row 1\.$"),
            (UNEVEN, [[[1, 0, 0, 0, 1], [0, 0, 0, 1, 0]]], r"got none for factor 0 in row \(0, 1\)\.$"),
        ],
    )
    def test_errors(self, codec: OneHotCodec, masks: ArrayLike, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check_masks(codec, masks)

    def test_the_name_in_the_error(self) -> None:
        with pytest.raises(ValueError, match=r"^action_masks must have shape"):
            check_masks(THREE, [T], "action_masks")


class TestToMatrix:
    @pytest.mark.parametrize(
        ("space", "flat", "matrix"),
        [
            (spaces.Discrete(3, start=5), [T, F, T], [[T, F, T]]),
            (spaces.MultiDiscrete([2, 2]), [T, F, F, T], [[T, F], [F, T]]),
            (spaces.MultiDiscrete([2, 3, 1]), [T, F, F, T, T, T], [[T, F, F], [F, T, T], [T, F, F]]),
            (spaces.MultiDiscrete([[1, 2], [2, 1]]), [T, F, T, T, F, T], [[T, F], [F, T], [T, F], [T, F]]),
            (spaces.MultiBinary(2), [T, F, T, T], [[T, F], [T, T]]),
        ],
    )
    @pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
    def test_values(self, space: spaces.Space, flat: list[bool], matrix: list[list[bool]], batch: tuple) -> None:
        codec = OneHotCodec(space)
        result = to_matrix(codec, np.broadcast_to(flat, (*batch, len(flat))))
        assert result.dtype == np.bool_
        np.testing.assert_array_equal(result, np.broadcast_to(matrix, (*batch, codec.n, codec.K)))

    @pytest.mark.parametrize("nvec", [[4], [3, 3], [2, 4, 3]])
    def test_all_legal_is_the_mask_of_the_space(self, nvec: list[int]) -> None:
        codec = OneHotCodec(spaces.MultiDiscrete(nvec))
        everything = to_matrix(codec, np.ones(sum(nvec), bool))
        np.testing.assert_array_equal(everything, np.ones_like(everything) if codec.mask is None else codec.mask)

    def test_values_are_checked_unless_told_otherwise(self) -> None:
        with pytest.raises(ValueError, match="got none for factor 1 in row 0"):
            to_matrix(UNEVEN, [[T, T, F, F, F]])
        assert to_matrix(UNEVEN, [[T, T, F, F, F]], validate_args=False).tolist() == [[[T, T, F], [F, F, F]]]
        with pytest.raises(ValueError, match="must have shape"):
            to_matrix(UNEVEN, [[T, T, F]], validate_args=False)


class TestActionMasker:
    @pytest.mark.parametrize(
        ("make", "source", "name"),
        [
            (RingWithMethod, None, None),
            (RingWithMethod, "method", None),
            (RingWithMethod, "method", "legal"),
            (RingWithInfo, None, None),
            (RingWithInfo, "info", None),
            (RingWithInfo, "info", "legal"),
            (RingWithObservation, None, None),
            (RingWithObservation, "observation", None),
            (RingWithObservation, "observation", "legal"),
            (Ring, lambda env: env.unwrapped.mask(), None),
            (Ring, lambda env: env.unwrapped.mask().tolist(), None),
        ],
    )
    def test_sources(self, make: Callable[[], gym.Env], source: Any, name: str | None) -> None:
        env = ActionMasker(make(), source, name=name)
        for start in (0, 1):
            _, info = env.reset(seed=0)
            assert info["action_mask"].dtype == np.bool_
            assert info["action_mask"].tolist() == [position != start for position in range(3)]
            for action, mask in (((start + 1) % 3, None), (start, None), ((start + 2) % 3, [T, T, T])):
                _, reward, terminated, truncated, info = env.step(action)
                assert info["action_mask"].dtype == np.bool_
                assert info["action_mask"].tolist() == (mask or [position != action for position in range(3)])
            assert (reward, terminated, truncated) == (1.0, True, False)

    def test_a_method_of_a_wrapper(self) -> None:
        class Masks(gym.Wrapper):
            def action_masks(self) -> np.ndarray:
                return np.array([F, T, F])

        assert ActionMasker(TimeLimit(Masks(Ring()), 5)).reset()[1]["action_mask"].tolist() == [F, T, F]

    def test_the_rest_of_the_info_is_kept_and_the_environments_own_is_not_written_to(self) -> None:
        own = {"action_mask": np.array([1, 0, 0]), "kept": 7}

        class Env(Ring):
            def info(self) -> dict[str, Any]:
                return own

        _, info = ActionMasker(Env()).reset()
        assert info["kept"] == 7
        info["action_mask"][:] = True
        assert own["action_mask"].tolist() == [1, 0, 0]

    def test_a_mask_that_the_environment_writes_over_later(self) -> None:
        mask = np.array([T, F, T])
        _, info = ActionMasker(Given(mask)).reset()
        mask[:] = False
        assert info["action_mask"].tolist() == [T, F, T]

    def test_truncation_needs_the_mask_of_the_final_state(self) -> None:
        env = ActionMasker(TimeLimit(RingWithMethod(), 2))
        env.reset()
        env.step(1)
        _, _, terminated, truncated, info = env.step(2)
        assert (terminated, truncated) == (False, True)
        assert info["action_mask"].tolist() == [T, T, F]

    @pytest.mark.parametrize(
        ("space", "mask", "flat"),
        [
            (spaces.MultiDiscrete([2, 3]), (np.array([1, 0], np.int8), np.array([0, 1, 1], np.int8)), [T, F, F, T, T]),
            (spaces.MultiDiscrete([2, 3]), [T, F, F, T, T], [T, F, F, T, T]),
            (spaces.MultiBinary(2), [T, F, T, T], [T, F, T, T]),
            (spaces.Discrete(3), (T, F, T), [T, F, T]),
        ],
    )
    def test_forms(self, space: spaces.Space, mask: Any, flat: list[bool]) -> None:
        assert ActionMasker(Given(mask, action_space=space)).reset()[1]["action_mask"].tolist() == flat

    def test_the_mask_can_be_removed_from_the_observation_outside(self) -> None:
        env = FilterObservation(ActionMasker(RingWithObservation()), ["position"])
        observation, info = env.reset()
        assert observation.keys() == {"position"}
        assert info["action_mask"].tolist() == [F, T, T]

    def test_the_environment_can_be_made_again_from_its_spec(self) -> None:
        gym.register("gsrl/RingOfTheMaskingTests-v0", RingWithMethod)
        try:
            env = ActionMasker(gym.make("gsrl/RingOfTheMaskingTests-v0"), "method", name="legal")
            assert env.spec is not None
            again = gym.make(env.spec)
            assert again.reset()[1]["action_mask"].tolist() == [F, T, T]
        finally:
            del gym.registry["gsrl/RingOfTheMaskingTests-v0"]

    @pytest.mark.parametrize(
        ("env", "settings", "message"),
        [
            (Ring(), {"source": "method"}, r"'method', but .*Ring.* has no method 'action_masks'"),
            (RingWithMethod(), {"source": "method", "name": "valid"}, "has no method 'valid'"),
            (Ring(), {"source": "observation"}, "has no entry 'action_mask'"),
            (RingWithObservation(), {"source": "observation", "name": "m"}, "has no entry 'm'"),
            (Ring(), {"source": "mask"}, "must be 'info', 'method', 'observation' or a function, but got 'mask'"),
            (Ring(), {"name": "mask"}, "name goes with"),
            (Ring(), {"source": lambda env: None, "name": "mask"}, "name goes with"),
        ],
    )
    def test_wrong_arguments(self, env: gym.Env, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ActionMasker(env, **settings)

    def test_wrong_action_space(self) -> None:
        with pytest.raises(TypeError, match="must be Discrete, MultiDiscrete or MultiBinary"):
            ActionMasker(Given(action_space=spaces.Box(0, 1, (3,))))

    @pytest.mark.parametrize(
        ("env", "message"),
        [
            (Ring(), "got none from its info, method and observation"),
            (Given([T, F]), r"the action mask must have shape \[\*batch, 3\] for Discrete\(3\), but got \[2\]"),
            (Given([[T, F, T]]), r"the action mask must be a flat array, but got shape \(1, 3\)"),
            (Given(True), r"flat array, but got shape \(\)"),
            (Given([3, 0, 1]), "the action mask must be boolean, or 0 and 1, but got .*3"),
            (Given([F, F, F]), "the action mask must leave every factor a legal choice, but got none for factor 0"),
        ],
    )
    def test_wrong_masks(self, env: gym.Env, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ActionMasker(env).reset()

    def test_a_mask_missing_later(self) -> None:
        env = ActionMasker(Given([T, F, T], None), "info")
        env.reset()
        with pytest.raises(ValueError, match=r"Given.* must give an action mask at every reset and step, but got none"):
            env.step(0)


class TestAdapt:
    def test_the_method_of_a_wrapped_environment(self) -> None:
        env = adapt(TimeLimit(RingWithMethod(), 5))
        assert isinstance(env, ActionMasker)
        assert env.reset()[1]["action_mask"].tolist() == [F, T, T]

    @pytest.mark.parametrize(
        "make",
        [
            Ring,
            RingWithInfo,
            lambda: TimeLimit(ActionMasker(RingWithMethod()), 5),
            lambda: DummyVecEnv([Ring]),
            lambda: DummyVecEnv([lambda: ActionMasker(RingWithMethod())]),
            lambda: VecActionMasker(DummyVecEnv([RingWithMethod])),
        ],
        ids=["no masks", "in the info", "wrapped", "VecEnv", "VecEnv of wrapped", "VecEnv with masks"],
    )
    def test_anything_else_as_it_is(self, make: Callable[[], Any]) -> None:
        env = make()
        assert adapt(env) is env

    def test_vector_environments(self) -> None:
        vector_env = SyncVectorEnv([RingWithInfo, RingWithInfo])
        env = adapt(vector_env)
        assert isinstance(env, GymnasiumVecEnv)
        assert env.vector_env is vector_env


class TestVecActionMasker:
    @pytest.mark.parametrize("make", [RingWithMethod, RingWithObservation])
    @pytest.mark.parametrize("vec_env_class", [DummyVecEnv, SubprocVecEnv])
    def test_masks_are_those_of_the_states_that_are_acted_in(self, make: Any, vec_env_class: Any) -> None:
        plain = VecMonitor(vec_env_class([make, lambda: TimeLimit(make(), 2)]))
        env = adapt(plain)
        assert isinstance(env, VecActionMasker)
        env.reset()
        assert current_masks(env).tolist() == [[F, T, T]] * 2
        infos: Any
        for actions, dones, expected in (
            ([1, 2], [F, F], [[T, F, T], [T, T, F]]),
            ([2, 0], [F, T], [[T, T, F], [T, F, T]]),  # the second was truncated, and begins anew at 1
            ([0, 2], [T, F], [[T, F, T], [T, T, F]]),  # the first terminated
        ):
            _, _, given, infos = env.step(np.array(actions))
            assert given.tolist() == dones
            assert current_masks(env, infos, given).tolist() == expected
            if dones[1]:
                of_final = [F, T, T] if make is RingWithObservation else [T, T, T]
                assert infos[1]["action_mask"].tolist() == of_final
            if dones[0]:
                assert infos[0]["action_mask"].tolist() == [T, T, T]
        env.close()

    def test_masks_of_infos_come_first(self) -> None:
        class Both(RingWithInfo):
            def action_masks(self) -> Any:
                raise RuntimeError("asked in vain")

        env = adapt(DummyVecEnv([Both]))
        env.reset()
        assert current_masks(env).tolist() == [[F, T, T]]
        _, _, dones, infos = env.step(np.array([1]))
        assert current_masks(env, infos, dones).tolist() == [[T, F, T]]

    def test_masks_are_read_as_they_came(self) -> None:
        class Numbers(RingWithObservation):
            observation_space = spaces.Dict(position=Ring.observation_space, action_mask=spaces.Box(0, 1, (3,)))

            def observe(self) -> Any:
                return {"position": Ring.observe(self), "action_mask": self.mask().astype(np.float32)}

        for wrap in (VecNormalize, lambda env: VecFrameStack(env, 2)):
            env = wrap(DummyVecEnv([Numbers]))
            assert adapt(env) is env
        assert isinstance(adapt(VecNormalize(DummyVecEnv([Numbers]), norm_obs_keys=["position"])), VecActionMasker)

    def test_wrong_masks_are_refused(self) -> None:
        class Wrong(Ring):
            def action_masks(self) -> Any:
                return np.zeros(3, np.bool_)

        with pytest.raises(ValueError, match="action masks must leave every factor a legal choice"):
            adapt(DummyVecEnv([Wrong])).reset()


class TestCurrentMasks:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda env: env,
            VecNormalize,
            lambda env: VecFrameStack(VecMonitor(env), 2),
        ],
        ids=["bare", "VecNormalize", "VecFrameStack of VecMonitor"],
    )
    def test_of_the_observation_that_comes_next(self, wrap: Callable[[Any], Any]) -> None:
        # Environment 1 is truncated by its second step: one step before environment 0 terminates.
        env = wrap(DummyVecEnv([RingWithInfo, lambda: TimeLimit(RingWithInfo(), 2)]))
        env.reset()
        assert current_masks(env).tolist() == [[F, T, T], [F, T, T]]
        _, _, dones, infos = env.step(np.array([1, 2]))
        assert current_masks(env, infos, dones).tolist() == [[T, F, T], [T, T, F]]
        _, _, dones, infos = env.step(np.array([2, 1]))
        assert dones.tolist() == [F, T]
        assert infos[1]["action_mask"].tolist() == [T, F, T]  # of the final observation
        assert current_masks(env, infos, dones).tolist() == [[T, T, F], [T, F, T]]  # its new episode starts at 1
        _, _, dones, infos = env.step(np.array([0, 2]))
        assert dones.tolist() == [T, F]
        assert current_masks(env, infos, dones).tolist() == [[T, F, T], [T, T, F]]
        env.reset()
        assert current_masks(env).tolist() == [[T, T, F], [T, T, F]]

    def test_in_other_processes(self) -> None:
        env = SubprocVecEnv([RingWithInfo, lambda: TimeLimit(RingWithInfo(), 1)], start_method="fork")
        try:
            env.reset()
            assert current_masks(env).tolist() == [[F, T, T], [F, T, T]]
            _, _, dones, infos = env.step(np.array([2, 2]))
            assert current_masks(env, infos, dones).tolist() == [[T, T, F], [T, F, T]]
        finally:
            env.close()

    def test_without_masks(self) -> None:
        env = DummyVecEnv([Ring, Ring])
        env.reset()
        assert current_masks(env) is None
        _, _, dones, infos = env.step(np.array([1, 1]))
        assert current_masks(env, infos, dones) is None

    def test_one_environment_of_two_gives_masks(self) -> None:
        env = DummyVecEnv([RingWithInfo, Ring])
        env.reset()
        with pytest.raises(ValueError, match=r"info\['action_mask'\] at every reset and step.*: environment 1 left"):
            current_masks(env)

    @pytest.mark.parametrize("masks", [([T, T, T], None), (None, [T, T, T])], ids=["reset only", "step only"])
    def test_masks_at_some_moments_only(self, masks: tuple[Any, Any]) -> None:
        env = DummyVecEnv([lambda: Given([T, F, T], [T, F, T]), lambda: Given(*masks)])
        env.reset()
        _, _, dones, infos = env.step(np.array([0, 0]))
        with pytest.raises(ValueError, match="environment 1 left it out"):
            current_masks(env, infos, dones)

    @pytest.mark.parametrize("masks", [([T, T, T], None), (None, [T, T, T])], ids=["reset only", "step only"])
    def test_masks_at_some_moments_only_of_a_single_environment(self, masks: tuple[Any, Any]) -> None:
        env = DummyVecEnv([lambda: Given(*masks)])
        env.reset()
        _, _, dones, infos = env.step(np.array([0]))
        with pytest.raises(ValueError, match="environment 0 left it out"):
            current_masks(env, infos, dones)

    def test_a_tuple_of_arrays_needs_the_wrapper(self) -> None:
        mask = (np.array([1, 0], np.int8), np.array([0, 1, 1], np.int8))
        space = spaces.MultiDiscrete([2, 3])
        env = DummyVecEnv([lambda: Given(mask, action_space=space)])
        env.reset()
        with pytest.raises(ValueError, match=r"info\['action_mask'\] must be .* wrap the environment in ActionMasker"):
            current_masks(env)
        env = DummyVecEnv([lambda: ActionMasker(Given(mask, action_space=space))])
        env.reset()
        assert current_masks(env).tolist() == [[T, F, F, T, T]]
