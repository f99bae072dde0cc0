"""Settings that are handed over: files of them, arguments and wrappers of environments, callbacks."""

from __future__ import annotations

import dataclasses
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.wrappers import TimeLimit

import run_agent
from gsrl.runs.cards import cards
from gsrl.runs.config import Config, default_config, read_config, read_json, settings_file, with_settings, write_json
from gsrl.runs.environments import WITH_STATISTICS, WRAPPERS, make_environments, make_plain
from gsrl.runs.errors import UsageError
from gsrl.runs.named import Named, foreign_modules, value_of
from gsrl.runs.search import train_command
from gsrl.runs.session import evaluate_run, load_model
from gsrl.runs.settings import from_toml, to_toml
from tests.common.agents import train
from tests.common.command_line import assert_same_run, exit_code, parameters, read_steps, rows

LAKE = (
    *("--env", "FrozenLake-v1", "--env-kwargs", "map_name=8x8", "is_slippery=false"),
    *("--wrapper", "FlattenObservation", "FrameStackObservation:stack_size=2", "TimeLimit:max_episode_steps=9"),
    *("--eval-every", "40", "--net-arch", "8", "--steps", "100", "--learning-starts", "20", "--batch-size", "8"),
)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake") / "run"
    train(folder, "discrete-sac", *LAKE)
    return folder


# Environments


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("8x8", "8x8"), ("8", 8), ("0.5", 0.5), ("1e-3", 0.001), ('"8"', "8"), ("false", False), ("True", True)],
        *[("null", None), ("None", None), ('["SF", "HG"]', ["SF", "HG"]), ("", "")],
    ],
)
def test_values_are_what_they_look_like(text: str, value: Any) -> None:
    found = value_of(text)
    assert (found, type(found)) == (value, type(value))


def test_names_come_with_arguments() -> None:
    known = ["Known"]
    assert Named.read("Known", known, "--x") == ("Known", {})
    assert Named.read("Known:a=1,b=[2, 3],c-d=x", known, "--x") == ("Known", {"a": 1, "b": [2, 3], "c_d": "x"})
    assert Named.read("some.where:Class", known, "--x") == ("some.where:Class", {})
    assert Named.read("some.where:Class:a=b:c", known, "--x") == ("some.where:Class", {"a": "b:c"})
    with pytest.raises(UsageError, match="unknown --x 'Knwn'; did you mean Known"):
        Named.read("Knwn:a=1", known, "--x")


def test_arguments_reach_the_constructor_and_wrappers_stand_in_their_order() -> None:
    how: dict[str, Any] = {
        "env_kwargs": ("map_name=8x8",),
        "wrapper": ("FlattenObservation", "FrameStackObservation:stack_size=3"),
    }
    env = make_plain("FrozenLake-v1", **how)
    assert env.observation_space.shape == (3, 64)
    observation, _ = env.reset(seed=0)
    assert np.array_equal(observation, np.eye(64)[[0, 0, 0]])
    assert make_plain("Blackjack-v1", wrapper=("FlattenObservation",)).observation_space.shape == (32 + 11 + 2,)
    observations: Any = make_environments("FrozenLake-v1", 2, 0, **how).reset()
    assert observations.shape == (2, 3, 64)
    short = make_plain("CartPole-v1", wrapper=("TimeLimit:max_episode_steps=3",))
    short.reset(seed=0)
    assert [short.step(0)[3] for _ in range(3)] == [False, False, True]


def test_rescaling_moves_bounds_and_leaves_what_has_none() -> None:
    plain, scaled = make_plain("CartPole-v1"), make_plain("CartPole-v1", wrapper=("RescaleObservation:min_obs=-1",))
    (before, _), (after, _) = plain.reset(seed=0), scaled.reset(seed=0)
    space: Any = plain.observation_space
    low, high = space.low[[0, 2]], space.high[[0, 2]]
    assert after[[0, 2]] == pytest.approx(2 * (before[[0, 2]] - low) / (high - low) - 1, abs=1e-6)
    assert after[[1, 3]] == pytest.approx(before[[1, 3]])


def test_the_wrappers_are_gymnasiums() -> None:
    assert all(hasattr(wrappers, name) for name in (*WRAPPERS, *WITH_STATISTICS))


