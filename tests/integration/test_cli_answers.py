"""What the command line answers: to mistakes, to what is not installed, and of itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import gsrl
import run_agent
import tests.common.environments  # noqa: F401  # registers those that are named
from gsrl.runs import cli
from gsrl.runs.cards import cards, defaults, get_card
from gsrl.runs.environments import EnvironmentFailure
from tests.common.agents import AGENTS, OURS, SMALL, WITHOUT_CARTPOLE
from tests.common.command_line import ROOT, exit_code


@pytest.mark.parametrize(
    ("argv", "answer"),
    [
        (["tran"], "did you mean train?"),
        (["train", "--lr", "3e-4"], "error: unknown option --lr; did you mean --learning-rate?"),
        (["train", "--zzz"], "error: unknown option --zzz; run_agent.py train --help lists what there is"),
        (["train", "CartPole-v1"], "error: unexpected 'CartPole-v1'; run_agent.py train --help lists"),
        (["train", "--estimator", "st_gumbel"], "or rloo, but got 'st_gumbel'; did you mean st-gumbel?"),
        (["train", "--agent", "gumbel_sac"], "unknown agent 'gumbel_sac'; did you mean gumbel-sac?"),
        (["train", "--env", "MaskedGrid-v0"], "did you mean gsrl/MaskedGrid-v0?"),
        (["train", "--env", "cartpole-v1"], "did you mean CartPole-v1?"),
        (["train", "--env", "envs:CartPol-v1"], "did you mean envs:CartPole-v1 or envs:CartPole-v0"),
        (["train", "--env", ""], "error: environment '' cannot be made: Malformed environment ID"),
        (
            ["train", "--env", "CliNothing-v0"],
            "discrete-sac cannot read what CliNothing-v0 shows: Box(0.0, 1.0, (), float32)",
        ),
        (["train", "--env", "CliNoEntry-v0"], "An empty Dict observation space is not allowed"),
        (["train", "--net-arch", "0"], "error: discrete-sac cannot be made with these settings: --net-arch must hold"),
        (
            ["train", "--net-arch", "0", "--seeds", "2", "--processes", "1"],
            "--net-arch must hold widths of at least 1, but",
        ),
        (
            ["train", "--agent", "ppo", "--net-arch", "8", "-3"],
            "--net-arch must hold widths of at least 1, but got 8 -3",
        ),
        (["train", "--agent", "dqn", "--gamma", "2"], "--gamma must be in [0, 1], but got 2.0"),
        (
            ["train", "--agent", "ppo", "--learning-rate", "-1"],
            "--learning-rate must be a positive number, but got -1.0",
        ),
        (
            ["train", "--agent", "sac", "--env", "Pendulum-v1", "--ent-coef", "no"],
            "--ent-coef must be a number, auto, or",
        ),
        (
            ["train", "--buffer-size", "100000000000000"],
            "discrete-sac needs more memory than there is: buffer_size is too",
        ),
        (["train", "--n-envs", "1000", "--seeds", "101"], "--n-envs and --seeds must make at most 100000 environments"),
        (["train", "--threads", "100000"], "error: --threads must be at most 1024, but got 100000"),
        (["bench", "smok"], "unknown suite 'smok', and no path of a .toml file; did you mean smoke?"),
        (["eval"], "error: missing: PATH Folder of the run; run_agent.py eval --help explains it"),
        (["train", "--agent", "gumble-sac"], "did you mean gumbel-sac"),
        (["train", "--agent", "zzzzzz"], f"there are {', '.join(sorted(card.name for card in cards()))}"),
        (["train", "--env", "CartPol-v1"], "did you mean CartPole-v1"),
        (["train", "--lerning-rate", "3e-4"], "--learning-rate"),
        (["train", "--learning-rate", "fast"], "fast"),
        (["train", "--env", "CartPole-v2"], "did you mean CartPole-v1 or CartPole-v0"),
        (["train", "--env", "nowhere:CartPole-v1"], "No module named 'nowhere'"),
        (["train", "--env", "Blackjack-v1"], "discrete-sac cannot read what Blackjack-v1 shows: Tuple("),
        (["train", "--agent"], "error: argument --agent: expected one argument"),
        (["train", "--resume", "nowhere", "--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["train", "--steps", "-5"], "error: --steps must be at least 1, but got -5"),
        (["train", "--n-envs", "0"], "error: --n-envs must be at least 1, but got 0"),
        (["train", "--seed", "-1"], "error: --seed must be at least 0"),
        (["train", "--checkpoint-seconds", "-1"], "--checkpoint-seconds must be at least 0, but got -1.0"),
        (["train", "--device", "abacus"], "--device 'abacus' cannot be used"),
        (["train", "--tau", "7"], "--tau must be in [0, 1], but got 7.0"),
        (["train", "--temperature", "0"], "--temperature must be a positive number, but got 0.0"),
        (["train", "--train-freq", "0"], "--train-freq must be at least 1, but got 0"),
        (["train", "--agent", "dqn", "--train-freq", "0"], "--train-freq must be at least 1, but got 0"),
        (["train", "--agent", "ppo", "--n-steps", "1", "--n-envs", "1"], "must be greater than 1"),
        (["train", "--env", "Pendulum-v1"], "needs a Discrete or MultiDiscrete or MultiBinary action space"),
        (["train", "--agent", "dqn", "--env", "Pendulum-v1"], "dqn needs a Discrete action space"),
        (["train", "--agent", "sac"], "sac needs a Box action space, but CartPole-v1 has Discrete(2)"),
        (
            ["train", "--agent", "maskable-ppo"],
            f"CartPole-v1 has none; train with {OURS} or ppo or a2c",
        ),
        (["train", "--env", "MinAtar/Breakot-v1"], "did you mean MinAtar/Breakout-v1"),
        (["eval", "nowhere"], "nowhere holds no run"),
        (["eval", "nowhere", "--episode", "3"], "--episodes"),
    ],
)
def test_mistakes_are_answered_before_any_work(
    argv: list[str],
    answer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(argv) == 2
    captured = capsys.readouterr()
    (error,) = (line for line in captured.err.splitlines() if "Warning" not in line and "logger.warn" not in line)
    assert error.startswith("run_agent.py: error: ")
    assert answer in error
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (EnvironmentFailure("it broke"), "run_agent.py: error: it broke"),
        (PermissionError(13, "Permission denied", "runs"), "run_agent.py: error: runs: Permission denied"),
        (MemoryError("too much"), "run_agent.py: error: this needs more memory than there is: too much"),
        (RuntimeError("can't allocate memory"), "this needs more memory than there is: can't allocate memory"),
        (RuntimeError("a bug"), None),
        (KeyError("a bug"), None),
    ],
)
def test_only_faults_of_this_project_show_where_they_arose(
    error: Exception, answer: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_list_command", failing)
    if answer is None:
        with pytest.raises(type(error)):
            run_agent.main(["list"])
        return
    assert run_agent.main(["list"]) == 1
    assert answer in capsys.readouterr().err


def test_a_reader_who_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} {ROOT / 'run_agent.py'} list | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert result.stderr == ""


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_agent.main(["--version"]) == 0
    assert capsys.readouterr().out == f"gsrl {gsrl.__version__}\n"


def test_pictures_alone_import_what_draws_them() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import run_agent; print('matplotlib' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_an_environment_that_is_not_installed_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "Box2D", None)
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    assert exit_code(["train", "--env", "LunarLander-v3"]) == 2
    assert 'pip install -e ".[box2d]"' in capsys.readouterr().err


def test_minatar_that_is_not_installed_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("minatar", "minatar.gym"):
        monkeypatch.setitem(sys.modules, name, None)
    assert exit_code(["train", "--env", "MinAtar/Breakout-v1"]) == 2
    assert 'pip install -e ".[minatar]"' in capsys.readouterr().err


def test_an_agent_that_is_not_installed_names_the_extra_and_the_others_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    argv = ["train", "--agent", "maskable-ppo", *SMALL["maskable-ppo"], "--out", str(tmp_path / "run")]
    assert exit_code(argv) == 2
    assert 'sb3-contrib is not installed: pip install -e ".[contrib]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_command_line_package_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "tyro.py").write_text("raise ModuleNotFoundError(\"No module named 'tyro'\", name='tyro')")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; "
        "import run_agent; sys.exit(run_agent.main(['list']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == 'run_agent.py needs tyro, which is not installed: pip install -e ".[cli]"\n'


def test_ctrl_c_while_packages_are_imported_is_answered_by_a_line(tmp_path: Path) -> None:
    (tmp_path / "tyro.py").write_text("raise KeyboardInterrupt")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; "
        "import run_agent; sys.exit(run_agent.main(['list']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (130, "run_agent.py: stopped\n")


def test_a_folder_is_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run_agent.main(["train", "--agent", "ppo", *SMALL["ppo"], "--eval-episodes", "1"]) == 0
    names = ["CartPole-v1_ppo_seed0", "CartPole-v1_ppo_seed0_run2"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names
    assert exit_code(["train", "--out", f"runs/{names[0]}"]) == 2


def test_help_shows_the_settings_tuned_for_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["train", "--agent", "ppo", "--env", "Acrobot-v1", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--gae-lambda FLOAT" in text
    assert "(default: 0.94)" in text
    assert "(default: 1000000)" in text
    assert "--tau" not in text


def test_list_names_every_agent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run_agent.main(["list"]) == 0
    printed = capsys.readouterr().out
    for name in AGENTS:
        assert name in printed
    lines = printed.splitlines()
    assert len(lines) == 3 + len(list(cards()))  # so that they fit on a screen
    assert max(map(len, lines)) <= 80
    assert run_agent.main(["list", "ppo"]) == 0
    assert "CartPole-v1: n_envs 8, n_steps 32" in capsys.readouterr().out
    assert run_agent.main(["list", "pop"]) == 2


@pytest.mark.parametrize("agent", AGENTS)
def test_tuned_settings_are_settings(agent: str) -> None:
    card = get_card(agent)
    assert ("CartPole-v1" in card.tuned) == (agent not in WITHOUT_CARTPOLE)
    standard = {"steps": 100_000, "n_envs": 1, **vars(card.Settings())}
    for env_id in card.tuned:
        assert {name for name, value in card.tuned_settings(env_id).items() if standard[name] == value} == set()
        steps, n_envs, _ = defaults(agent, env_id)
        assert steps > 0
        assert n_envs > 0
    assert defaults(agent, "Unheard-of-v0") == (100_000, 1, card.Settings())
