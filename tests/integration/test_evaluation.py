"""Evaluation with action masks: the right mask at every step, and otherwise what Stable-Baselines3 does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy as sb3_evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize

from gsrl import DiscreteSAC
from gsrl.callbacks import EvalCallback
from gsrl.evaluation import evaluate_policy
from gsrl.masking import ActionMasker


class Ladder(gym.Env):
    """At height h (mod 5), only action h is legal and it climbs by one; the reward is the new height.

    Each episode starts one higher than the one before, at 0 first and after 4, and terminates at height 5. With
    `strict`, an illegal action raises.
    """

    observation_space = spaces.Box(0, 5, (1,), np.float32)
    action_space = spaces.Discrete(5)

    def __init__(self, strict: bool = True) -> None:
        self.strict, self.start = strict, -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.start = (self.start + 1) % 5
        self.height = self.start
        return self.observe(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.strict and action != self.height:
            raise ValueError(f"action {action} is illegal at height {self.height}")
        self.height += 1
        return self.observe(), float(self.height), self.height == 5, False, {"is_success": self.height == 5}

    def action_masks(self) -> np.ndarray:
        return np.arange(5) == self.height

    def observe(self) -> np.ndarray:
        return np.array([self.height], np.float32)


RETURNS, LENGTHS = [15.0, 14.0, 12.0, 9.0, 5.0], [5, 4, 3, 2, 1]  # of episodes that start at 0, 1, 2, 3, 4


def make_env() -> gym.Env:
    return Monitor(ActionMasker(Ladder()))


class FirstLegal:
    """Takes the first legal action, and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Any]:
        self.calls.append({"state": state, "deterministic": deterministic, "masks": action_masks})
        masks = np.ones((len(observation), 5), bool) if action_masks is None else action_masks
        return masks.argmax(1), len(self.calls)