@pytest.mark.parametrize(
    ("argv", "answer"),
    [
        (["--env-kwargs", "map_name"], "--env-kwargs must be name=value, but got 'map_name'"),
        (["--env-kwargs", "a=1", "a=2"], "--env-kwargs must name a once, but got it twice"),
        (["--env-kwargs", "lenght=3"], "got an unexpected keyword argument 'lenght'"),
        (["--env-kwargs", "render_mode=human"], "CartPole-v1, but render_mode is one of gymnasium.make"),
        (["--wrapper", "FrameStack"], "unknown --wrapper 'FrameStack'; did you mean FrameStackObservation"),
        (["--wrapper", "FrameStackObservation"], "FrameStackObservation cannot be put around CartPole-v1: "),
        (["--wrapper", "NormalizeObservation"], "agents normalise by a setting, --normalize-observations or"),
        (["--wrapper", "nowhere:Wrapper"], "--wrapper nowhere:Wrapper cannot be imported: No module named 'nowhere'"),
        (["--callback", "Gradients"], "unknown --callback 'Gradients'; did you mean GradientDiagnosticsCallback"),
        (["--callback", "os:abort"], "--callback must be GradientDiagnosticsCallback, but got os:abort"),
        (["--callback", "GradientDiagnosticsCallback:every=0"], "every must be an integer of at least 1, but got 0."),
        (["--callback", "GradientDiagnosticsCallback", "--seeds", "2"], "--callback is for an agent by itself"),
        (["--callback", "GradientDiagnosticsCallback", "--agent", "ppo"], "model must be a gsrl.DiscreteSAC, but got"),
        (["--agent", "signalling", "--wrapper", "TimeLimit"], "--wrapper is for agents in Gymnasium's environments"),
        (["--config", "nowhere.toml"], "nowhere.toml cannot be read: No such file or directory"),
        (["--config", "broken.toml"], "broken.toml is not TOML: "),
        (
            ["--config", "odd.toml"],
            "odd.toml: unknown setting 'batchsize' of ppo; did you mean batch-size or batch_size",
        ),
        (["--config", "wrong.toml"], "wrong.toml: gamma must be float, but got 'high'"),
        (["--config", "agent.toml"], "agent.toml: agent must be a name, but got 3"),
    ],
)
def test_mistakes_are_answered(
    argv: list[str], answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {
        "broken": "agent = ",
        "odd": 'agent = "ppo"\nbatchsize = 3',
        "wrong": 'gamma = "high"',
        "agent": "agent = 3",
    }
    for name, text in files.items():
        Path(f"{name}.toml").write_text(text)
    assert exit_code(["train", *argv]) == 2
    assert answer.replace("batch-size or batch_size", "batch_size") in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_run_is_evaluated_recorded_and_loaded_in_its_own_environment(
    lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_config(lake)
    assert config.env_kwargs == ("map_name=8x8", "is_slippery=false")
    assert config.making["wrapper"][1] == "FrameStackObservation:stack_size=2"
    assert evaluate_run(lake, 6)["mean_return"] == read_json(lake / "summary.json")["eval_return_mean"]
    model = load_model(lake)
    assert model.observation_space.shape == (2, 64)
    env: Any = model.get_env()
    assert env.get_attr("desc")[0].shape == (8, 8)
    assert env.env_is_wrapped(TimeLimit) == [True]
    assert run_agent.main(["watch", str(lake), "--episodes", "1"]) == 0
    assert "after 9 steps" in capsys.readouterr().out
    argv = train_command(config, {})
    assert argv[argv.index("--wrapper") + 1 :][:3] == list(config.wrapper)
    assert argv[argv.index("--env-kwargs") + 1 :][:2] == list(config.env_kwargs)


def test_a_resumed_run_goes_on_inside_its_wrappers(tmp_path: Path) -> None:
    how = ("--wrapper", "FrameStackObservation:stack_size=3", "--eval-every", "60", "--net-arch", "8")
    train(tmp_path / "whole", "reinforce", *how, "--steps", "120")
    train(tmp_path / "parts", "reinforce", *how, "--steps", "60")
    assert run_agent.main(["train", "--resume", str(tmp_path / "parts"), "--steps", "120"]) == 0
    whole, parts = (parameters(tmp_path / name / "model.zip") for name in ("whole", "parts"))
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


# Files of settings


def test_no_setting_has_the_name_of_an_option() -> None:
    options = {field.name for field in dataclasses.fields(Config)}
    for card in cards():
        assert not options & {field.name for field in dataclasses.fields(card.Settings)}, card.name


@pytest.mark.parametrize("agent", [card.name for card in cards() if card.name not in ("maskable-ppo", "qrdqn")])
def test_a_settings_file_says_all(agent: str) -> None:
    env = "CartPole-v1"
    config = default_config(agent, env, 77, lockstep=False)
    config = dataclasses.replace(config, env_kwargs=('a="é\\x7f\\\\"',), stop_at=float("inf"), seeds=3)
    text = settings_file(config)
    plain = default_config(agent, env, lockstep=False)
    assert with_settings(plain, tomllib.loads(text), Path("x.toml")) == config


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, int | None),
        *[(True, bool), (3, int), (1e-05, float), (float("inf"), float), ('it\'s "so"\n', str), ("none of it", str)],
        *[((1, 2), tuple[int, ...]), ((), tuple[int, ...]), (("a", "b"), tuple[str, ...])],
    ],
)
def test_values_come_back_from_toml(value: Any, kind: Any) -> None:
    assert from_toml(tomllib.loads(to_toml({"x": value}))["x"], kind) == value


