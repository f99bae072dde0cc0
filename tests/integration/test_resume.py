"""Runs that are killed and resumed end as those that were never interrupted; runs that fail keep what was saved."""

from __future__ import annotations

import errno
import functools
import itertools
import json
import multiprocessing
import operator
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from stable_baselines3.common.vec_env import VecNormalize

import run_agent
from gsrl import checkpoint
from gsrl.runs import trainees
from gsrl.runs.environments import make_environments
from gsrl.runs.rewind import Rewindable, RewindError, restore, snapshot, why_not_rewindable
from tests.common.command_line import assert_same_run, rows

SAC = ["--learning-starts", "50", "--batch-size", "16", "--n-steps", "3"]

SMALL = {
    "gumbel-sac": [*SAC, "--n-envs", "2"],
    "dqn": ["--learning-starts", "20", "--train-freq", "4", "--gradient-steps", "1"],
    "ppo": ["--steps", "320", "--n-envs", "2", "--n-steps", "16", "--batch-size", "16", "--n-epochs", "2"],
    "a2c": ["--n-envs", "2", "--normalize"],
    "reinforce": ["--n-episodes", "2", "--n-envs", "2", "--baseline", "running-mean", "--seed", "6"],
    "reinforce-relax": ["--n-episodes", "1", "--ent-coef", "0.01"],
}
"""Settings with which each agent trains in a second, and whose checkpoints come in the middle of episodes.

(Those of REINFORCE come between rollouts, which are whole episodes.)
"""


def train(folder: Path, agent: str, *options: str) -> int:
    often = ["--steps", "240", "--eval-every", "40", "--eval-episodes", "2"]
    return run_agent.main(["train", "--agent", agent, *often, *SMALL[agent], *options, "--out", str(folder)])


def resume(folder: Path, *options: str) -> int:
    return run_agent.main(["train", "--resume", str(folder), *options])


def interrupt_at(steps: int, monkeypatch: pytest.MonkeyPatch, how: Callable[[Any], None]) -> None:
    """Does something in a run once it has done some steps, in the middle of collecting more."""
    on_step = trainees._Collector._on_step

    def interrupted(self: Any) -> bool:
        if self.num_timesteps >= steps:
            how(self)
        return on_step(self)

    monkeypatch.setattr(trainees._Collector, "_on_step", interrupted)


def die(collector: Any) -> None:
    raise KeyboardInterrupt


def ask_to_stop(collector: Any) -> None:
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # which a second one would meet
        os.kill(os.getpid(), signal.SIGINT)


def from_steps(folder: Path) -> list[int]:
    """Where each process of a run began."""
    return [session["from_steps"] for session in json.loads((folder / "config.json").read_text())["sessions"]]


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs that nothing interrupted, and that saved no more than they had to: each is made once."""
    made: dict[tuple[str, ...], Path] = {}

    def whole(agent: str, *options: str) -> Path:
        if (agent, *options) not in made:
            folder = tmp_path_factory.mktemp("whole") / "run"
            assert train(folder, agent, *options, "--checkpoint-seconds", "inf") == 0
            made[agent, *options] = folder
        return made[agent, *options]

    return whole


@pytest.fixture
def copied(wholes: Callable[..., Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of them, to be spoilt."""
    return lambda agent: Path(shutil.copytree(wholes(agent), tmp_path / "run"))


# The same result