class MaskedDQN(DQN):
    """An algorithm of Stable-Baselines3's kind, that takes masks; it learns without."""

    def predict(  # type: ignore[override]
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> Any:  # fmt: skip
        if action_masks is None:
            return super().predict(observation, state, episode_start, deterministic)
        return action_masks.argmax(-1), state


def make_dqn(env: Any, algorithm: type[DQN] = DQN, **settings: Any) -> DQN:
    return algorithm("MlpPolicy", env, learning_starts=10, seed=0, device="cpu", **settings)


class TestEvaluatePolicy:
    def test_a_single_environment(self) -> None:
        returns, lengths = evaluate_policy(FirstLegal(), make_env(), 7, return_episode_rewards=True)
        assert (returns, lengths) == (RETURNS + RETURNS[:2], LENGTHS + LENGTHS[:2])

    @pytest.mark.parametrize(
        "wrap",
        [lambda env: env, lambda env: VecNormalize(env, training=False), lambda env: VecFrameStack(VecMonitor(env), 2)],
        ids=["DummyVecEnv", "VecNormalize", "VecFrameStack"],
    )
    @pytest.mark.filterwarnings("ignore:The environment is already wrapped with a `Monitor`")
    def test_vectorised_ones(self, wrap: Callable[[Any], Any]) -> None:
        env = wrap(DummyVecEnv([make_env, lambda: Monitor(TimeLimit(ActionMasker(Ladder()), 2))]))
        returns, lengths = evaluate_policy(FirstLegal(), env, 6, return_episode_rewards=True)
        # The truncated episodes: 1 + 2, 2 + 3, 3 + 4.
        assert sorted(zip(returns, lengths, strict=True)) == [(3, 2), (5, 2), (7, 2), (12, 3), (14, 4), (15, 5)]

    def test_in_other_processes(self) -> None:
        env = SubprocVecEnv([make_env, make_env], start_method="fork")
        try:
            assert evaluate_policy(FirstLegal(), env, 4) == (14.5, 0.5)
        finally:
            env.close()

    def test_masks_are_flat_and_of_the_observation(self) -> None:
        model = FirstLegal()
        evaluate_policy(model, DummyVecEnv([make_env, make_env]), 4)
        assert [call["masks"].argmax(1).tolist() for call in model.calls] == [
            [height, height] for height in (0, 1, 2, 3, 4, 1, 2, 3, 4)
        ]
        assert all(call["masks"].shape == (2, 5) and call["masks"].dtype == np.bool_ for call in model.calls)

    @pytest.mark.parametrize("deterministic", [True, False])
    def test_the_other_arguments_reach_the_model(self, deterministic: bool) -> None:
        model = FirstLegal()
        evaluate_policy(model, make_env(), 1, deterministic)
        assert [call["state"] for call in model.calls] == [None, 1, 2, 3, 4]
        assert {call["deterministic"] for call in model.calls} == {deterministic}

    def test_callback_threshold_and_warning(self) -> None:
        heights: list[float] = []
        evaluate_policy(FirstLegal(), make_env(), 1, callback=lambda locals_, _: heights.append(locals_["reward"]))
        assert heights == [1, 2, 3, 4, 5]
        assert evaluate_policy(FirstLegal(), make_env(), 1, reward_threshold=14.9) == (15.0, 0.0)
        with pytest.raises(AssertionError, match="Mean reward below threshold"):
            evaluate_policy(FirstLegal(), make_env(), 1, reward_threshold=15.1)
        with pytest.warns(UserWarning, match="not wrapped with a ``Monitor``"):
            assert evaluate_policy(FirstLegal(), ActionMasker(Ladder()), 2) == (14.5, 0.5)

    def test_without_masks_the_model_gets_none(self) -> None:
        class Mute(Ladder):
            @property
            def action_masks(self) -> Any:
                raise AttributeError("no masks")

        model = FirstLegal()
        env = DummyVecEnv([lambda: Monitor(Mute(strict=False))])
        assert evaluate_policy(model, env, 2) == (14.5, 0.5)
        assert {call["masks"] for call in model.calls} == {None}

    def test_a_method_gives_the_masks_of_vectorised_environments(self) -> None:
        model = FirstLegal()
        evaluate_policy(model, DummyVecEnv([lambda: Monitor(Ladder())] * 2), 2)
        assert all(call["masks"].shape == (2, 5) for call in model.calls)

    def test_a_method_gives_the_masks_of_a_single_environment(self) -> None:
        assert evaluate_policy(FirstLegal(), Monitor(Ladder()), 2) == (14.5, 0.5)

    def test_gymnasium_vector_environments(self) -> None:
        assert evaluate_policy(FirstLegal(), SyncVectorEnv([make_env, make_env]), 4) == (14.5, 0.5)
        model = make_dqn(Ladder(strict=False))
        assert evaluate_policy(model, SyncVectorEnv([lambda: Ladder(strict=False)]), 2, warn=False) == (14.5, 0.5)

    def test_a_model_that_takes_no_masks_does_not_ask_the_method(self) -> None:
        class Wrong(Ladder):
            def action_masks(self) -> np.ndarray:
                raise RuntimeError("asked")

        model = make_dqn(Ladder(strict=False))
        assert evaluate_policy(model, Monitor(Wrong(strict=False)), 2) == (14.5, 0.5)

    def test_a_model_that_takes_no_masks(self) -> None:
        model = make_dqn(Ladder(strict=False))
        assert evaluate_policy(model, Monitor(ActionMasker(Ladder(strict=False))), 2) == (14.5, 0.5)
        with pytest.raises(ValueError, match="is illegal at height"):
            evaluate_policy(model, make_env(), 5)

    @pytest.mark.parametrize("n_envs", [1, 3])
    @pytest.mark.parametrize("make", [make_dqn, lambda env: DiscreteSAC("MlpPolicy", env, seed=0, device="cpu")])
    def test_without_masks_the_results_are_those_of_stable_baselines3(
        self, make: Callable[[Any], Any], n_envs: int
    ) -> None:
        def evaluated(function: Callable[..., Any]) -> Any:
            env = DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))] * n_envs)
            env.seed(3)
            return function(make("CartPole-v1"), env, 5, return_episode_rewards=True)

        assert evaluated(evaluate_policy) == evaluated(sb3_evaluate_policy)

    def test_masks_at_some_moments_only(self) -> None:
        class Forgetful(ActionMasker):
            def step(self, action: Any) -> Any:
                *rest, info = super().step(action)
                del info["action_mask"]
                return *rest, info

        with pytest.raises(ValueError, match=r"every environment must give info\['action_mask'\].*: environment 0"):
            evaluate_policy(FirstLegal(), Monitor(Forgetful(Ladder())))

    @pytest.mark.parametrize("deterministic", [True, False])
    def test_an_untrained_agent_stays_legal(self, deterministic: bool) -> None:
        model = DiscreteSAC("MlpPolicy", make_env(), seed=0, device="cpu", buffer_size=100)
        env = DummyVecEnv([make_env, make_env])
        assert evaluate_policy(model, env, 4, deterministic) == (14.5, 0.5)