def test_a_run_is_repeated_from_what_it_leaves(lake: Path, tmp_path: Path) -> None:
    assert run_agent.main(["train", "--config", str(lake / "config.toml"), "--out", str(tmp_path / "again")]) == 0
    assert_same_run(lake, tmp_path / "again")
    assert (tmp_path / "again" / "config.toml").read_text() == (lake / "config.toml").read_text()


def test_what_is_given_goes_before_the_file(lake: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('env = "CartPole-v1"\nsteps = 60\nlearning_rate = 0.5\nnet_arch = [4]\nlearning_starts = 10\n')
    argv = ["train", "--config", str(path), "--learning-rate", "1e-3", "--wrapper", "FlattenObservation"]
    assert run_agent.main([*argv, "--eval-episodes", "1", "--out", str(tmp_path / "run")]) == 0
    config = read_config(tmp_path / "run")
    assert (config.steps, config.settings.learning_rate, config.settings.net_arch) == (60, 1e-3, (4,))
    assert config.wrapper == ("FlattenObservation",)
    tuned = default_config("discrete-sac", "CartPole-v1", lockstep=False).settings
    assert config.settings == dataclasses.replace(tuned, learning_rate=1e-3, net_arch=(4,), learning_starts=10)


# From elsewhere


class Doubled(gym.RewardWrapper):
    """Rewards times two."""

    def reward(self, reward: Any) -> Any:
        return 2 * reward


@pytest.fixture
def marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a hostile module makes when it is imported."""
    mark = tmp_path / "executed"
    source = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nfrom {__name__} import Doubled\n"
    (tmp_path / "hostile_wraps.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "hostile_wraps", raising=False)
    return mark


def test_modules_that_texts_name() -> None:
    assert foreign_modules(["hostile_wraps:Wrapper", "a=hostile.b:c", 'a="x:Y"']) == ["hostile_wraps", "hostile.b", "x"]
    assert foreign_modules(["TimeLimit", "a=8x8", "gsrl:anything", "a=1"]) == []


EDITS: list[Callable[[dict[str, Any]], Any]] = [
    lambda config: config.update(wrapper=["hostile_wraps:Doubled"]),
    lambda config: config.update(wrapper=["TimeLimit:max_episode_steps=hostile_wraps:Doubled"]),
    lambda config: config.update(env_kwargs=["map_name=hostile_wraps:Doubled"]),
]


@pytest.mark.parametrize("edit", EDITS)
def test_wrappers_and_arguments_of_a_folder_import_nothing_unasked(
    edit: Callable[[dict[str, Any]], Any], lake: Path, tmp_path: Path, marked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_json(lake / "config.json")
    edit(config)
    write_json(tmp_path / "config.json", config)
    file = tmp_path / "theirs.toml"
    file.write_text(to_toml({name: config[name] for name in ("env", "env_kwargs", "wrapper")}))
    for argv in (["eval", str(tmp_path)], ["train", "--resume", str(tmp_path)], ["train", "--config", str(file)]):
        assert exit_code(argv) == 2
        assert "making it imports hostile_wraps, which runs that module's code; give --trust" in capsys.readouterr().err
    assert not marked.exists()


def test_a_wrapper_of_ones_own_is_trusted_where_it_is_typed(tmp_path: Path, marked: Path) -> None:
    how = ["--env", "gsrl/ProbeOneStep-v0", "--steps", "32", "--wrapper", "hostile_wraps:Doubled"]
    summary = train(tmp_path / "run", "a2c", *how)
    assert marked.exists()
    assert summary["eval_return_mean"] == 2
    assert evaluate_run(tmp_path / "run", 1)["mean_return"] == 2  # now it is there


# Callbacks


def test_a_callback_by_name_logs_and_changes_nothing(tmp_path: Path) -> None:
    how = ["--eval-every", "100", "--net-arch", "8", "--steps", "120"]
    train(tmp_path / "without", "discrete-sac", *how)
    named = "GradientDiagnosticsCallback:every=40,num_samples=4,batch_size=2"
    train(tmp_path / "with", "discrete-sac", *how, "--callback", named)
    found = rows(tmp_path / "with" / "progress.csv")
    without = rows(tmp_path / "without" / "progress.csv")
    assert read_steps(tmp_path / "with" / "progress.csv") == read_steps(tmp_path / "without" / "progress.csv")
    own = [name for name in found[0] if name.startswith("gradients/")]
    assert {"gradients/norm", "gradients/reinforce/snr"} <= {*own}
    assert sum(bool(row["gradients/norm"]) for row in found) == 2
    assert [{name: row[name] for name in without[0]} for row in found] == without
    ours, theirs = (parameters(tmp_path / name / "model.zip") for name in ("with", "without"))
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
