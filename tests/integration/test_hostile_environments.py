"""What an environment may not return is refused by name, in the same words by every learner, and nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from gsrl import DiscreteSAC, Population, Reinforce
from gsrl.checks import EnvironmentDataError
from gsrl.comms import DIAL
from gsrl.comms.riddle import SwitchRiddle
from gsrl.evaluation import evaluate_policy
from gsrl.vec_env import GymnasiumVecEnv, SyncVecEnv, monitored

NAN, INF = float("nan"), float("inf")
GOOD: dict[str, Any] = {
    "observation": np.zeros(2, np.float32),
    "reward": 1.0,
    "terminated": False,
    "truncated": False,
    "info": {},
}


class Hostile(gym.Env):
    """Ends after four steps; returns something else from the sixth on, or at the end of the second episode."""

    observation_space: Any = spaces.Box(-INF, INF, (2,))
    action_space: Any = spaces.Discrete(2)

    def __init__(self, at_the_end: bool = False, **wrong: Any) -> None:
        self.at_the_end, self.wrong = at_the_end, wrong
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return GOOD["observation"].copy(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        self.steps += 1
        result = {**GOOD, "info": {}, "truncated": self.steps % 4 == 0}
        if self.steps >= (8 if self.at_the_end else 6):
            result |= self.wrong
        return tuple(result.values())  # type: ignore[return-value]


def agent(algorithm: Any, env: Any) -> Any:
    settings: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "seed": 0, "device": "cpu"}
    if algorithm is DiscreteSAC:
        return DiscreteSAC("MlpPolicy", env, buffer_size=100, learning_starts=2, batch_size=4, **settings)
    return Reinforce("MlpPolicy", env, n_episodes=env.num_envs if isinstance(env, VecEnv) else 1, **settings)


def single(algorithm: Any) -> Callable[..., Any]:
    return lambda make: agent(algorithm, make())


def several(algorithm: Any) -> Callable[..., Any]:
    def build(make: Callable[[], gym.Env]) -> Any:
        env = DummyVecEnv([lambda: Hostile(), make])
        return agent(algorithm, VecNormalize(env) if algorithm is Reinforce else env)

    return build


def population(algorithm: Any) -> Callable[..., Any]:
    def build(make: Callable[[], gym.Env]) -> Any:
        made: list[gym.Env] = []

        def env() -> gym.Env:
            made.append(Hostile() if not made else make())
            return made[-1]

        small: dict[str, Any] = {"n_episodes": 1}
        if algorithm is DiscreteSAC:
            small = {"buffer_size": 100, "learning_starts": 2, "batch_size": 4}
        return Population(algorithm, env, [0, 1], policy_kwargs={"net_arch": [8]}, device="cpu", **small)

    return build


LEARNERS: dict[str, tuple[Callable[..., Any], int]] = {
    "DiscreteSAC": (single(DiscreteSAC), 0),
    "Reinforce": (single(Reinforce), 0),
    "DiscreteSAC, DummyVecEnv": (several(DiscreteSAC), 1),
    "Reinforce, VecNormalize": (several(Reinforce), 1),
    "population of DiscreteSAC": (population(DiscreteSAC), 1),
    "population of Reinforce": (population(Reinforce), 1),
}
NOT_FINITE: dict[str, tuple[dict[str, Any], str]] = {
    "nan observation": ({"observation": np.array([0, NAN], np.float32)}, "next_obs must be finite, but got nan"),
    "infinite observation": ({"observation": np.array([0, -INF], np.float32)}, "next_obs must be finite, but got -inf"),
    "nan reward": ({"reward": NAN}, "reward must be finite, but got nan"),
    "infinite reward": ({"reward": INF}, "reward must be finite, but got inf"),
    "huge reward": ({"reward": 1e300}, "reward must be finite, but got inf"),
}


def parameters(learner: Any) -> list[torch.Tensor]:
    members = learner._members if isinstance(learner, Population) else [learner]
    return [parameter.clone() for member in members for parameter in member.policy.parameters()]


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
@pytest.mark.parametrize("at_the_end", [False, True], ids=["in an episode", "at its end"])
@pytest.mark.parametrize("what", NOT_FINITE)
@pytest.mark.parametrize("learner", LEARNERS)
def test_all_learners_refuse_what_is_not_finite(learner: str, what: str, at_the_end: bool) -> None:
    build, index = LEARNERS[learner]
    wrong, message = NOT_FINITE[what]
    learning = build(lambda: Hostile(at_the_end, **wrong))
    learning.learn(4)
    with pytest.raises(EnvironmentDataError, match=f"^{message} in environment {index}$"):
        learning.learn(40, reset_num_timesteps=False)
    assert all(bool(parameter.isfinite().all()) for parameter in parameters(learning))


def test_rewards_of_vector_environments_that_are_beyond_float32_are_refused() -> None:
    model = agent(Reinforce, GymnasiumVecEnv(gym.vector.SyncVectorEnv([lambda: Hostile(reward=1e300)])))
    with pytest.raises(EnvironmentDataError, match=r"^reward must be finite, but got inf in environment 0$"):
        model.learn(40)


def test_nothing_is_learned_from_a_rollout_that_is_refused() -> None:
    env = Hostile(reward=NAN)
    model = agent(Reinforce, env).learn(4)
    before = parameters(model)
    with pytest.raises(EnvironmentDataError):
        model.learn(40, reset_num_timesteps=False)
    assert all(map(torch.equal, parameters(model), before))
    env.wrong = {}
    model.learn(8, reset_num_timesteps=False)  # goes on, from a fresh rollout
    assert not all(map(torch.equal, parameters(model), before))


def test_teams_refuse_what_is_not_finite() -> None:
    class Broken(SwitchRiddle):
        wrong = ""

        def step(self, actions: Any) -> Any:
            turn, rewards, over = super().step(actions)
            if self.wrong in ("nan", "huge"):
                rewards = np.full(rewards.shape, NAN if self.wrong == "nan" else 1e300)
            if self.wrong == "observation":
                turn = turn._replace(observations=turn.observations * NAN)
            return turn, rewards, over

    teams = DIAL(lambda: Broken(3), hidden=8, batch_size=4, device="cpu").learn(4)
    before = [parameter.clone() for parameter in teams.lockstep.losses[0].network.parameters()]
    for Broken.wrong, told in (
        ("nan", "rewards must be finite, but got nan in environment 0"),
        ("huge", r"rewards must be finite, but got 1e\+300, beyond float32, in environment 0"),
        ("observation", "observations must be finite, but got nan in row 0"),
    ):
        with pytest.raises(ValueError, match=f"^{told}"):
            teams.learn(4)
    assert all(map(torch.equal, teams.lockstep.losses[0].network.parameters(), before))
    assert teams.lockstep.alive.tolist() == [True]


# Other kinds

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "number for a vector": ({"observation": np.float32(1)}, r"observation must have shape \(2,\), but got \(\) in"),
    "one for two": ({"observation": np.ones(1, np.float32)}, r"observation must have shape \(2,\), but got \(1,\) in"),
    "row": ({"observation": np.ones((1, 2), np.float32)}, r"observation must have shape \(2,\), but got \(1, 2\) in"),
    "complex observation": ({"observation": np.full(2, 1j)}, r"observation must be real numbers, but got .*1j.* in"),
    "no observation": ({"observation": None}, r"observation must have shape \(2,\), but got \(\) in"),
    "text observation": ({"observation": ["a", "b"]}, "observation must be real numbers, but got .*'a'.* in"),
    "complex reward": ({"reward": 1j}, "reward must be a real number, but got 1j in"),
    "no reward": ({"reward": None}, "reward must be a real number, but got None in"),
    "text reward": ({"reward": "1.0"}, "reward must be a real number, but got '1.0' in"),
    "two rewards": ({"reward": np.ones(2)}, r"reward must be a real number, but got array\(\[1., 1.\]\) in"),
    "no end": ({"terminated": None}, "terminated must be True or False, but got None in"),
    "complex end": ({"terminated": 1j}, "terminated must be True or False, but got 1j in"),
    "text end": ({"truncated": "False"}, "truncated must be True or False, but got 'False' in"),
    "number for an end": ({"truncated": 2}, "truncated must be True or False, but got 2 in"),
    "several ends": ({"terminated": np.array([True, False])}, "terminated must be True or False, but got array"),
    "no info": ({"info": None}, "info must be a dict, but got None in"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("build", [single(DiscreteSAC), single(Reinforce), population(Reinforce)])
def test_what_an_environment_may_not_return_is_refused_by_name(build: Any, what: str) -> None:
    wrong, message = WRONG[what]
    if what in ("several ends", "no info", "number for an end"):
        env = SyncVecEnv([lambda: Hostile(**wrong)])  # Monitor itself, or a rule of Python, is at it first
        env.reset()
        for _ in range(5):
            env.step(np.zeros(1, np.int64))
        with pytest.raises(EnvironmentDataError, match=f"^{message}"):
            env.step(np.zeros(1, np.int64))
        return
    with pytest.raises(EnvironmentDataError, match=f"^{message}"):
        build(lambda: Hostile(**wrong)).learn(40)


@pytest.mark.parametrize("reward", [np.float16(2), np.int32(2), np.array(2.0), np.array([2.0]), True])
def test_rewards_may_be_numbers_of_any_kind(reward: Any) -> None:
    env = SyncVecEnv([lambda: Hostile(reward=reward, terminated=np.bool_(False), truncated=np.array(False))])
    env.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rewards = [env.step(np.zeros(1, np.int64))[1][0] for _ in range(6)]
    assert rewards == [1.0] * 5 + [float(np.asarray(reward).item())]


def test_entries_of_observations_are_refused_by_name() -> None:
    class Dicts(Hostile):
        observation_space = spaces.Dict(a=spaces.Discrete(3), b=Hostile.observation_space)

        def reset(self, **_: Any) -> tuple[Any, dict]:
            return {"a": 1, "b": np.zeros(2, np.float32)}, {}

    for wrong, message in (
        ({"a": 1, "b": np.zeros(1)}, r"observation\['b'\] must have shape \(2,\), but got \(1,\) in environment 0"),
        ({"a": [1, 2], "b": np.zeros(2)}, r"observation\['a'\] must have shape \(\), but got \(2,\) in environment 0"),
        ({"a": NAN, "b": np.zeros(2)}, r"observation\['a'\] must be finite, but got nan in environment 0"),
        ({"b": np.zeros(2)}, r"observation must have the entries \['a', 'b'\], but got {'b'.*} in environment 0"),
    ):
        env = SyncVecEnv([lambda wrong=wrong: Dicts(observation=wrong)])  # type: ignore[misc]
        env.reset()
        env.envs[0].unwrapped.steps = 5
        with pytest.raises(EnvironmentDataError, match=f"^{message}$"):
            env.step(np.zeros(1, np.int64))


@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_final_observations_of_foreign_environments_are_not_broadcast(algorithm: Any) -> None:
    class Short(Hostile):
        def step(self, action: Any) -> Any:
            observation, *rest = super().step(action)
            return observation[:1] if rest[2] else observation, *rest

    model = agent(algorithm, DummyVecEnv([Short]))
    with pytest.raises(
        EnvironmentDataError, match=r"^terminal_observation must have shape \(2,\), but got \(1,\) in env"
    ):
        model.learn(40)


class Foreign(VecEnv):
    """Two environments whose arrays are made by somebody else."""

    def __init__(self, **wrong: Any) -> None:
        super().__init__(2, Hostile.observation_space, Hostile.action_space)
        self.wrong = wrong

    def reset(self) -> Any:
        return np.zeros((2, 2), np.float32)

    def step_async(self, actions: np.ndarray) -> None:
        pass

    def step_wait(self) -> Any:
        arrays = {"observation": np.zeros((2, 2), np.float32), "reward": np.ones(2), "done": np.zeros(2, np.bool_)}
        return *(arrays | self.wrong).values(), [{}, {}]

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name == "render_mode":
            return [None, None]
        raise AttributeError(attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        pass

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return [None, None]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [True, True]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"observation": np.zeros((2, 1))}, r"next_obs must have shape \(2, 2\), but got \(2, 1\)"),
        (
            {"reward": np.array([1, 1j])},
            r"reward must be real numbers, but got np.complex128\(1\+0j\) in environment 0",
        ),
        ({"reward": np.array([1, None])}, "reward must be real numbers, but got None in environment 1"),
        ({"reward": np.zeros((2, 1))}, r"reward must have shape \(2,\), but got \(2, 1\)"),
        ({"done": np.array([False, None])}, "done must be True or False, but got None in environment 1"),
        ({"done": np.array([0.5, 0])}, r"done must be True or False, but got np.float64\(0.5\) in environment 0"),
    ],
)
@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_arrays_of_foreign_environments_are_refused_by_name(algorithm: Any, wrong: Any, message: str) -> None:
    with pytest.raises(EnvironmentDataError, match=f"^{message}$"):
        agent(algorithm, Foreign(**wrong)).learn(40)


def test_arrays_of_vector_environments_are_refused_by_name() -> None:
    class Vector(gym.vector.SyncVectorEnv):
        wrong: Any = ()

        def step(self, actions: Any) -> Any:
            result = list(super().step(actions))
            place, value = self.wrong
            result[place] = value
            return tuple(result)

    for place, value, message in (
        (1, np.array([1j]), "reward must be real numbers, but got .*1j.* in environment 0"),
        (2, np.array([None]), "terminated must be True or False, but got None in environment 0"),
        (3, np.array([2]), r"truncated must be True or False, but got np.int64\(2\) in environment 0"),
    ):
        Vector.wrong = (place, value)
        env = GymnasiumVecEnv(Vector([Hostile]))
        env.reset()
        with pytest.raises(EnvironmentDataError, match=f"^{message}$"):
            env.step(np.zeros(1, np.int64))


def test_evaluation_refuses_an_observation_of_the_wrong_shape() -> None:
    model = agent(DiscreteSAC, Hostile())
    with pytest.raises(
        EnvironmentDataError, match=r"^observation must have shape \(2,\), but got \(1,\) in environment 0$"
    ):
        evaluate_policy(model, Hostile(observation=np.ones(1, np.float32)), 4, warn=False)


# Infos that are used again


class Reuser(Hostile):
    def __init__(self) -> None:
        super().__init__()
        self.info: dict[str, Any] = {}

    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], self.info


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_an_info_that_is_used_again_tells_of_no_old_episode(algorithm: Any, foreign: bool) -> None:
    model = agent(algorithm, DummyVecEnv([lambda: Monitor(Reuser())]) if foreign else Reuser())
    model.learn(23)
    assert [episode["l"] for episode in model.ep_info_buffer] == [4] * (model.num_timesteps // 4)


def test_sync_vec_env_leaves_nothing_in_an_info_that_is_used_again() -> None:
    env = SyncVecEnv([lambda: monitored(Reuser())])
    env.reset()
    for step in range(1, 10):
        info = env.step(np.zeros(1, np.int64))[3][0]
        assert ("episode" in info, "terminal_observation" in info) == (step % 4 == 0,) * 2
        assert info["TimeLimit.truncated"] is (step % 4 == 0)


# Processes


@pytest.mark.parametrize(
    ("make", "victim"),
    [
        (lambda: SubprocVecEnv([Hostile] * 2, start_method="fork"), 0),
        (lambda: SubprocVecEnv([Hostile] * 2, start_method="fork"), 1),
        (lambda: gym.vector.AsyncVectorEnv([Hostile] * 2), 1),
    ],
    ids=["first of SubprocVecEnv", "last of SubprocVecEnv", "AsyncVectorEnv"],
)
@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_a_killed_worker_ends_the_training_with_a_sentence(algorithm: Any, make: Any, victim: int) -> None:
    env = make()
    model = agent(algorithm, env if isinstance(env, VecEnv) else GymnasiumVecEnv(env))
    killer = threading.Timer(0.2, os.kill, (env.processes[victim].pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(RuntimeError, match=f"that of environment {victim} has ended, with exit code -9"):
        model.learn(10**7)
    model.get_env().close()
    assert not any(process.is_alive() for process in env.processes)


def test_a_killed_worker_ends_an_evaluation_with_a_sentence() -> None:
    env = SubprocVecEnv([Hostile] * 2, start_method="fork")
    model = agent(DiscreteSAC, Hostile())
    os.kill(env.processes[1].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="that of environment 1 has ended, with exit code -9"):
        evaluate_policy(model, env, warn=False)


def test_a_killed_worker_is_named_where_an_agent_is_made() -> None:
    env = SubprocVecEnv([Hostile] * 2, start_method="fork")
    os.kill(env.processes[1].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="that of environment 1 has ended, with exit code -9"):
        agent(DiscreteSAC, env)