class TestEvalCallback:
    def test_training_and_evaluation(self, tmp_path: Path) -> None:
        """Evaluations after 20 and 40 steps, of the episodes that start at 0 and 1, and at 3 and 4."""
        best_steps: list[int] = []

        class OnNewBest(BaseCallback):
            def _on_step(self) -> bool:
                assert type(self.model) is MaskedDQN
                best_steps.append(self.num_timesteps)
                return True

        model = make_dqn(Ladder(strict=False), MaskedDQN)
        callback = EvalCallback(
            make_env(),
            callback_on_new_best=OnNewBest(),
            n_eval_episodes=2,
            eval_freq=20,
            log_path=str(tmp_path),
            best_model_save_path=str(tmp_path),
            verbose=0,
        )
        model.learn(40, callback)
        assert callback.model is model
        assert best_steps == [20]
        assert callback.last_mean_reward == 7
        logged = np.load(tmp_path / "evaluations.npz")
        assert logged["timesteps"].tolist() == [20, 40]
        assert logged["results"].tolist() == [[15, 14], [9, 5]]
        assert logged["ep_lengths"].tolist() == [[5, 4], [2, 1]]
        assert logged["successes"].tolist() == [[True, True], [True, True]]
        assert MaskedDQN.load(tmp_path / "best_model").num_timesteps == 20

    def test_normalisation_is_that_of_the_training(self) -> None:
        training = VecNormalize(DummyVecEnv([lambda: Ladder(strict=False)]))
        evaluation = VecNormalize(DummyVecEnv([make_env]), training=False)
        callback = EvalCallback(evaluation, n_eval_episodes=1, eval_freq=28, verbose=0)
        make_dqn(training, MaskedDQN).learn(28, callback)
        assert evaluation.obs_rms.mean == training.obs_rms.mean != 0
        assert callback.last_mean_reward == 15

    def test_a_model_that_takes_no_masks(self) -> None:
        callback = EvalCallback(Monitor(Ladder(strict=False)), n_eval_episodes=2, eval_freq=20, verbose=0)
        make_dqn(Ladder(strict=False)).learn(20, callback)
        assert callback.last_mean_reward == 14.5

    @pytest.mark.parametrize("make", [lambda: Monitor(Ladder()), lambda: SyncVectorEnv([make_env])])
    @pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type")
    def test_environments_are_adapted(self, make: Callable[[], Any]) -> None:
        callback = EvalCallback(make(), n_eval_episodes=2, eval_freq=20, verbose=0)
        make_dqn(Ladder(strict=False), MaskedDQN).learn(20, callback)
        assert callback.last_mean_reward == 14.5

    def test_the_model_comes_back_after_an_error(self) -> None:
        class Broken(Ladder):
            def reset(self, **kwargs: Any) -> Any:
                raise OSError("gone")

        callback = EvalCallback(Monitor(Broken()), eval_freq=5, verbose=0)
        model = make_dqn(Ladder(strict=False), MaskedDQN)
        with pytest.raises(OSError, match="gone"):
            model.learn(5, callback)
        assert callback.model is model
