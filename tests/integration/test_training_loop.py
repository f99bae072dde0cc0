"""DiscreteSAC's own training loop against Stable-Baselines3's: the same steps, callbacks and parameters."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import RolloutReturn
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import nn

from gsrl import DiscreteSAC
from gsrl.callbacks import EvalCallback
from gsrl.learning import Learner
from gsrl.vec_env import SyncVecEnv

CARTPOLE = "CartPole-v1"
STAGES = {"environment", "acting", "replay", "update", "callbacks", "logging"}


class Reference(DiscreteSAC):
    """Acts by `predict`, and collects, as Stable-Baselines3 does."""

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> RolloutReturn:
        return OffPolicyAlgorithm.collect_rollouts(self, *args, **kwargs)

    def _sample_action(self, learning_starts: int, *args: Any, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
        if self.num_timesteps < learning_starts:
            return super()._sample_action(learning_starts, *args, **kwargs)
        assert self._last_obs is not None
        actions, _ = self.predict(self._last_obs, action_masks=self._last_masks)
        return actions, actions


class Log(BaseCallback):
    """What happens, in order, and the names that callbacks are shown; stops after `last` steps."""

    def __init__(self, last: int | None = None) -> None:
        super().__init__()
        self.last = last
        self.events: list[Any] = []
        self.names: set[str] = set()

    def _on_training_start(self) -> None:
        self.events.append("training start")

    def _on_rollout_start(self) -> None:
        self.events.append("rollout start")

    def _on_step(self) -> bool:
        self.names |= self.locals.keys()
        seen = {name: np.copy(self.locals[name]) for name in ("actions", "rewards", "dones", "new_obs")}
        episodes = [info.get("episode", {}).get("r") for info in self.locals["infos"]]
        counts = (self.num_timesteps, self.model._episode_num, self.model._n_updates, len(self.model.ep_info_buffer))
        self.events.append(("step", counts, episodes, {name: array.tolist() for name, array in seen.items()}))
        return self.n_calls != self.last

    def _on_rollout_end(self) -> None:
        self.events.append("rollout end")

    def _on_training_end(self) -> None:
        self.events.append("training end")


def train(
    algorithm: type[DiscreteSAC], last: int | None = None, n_envs: int = 1, **settings: Any
) -> tuple[DiscreteSAC, Log]:
    defaults: dict[str, Any] = {
        "learning_starts": 30,
        "batch_size": 8,
        # What the loop of Stable-Baselines3 knows nothing of.
        "reward_scale": 1.0,
        "exploration_eps": 0.0,
        "policy_kwargs": {"net_arch": [8], "normalize_observations": False},
        "seed": 0,
        "device": "cpu",
    }
    env = DummyVecEnv([lambda: Monitor(gym.make(CARTPOLE))] * n_envs)
    model = algorithm("MlpPolicy", env, **(defaults | settings))
    log = Log(last)
    return model.learn(150, callback=log, log_interval=2), log


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"last": 71},
        {"n_envs": 3},
        {"train_freq": 4, "gradient_steps": -1},
        {"train_freq": (1, "episode"), "gradient_steps": 2},
    ],
    ids=["one environment", "stopped by a callback", "three environments", "four steps", "episodes"],
)
def test_loop_is_stable_baselines3s(settings: dict[str, Any]) -> None:
    (ours, our_log), (theirs, their_log) = train(DiscreteSAC, **settings), train(Reference, **settings)
    assert our_log.events == their_log.events
    assert ours._n_updates == theirs._n_updates > 0
    assert [info["r"] for info in ours.ep_info_buffer] == [info["r"] for info in theirs.ep_info_buffer]
    if "last" not in settings:  # ours counts the step that ended the training
        assert ours._current_progress_remaining == theirs._current_progress_remaining
    for left, right in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert torch.equal(left, right)
    # What a loop variable was last is of no use to anyone.
    assert their_log.names - our_log.names <= {"idx", "done", "kwargs"}


def test_episodes_of_several_environments_are_refused() -> None:
    with pytest.raises(ValueError, match="train_freq must count steps where there are 2 environments"):
        train(DiscreteSAC, n_envs=2, train_freq=(1, "episode"))


# Acting


class Still(gym.Env[np.ndarray, Any]):
    """Nothing happens, whatever is done."""

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.observation_space = spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(3, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(5, start=-2),
        spaces.MultiDiscrete([[2, 4], [3, 2]]),
        spaces.MultiDiscrete([2, 3], dtype=np.uint64),
        spaces.MultiBinary(3),
    ],
    ids=str,
)
def test_acting_is_predicting(space: Any, masked: bool) -> None:
    model = DiscreteSAC("MlpPolicy", Still(space), policy_kwargs={"net_arch": [8]}, seed=0, device="cpu")
    sizes = model.policy.actor.head.codec.sizes
    rng = np.random.default_rng(0)
    observations = rng.uniform(-1, 1, (50, 3)).astype(np.float32)
    masks = rng.random((50, sum(sizes))) < 0.6 if masked else None
    if masks is not None:
        masks[:, np.cumsum((0, *sizes[:-1]))] = True  # the first choice of each factor
    state = model.generator.get_state()
    predicted, _ = model.policy.predict(observations, action_masks=masks)
    model.generator.set_state(state)
    acted = model.policy.act(observations, masks)
    np.testing.assert_array_equal(acted, predicted)
    assert (acted.dtype, acted.shape) == (predicted.dtype, predicted.shape)
    assert all(space.contains(action.astype(space.dtype)) for action in acted)
    assert len(np.unique(acted, axis=0)) > 3


class Stubborn(nn.Module):
    """Is in training mode for ever."""

    def train(self, mode: bool = True) -> Stubborn:
        return super().train(True)


def test_modes_are_switched_as_by_train() -> None:
    model = DiscreteSAC("MlpPolicy", CARTPOLE, seed=0, device="cpu")
    model.policy.actor.mlp.extra = nn.Sequential(nn.Dropout(), Stubborn())
    for mode in (False, True):
        model.policy.set_training_mode(mode)
        stubborn = {name for name, module in model.policy.named_modules() if isinstance(module, Stubborn)}
        assert {name for name, module in model.policy.named_modules() if module.training != mode} == (
            set() if mode else stubborn
        )


# On this machine


def test_compiling_is_not_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []

    def make_learner(*args: Any, compile: bool, **kwargs: Any) -> Learner:
        told.append(compile)
        return Learner(*args, **kwargs)

    monkeypatch.setattr("gsrl.algorithms.discrete_sac.Learner", make_learner)
    DiscreteSAC("MlpPolicy", CARTPOLE, device="cpu").save(tmp_path / "first.zip")
    loaded = DiscreteSAC.load(tmp_path / "first.zip", compile=True)
    loaded.save(tmp_path / "second.zip")
    assert DiscreteSAC.load(tmp_path / "second.zip").compile is False
    assert told == [False, True, False]


# Where the time goes


def test_a_single_environment_is_stepped_without_deep_copies() -> None:
    model = DiscreteSAC("MlpPolicy", CARTPOLE, device="cpu")
    assert isinstance(model.env, SyncVecEnv)
    assert model.env.env_is_wrapped(Monitor) == [True]
    given = DummyVecEnv([lambda: gym.make(CARTPOLE)])
    assert DiscreteSAC("MlpPolicy", given, device="cpu").env is given


def test_times_add_up_to_the_training() -> None:
    start = time.perf_counter()
    model, _ = train(DiscreteSAC)
    seconds = dict(model.stopwatch.seconds)
    assert seconds.keys() == STAGES
    assert min(seconds.values()) > 0
    assert sum(seconds.values()) < time.perf_counter() - start
    model.learn(20, reset_num_timesteps=False)
    assert all(model.stopwatch.seconds[name] > seconds[name] for name in STAGES - {"logging"})
    model.learn(20)
    assert model.stopwatch.seconds["environment"] < seconds["environment"]
    assert "update" not in model.stopwatch.seconds  # 20 steps are before the first one


def test_shares_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[dict[str, Any]] = []
    dump = DiscreteSAC.dump_logs

    def keep(self: DiscreteSAC) -> None:
        monkeypatch.setattr(self.logger, "dump", lambda step: records.append(dict(self.logger.name_to_value)))
        dump(self)

    monkeypatch.setattr(DiscreteSAC, "dump_logs", keep)
    train(DiscreteSAC)
    shares = {name: value for name, value in records[-1].items() if name.startswith("time/share_")}
    assert shares.keys() == {f"time/share_{stage}" for stage in STAGES}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert records[-1]["time/updates_per_second"] > 0


def test_evaluation_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0  # of evaluations: the only time that passes here

    class Timed(gym.Wrapper):
        def step(self, action: Any) -> Any:
            nonlocal steps
            steps += 1
            return super().step(action)

    def learn(make_callback: Callable[[VecEnv], BaseCallback | None]) -> dict[str, float]:
        env = DummyVecEnv([lambda: Monitor(Timed(gym.make(CARTPOLE)))])
        model = DiscreteSAC("MlpPolicy", CARTPOLE, learning_starts=50, seed=0, device="cpu")
        return model.learn(40, callback=make_callback(env)).stopwatch.seconds

    monkeypatch.setattr("gsrl.timing.time", SimpleNamespace(perf_counter=lambda: float(steps)))
    assert "evaluation" not in learn(lambda env: None)
    seconds = learn(lambda env: EvalCallback(env, eval_freq=20, n_eval_episodes=3, verbose=0))
    assert seconds["evaluation"] == steps > 0
    assert seconds["callbacks"] == 0


class Counter(gym.Env[np.ndarray, Any]):
    """Shows how many steps it has taken; at even ones the first choice is legal, at odd ones the second."""

    observation_space = spaces.Box(0, 1000, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.seen()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert action == self.steps % 2
        self.steps += 1
        observation, info = self.seen()
        return observation, 0.0, False, False, info

    def seen(self) -> tuple[np.ndarray, dict[str, Any]]:
        return np.array([self.steps], np.float32), {"action_mask": np.array([self.steps % 2 == 0, self.steps % 2])}


def test_a_training_that_a_callback_ended_goes_on_where_it_was() -> None:
    settings: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "buffer_size": 50, "learning_starts": 100}
    model = DiscreteSAC("MlpPolicy", Counter(), seed=0, device="cpu", **settings)
    model.learn(100, Log(last=8))
    assert model.num_timesteps == 8
    model.learn(5, reset_num_timesteps=False)
    model.n_steps = 1
    batch = model.replay_buffer.sample(1000)
    assert (batch.next_observations - batch.observations == 1).all()
    assert len(model.replay_buffer) == 13


@pytest.mark.parametrize("train_freq", [1, (1, "episode")])
def test_progress_ends_at_zero_where_steps_go_beyond_the_total(train_freq: Any) -> None:
    seen: list[float] = []

    def schedule(remaining: float) -> float:
        seen.append(remaining)
        return 1e-3 + 0.1 * remaining

    count = 3 if train_freq == 1 else 1
    model = DiscreteSAC(
        "MlpPolicy",
        DummyVecEnv([lambda: gym.make(CARTPOLE)] * count),
        learning_rate=schedule,
        ent_coef=schedule,
        learning_starts=9,
        train_freq=train_freq,
        policy_kwargs={"net_arch": [8]},
        seed=0,
        device="cpu",
    )
    model.learn(40)
    assert model.num_timesteps > 40
    assert min(seen) == 0