@pytest.mark.parametrize(
    ("agent", "options", "how"),
    [
        # Back to the last checkpoint, or on from where Ctrl-C was: in the middle of windows of three steps.
        ("gumbel-sac", (), die),
        ("gumbel-sac", (), ask_to_stop),
        # Several factors; masks, in replay and at the next step; an environment with a world in C++.
        ("gumbel-sac", ("--env", "gsrl/FactoredMatch-v0"), die),
        ("gumbel-sac", ("--env", "gsrl/MaskedGrid-v0"), ask_to_stop),
        ("gumbel-sac", ("--env", "LunarLander-v3", "--eval-every", "80", "--eval-episodes", "1"), ask_to_stop),
        # Stable-Baselines3's replay and exploration; its rollouts; running statistics of observations and returns.
        ("dqn", (), die),
        ("ppo", (), ask_to_stop),
        ("a2c", (), die),
        ("a2c", (), ask_to_stop),
        # Whole episodes, a running mean; three networks and two learners.
        ("reinforce", (), ask_to_stop),
        ("reinforce-relax", (), die),
    ],
)
def test_an_interrupted_run_ends_as_one_that_was_not(
    agent: str,
    options: tuple[str, ...],
    how: Callable[[Any], None],
    wholes: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "LunarLander-v3" in options:
        pytest.importorskip("Box2D")
    whole, folder = wholes(agent, *options), tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        interrupt_at(150, patch, how)
        assert train(folder, agent, *options) == 130
    assert len(rows(folder / "evaluations.csv")) < len(rows(whole / "evaluations.csv"))
    # Another process would not have this one's random numbers.
    random.random(), np.random.random(), torch.rand(1)
    assert resume(folder) == 0
    assert 100 < from_steps(folder)[1] < 200
    assert_same_run(whole, folder)


def test_what_a_kill_left_of_a_file_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(150, patch, die)
        assert train(tmp_path, "a2c") == 130
    for name in (".gsrl-0123456789abcdef.tmp", "episodes.csv.01234567.tmp", "config.json.01234567.tmp", "mine.tmp"):
        (tmp_path / name).write_text("half")
    assert resume(tmp_path) == 0
    assert [path.name for path in tmp_path.glob("*.tmp")] == ["mine.tmp"]


def test_a_run_killed_at_three_moments_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """By a signal that nobody can answer, in whatever it is doing, which is often to save."""
    steps = 600
    options = [*SAC, "--agent", "gumbel-sac", "--net-arch", "32", "--steps", str(steps)]
    options += ["--eval-every", str(steps // 3), "--eval-episodes", "1"]
    assert run_agent.main(["train", *options, "--out", str(tmp_path / "whole")]) == 0

    folder = tmp_path / "killed"
    argv = ["train", *options, "--checkpoint-seconds", "0", "--out", str(folder)]
    context = multiprocessing.get_context("forkserver")
    moments = np.random.default_rng(0).uniform(0.1, 0.8, size=3) * steps
    for moment in sorted(moments):
        process = context.Process(target=run_agent.main, args=(argv,))
        process.start()
        deadline = time.monotonic() + 60
        while last_row(folder / "progress.csv") < moment:
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.join()
        assert process.exitcode == -9
        argv = ["train", "--resume", str(folder)]
    assert resume(folder) == 0
    assert len(from_steps(folder)) == 4
    assert max(from_steps(folder)) > 0
    assert_same_run(tmp_path / "whole", folder)


def last_row(path: Path) -> float:
    """The steps that a growing log has come to."""
    lines = path.read_text().splitlines() if path.exists() else []
    steps = lines[-1].partition(",")[0] if lines else ""
    return float(steps) if steps.isdecimal() else 0.0


@pytest.mark.parametrize("agent", ["gumbel-sac", "ppo", "dqn", "reinforce-relax"])
def test_checkpoints_do_not_change_what_is_learned(
    agent: str, wholes: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gsrl.runs.run.SAVING_SHARE", 0)
    assert train(tmp_path / "always", agent, "--checkpoint-seconds", "0") == 0
    assert_same_run(wholes(agent), tmp_path / "always")


# Environments


class Drifting(CartPoleEnv):
    """Begins every episode of an instance by showing something else, whatever its seed."""

    episodes = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.episodes += 1
        observation, info = super().reset(seed=seed)
        return observation + np.float32(0.01 * self.episodes), info


class Unseeded(CartPoleEnv):
    """Draws from the global generator."""

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return observation + np.float32(1e-3 * np.random.random()), *rest


class Broken(CartPoleEnv):
    """Cannot be stepped."""

    def step(self, action: Any) -> Any:
        raise NotImplementedError("not yet")


class Masked(gym.Env):
    """Episodes of three steps in which one of two actions is legal, and the other raises."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}
    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self.show()

    def step(self, action: Any) -> Any:
        if action != self.legal:
            raise ValueError("illegal")
        self.time += 1
        observation, info = self.show()
        return observation, 0.0, False, self.time == 3, info

    def show(self) -> Any:
        self.legal = self.np_random.integers(2)
        return self.np_random.random(1, np.float32), {"action_mask": np.arange(2) == self.legal}


class MaskedByInstance(CartPoleEnv):
    """Allows another thing in every second instance, from some step of it on; the rest is the same."""

    made = itertools.count()

    def __init__(self, since: int) -> None:
        super().__init__()
        self.since = since if next(self.made) % 2 else 1000
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset(seed=seed)[0], {"action_mask": self.mask()}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return *super().step(action)[:-1], {"action_mask": self.mask()}

    def mask(self) -> np.ndarray:
        return np.array([True, self.steps < self.since])


def test_a_rewound_environment_goes_on_as_the_first() -> None:
    first, second = (gym.make("CartPole-v1", max_episode_steps=12) for _ in range(2))
    first, second = Rewindable(first), Rewindable(second)
    first.reset(seed=5)
    first.step(0)
    first.reset()  # draws from the generator where the first episode left it
    for action in (0, 1, 1, 0, 1):
        first.step(np.int64(action))
    state = first.get_state()
    assert state["actions"].tolist() == [0, 1, 1, 0, 1]
    second.set_state(state)
    assert second.get_state()["generator"] == state["generator"]
    for action in (1, 0, 0, 1, 0, 1, 1):
        expected, actual = first.step(action), second.step(action)
        np.testing.assert_array_equal(actual[0], expected[0])
        assert actual[1:4] == expected[1:4]
    assert actual[3]  # the time limit has counted the steps from before
    np.testing.assert_array_equal(second.reset()[0], first.reset()[0])


def test_an_environment_that_comes_to_another_point_is_refused() -> None:
    first, second = (Rewindable(gym.make("CartPole-v1")) for _ in range(2))
    first.reset(seed=5)
    first.step(0)
    state = first.get_state()
    state["observation"] = np.nextafter(state["observation"], np.float32(1))
    with pytest.raises(RewindError, match="shows another observation after the same 1 steps"):
        second.set_state(state)
    with pytest.raises(RewindError, match=r"ended after \d+ of its 100 steps"):
        second.set_state({**state, "actions": np.zeros(100, np.int64)})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: gym.make("CartPole-v1"), None),
        (Masked, None),
        (Drifting, "it goes on in another way"),
        (Unseeded, "it shows another observation after the same"),
        (lambda: MaskedByInstance(0), "it shows another action_mask after the same"),
        (lambda: MaskedByInstance(40), "it goes on in another way"),
        (Broken, "NotImplementedError: not yet"),
    ],
)
def test_environments_that_cannot_be_rewound_are_found_out(make: Callable[[], gym.Env], reason: str | None) -> None:
    found = why_not_rewindable(make)
    assert (found is None) if reason is None else (reason in str(found))


def test_vectorised_environments_are_restored_with_their_running_returns() -> None:
    first, second = (VecNormalize(make_environments("CartPole-v1", 2, seed)) for seed in (0, 1))
    rng = np.random.default_rng(0)
    first.reset()
    for _ in range(33):
        first.step(rng.integers(2, size=2))
    restore(second, snapshot(first))
    second.obs_rms, second.ret_rms = first.obs_rms.copy(), first.ret_rms.copy()
    np.testing.assert_array_equal(second.get_original_obs(), first.get_original_obs())
    ended = 0
    for _ in range(60):
        actions = rng.integers(2, size=2)
        expected, actual = first.step(actions), second.step(actions)
        for theirs, ours in zip(expected[:3], actual[:3], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for theirs, ours in zip(expected[3], actual[3], strict=True):
            if "episode" in theirs:
                ended += 1
                assert (ours["episode"]["r"], ours["episode"]["l"]) == (theirs["episode"]["r"], theirs["episode"]["l"])
    assert ended >= 4


def test_infos_of_the_last_reset_are_restored() -> None:
    gym.register("ResumeMasked-v0", Masked)
    first, second = (make_environments("ResumeMasked-v0", 2, seed) for seed in (0, 1))
    first.reset()
    restore(second, snapshot(first))
    masks = [[info["action_mask"].tolist() for info in env.reset_infos] for env in (first, second)]
    assert masks[0] == masks[1]


class MaskedByMethod(Masked):
    def show(self) -> Any:
        return super().show()[0], {}

    def action_masks(self) -> np.ndarray:
        return np.arange(2) == self.legal


def test_masks_of_a_method_are_in_the_infos_and_are_restored() -> None:
    gym.register("ResumeMaskedByMethod-v0", MaskedByMethod)
    first, second = (make_environments("ResumeMaskedByMethod-v0", 2, seed) for seed in (0, 1))
    first.reset()
    legal = np.array([np.flatnonzero(info["action_mask"])[0] for info in first.reset_infos])
    _, _, _, infos = first.step(legal)
    assert [info["action_mask"].tolist() for info in infos] == [
        mask.tolist() for mask in first.env_method("action_masks")
    ]
    restore(second, snapshot(first))
    masks = [[info["action_mask"].tolist() for info in env.reset_infos] for env in (first, second)]
    assert masks[0] == masks[1]


def test_a_checkpoint_of_an_environment_that_gives_other_masks_is_refused() -> None:
    gym.register("ResumeMaskedAgain-v0", Masked)
    first, second = (make_environments("ResumeMaskedAgain-v0", 1, 0) for _ in range(2))
    first.reset()
    state = snapshot(first)
    (episode,) = state["episodes"]
    episode["action_mask"] = ~episode["action_mask"]
    with pytest.raises(RewindError, match="environment 0: it shows another action_mask after the same 0 steps"):
        restore(second, state)
    del episode["action_mask"]  # as before they were compared
    with pytest.raises(RewindError, match="environment 0: it shows another action_mask after the same 0 steps"):
        restore(second, state)


def test_a_checkpoint_from_before_masks_were_compared_is_restored_where_there_are_none() -> None:
    first, second = (make_environments("CartPole-v1", 1, 0) for _ in range(2))
    first.reset()
    state = snapshot(first)
    assert state["episodes"][0].pop("action_mask") is None
    restore(second, state)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test writes the module of its environment."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / f"resume_{tmp_path.name}.py"


def test_where_an_environment_cannot_be_rewound_training_says_so_and_resuming_is_repeatable(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module.write_text(f"import gymnasium\ngymnasium.register('Drifting-v0', '{__name__}:Drifting')\n")
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(150, patch, die)
        assert train(folder, "gumbel-sac", "--env", f"{module.stem}:Drifting-v0") == 130
    assert "resuming will begin new episodes" in capsys.readouterr().err
    assert checkpoint.load(folder / "checkpoint.zip")["environments"] is None
    shutil.copytree(folder, tmp_path / "again")
    assert resume(folder) == resume(tmp_path / "again") == 0
    assert_same_run(folder, tmp_path / "again")


def test_a_run_whose_environment_has_changed_goes_on_with_new_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(150, patch, die)
        assert train(folder, "a2c") == 130
    tree = checkpoint.load(folder / "checkpoint.zip")
    tree["environments"]["episodes"][1]["observation"] += 1
    checkpoint.save(folder / "checkpoint.zip", tree)
    capsys.readouterr()
    assert resume(folder) == 0
    err = capsys.readouterr().err
    assert "new episodes begin, as CartPole-v1 could not be brought to where it was: environment 1: it shows" in err


# Failures


def test_an_environment_that_raises_is_one_clear_error_and_the_checkpoint_survives(
    module: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module.write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Fragile(CartPoleEnv):\n"
        "    count = 0\n"
        "    def step(self, action):\n"
        "        self.count += 1\n"
        "        if self.count == 1000: raise ZeroDivisionError('the pole broke')\n"
        "        return super().step(action)\n"
        "gymnasium.register('Fragile-v0', Fragile)\n"
    )
    folder = tmp_path / "run"
    argv = ["train", "--agent", "dqn", "--env", f"{module.stem}:Fragile-v0", "--steps", "2000", "--eval-every", "400"]
    assert run_agent.main([*argv, "--learning-starts", "2000", "--out", str(folder)]) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    error = err.splitlines()[-1]
    assert error.startswith("run_agent.py: error: training failed at 999 steps: Fragile-v0 raised ZeroDivisionError in")
    assert f"the pole broke ({module.name}, line 7)" in error
    assert f"the checkpoint of 800 steps in {folder} is the last good one" in error
    assert json.loads((folder / "summary.json").read_text())["status"] == "failed"
    assert checkpoint.load(folder / "checkpoint.zip")["steps"] == 800
    assert resume(folder, "--steps", "900") == 0


def test_a_full_disk_is_one_clear_error_and_the_run_can_be_finished(
    wholes: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if last_row(folder / "evaluations.csv") >= 80:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert train(folder, "gumbel-sac") == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    error = err.splitlines()[-1]
    assert "training failed at 80 steps: No space left on device" in error
    assert f"the checkpoint of 40 steps in {folder} is the last good one" in error
    assert checkpoint.load(folder / "checkpoint.zip")["steps"] == 40
    assert not list(folder.glob("*.tmp")) + list(folder.glob(".*.tmp"))
    assert resume(folder) == 0
    assert_same_run(wholes("gumbel-sac"), folder)


@pytest.mark.parametrize(
    ("agent", "entry", "shape"),
    [
        ("gumbel-sac", ("last_masks",), None),
        ("gumbel-sac", ("parameters", "entropy_coefficient", "log_value"), "[1]"),
        ("ppo", ("progress", "_n_updates"), None),
        ("ppo", ("parameters", "policy", "action_net.bias"), "[2]"),
    ],
)
def test_a_checkpoint_of_an_earlier_version_is_one_clear_error(
    agent: str,
    entry: tuple[str, ...],
    shape: str | None,
    copied: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = copied(agent)
    path = folder / "checkpoint.zip"
    tree = checkpoint.load(path)
    *outer, last = entry
    node = functools.reduce(operator.getitem, outer, tree["model"])
    value = node.pop(last)
    if shape is not None:
        node[last] = value[0]
    checkpoint.save(path, tree)
    assert resume(folder, "--steps", "400") == 2
    answer = capsys.readouterr().err.splitlines()[-1]
    what = "is missing" if shape is None else f"has shape [], but must have {shape}"
    assert f"{'.'.join(entry)} {what}; train again, or load it with the settings and the version that" in answer


def test_a_model_of_an_earlier_version_is_one_clear_error(
    copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied("a2c") / "model.zip"
    tree = checkpoint.load(path)
    del tree["parameters"]["policy"]["value_net.bias"]
    checkpoint.save(path, tree)
    assert run_agent.main(["eval", str(path.parent), "--episodes", "1"]) == 2
    answer = capsys.readouterr().err.splitlines()[-1]
    assert f"{path} does not fit the settings" in answer
    assert "parameters.policy.value_net.bias is missing; train again" in answer


def test_a_model_of_a_run_with_normalisation_is_not_taken_without(
    copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = copied("a2c") / "config.json"
    settings = json.loads(config.read_text())
    settings["settings"]["normalize"] = False
    config.write_text(json.dumps(settings))
    assert run_agent.main(["eval", str(config.parent), "--episodes", "1"]) == 2
    assert "the model has no VecNormalize, and was saved with its statistics" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "answer"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "not a whole gsrl checkpoint"),
        (lambda path: path.write_bytes(b""), "not a whole gsrl checkpoint"),
        (lambda path: checkpoint.save(path, {**checkpoint.load(path), "model": {}}), "does not fit the settings"),
        (lambda path: shutil.copy(path.with_name("model.zip"), path), "steps is missing"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_left_as_it_is(
    damage: Callable[[Path], Any], answer: str, copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied("a2c")
    files = {path: path.read_bytes() for path in folder.iterdir()}
    path = folder / "checkpoint.zip"
    damage(path)
    files[path] = path.read_bytes()
    assert resume(folder, "--steps", "400") == 2
    assert answer in capsys.readouterr().err.splitlines()[-1]
    assert {path: path.read_bytes() for path in folder.iterdir()} == files
