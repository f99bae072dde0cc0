"""Teams by the command line: what a run leaves, going on, their language, their pictures, and answers to mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pettingzoo")

from PIL import Image

from envs.mpe import MPEEnv, ReferenceEnv, SpeakerListenerEnv, SpreadEnv
from gsrl.multi_agent import MultiAgentSAC, ParallelVecEnv, SplitActions
from gsrl.runs import teams
from gsrl.runs.cards import TaskCard
from gsrl.runs.session import load_model
from tests.common.command_line import assert_same_run, events, exit_code, read_json, rows

SPEAKER = "mpe2/simple_speaker_listener_v4"
OPTIONS = ["--agent", "masac", "--env", SPEAKER, "--seeds", "2", "--seed", "3", "--steps", "400", "--eval-every", "200"]
OPTIONS += ["--n-envs", "4", "--batch-size", "16", "--hidden", "8", "--learning-starts", "40", "--eval-episodes", "20"]


def train(folder: Path, *options: str) -> int | str | None:
    return exit_code(["train", *OPTIONS, *options, "--out", str(folder)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teams") / "whole"
    assert train(folder) == 0
    return folder


def test_a_run_leaves_what_others_do(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, summary = read_json(whole / "config.json"), read_json(whole / "summary.json")
    assert (config["n_envs"], config["settings"]["signalling_bonus"], config["settings"]["hidden"]) == (4, 1.0, [8])
    assert (summary["status"], summary["steps"], summary["seeds"]) == ("finished", 400, [3, 4])
    assert {int(row["steps"]) for row in rows(whole / "evaluations.csv")} == {200, 400}
    assert {"eval/mean_return", "train/signalling", "train/gradient_norm_actor"} <= events(whole / "seed_4").keys()
    assert exit_code(["eval", str(whole), "--json"]) == 0
    capsys.readouterr()
    assert exit_code(["eval", str(whole), "--scramble"]) == 0
    assert "shuffled" in capsys.readouterr().out
    team = MultiAgentSAC.load(whole / "seed_4" / "model.zip", SpeakerListenerEnv)
    returns = team.evaluate(20).mean(-1)
    assert returns.mean() == summary["members"][1]["eval_return_mean"]


def test_a_run_goes_on_as_one_that_was_not_interrupted(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, killed = TaskCard.learn, tmp_path / "killed"

    def interrupted(card: Any, model: Any, *arguments: Any) -> None:
        learn(card, model, *arguments)
        if model.steps >= 240:  # in the middle of an episode
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TaskCard, "learn", interrupted)
        assert train(killed, "--checkpoint-seconds", "0") == 130
    assert exit_code(["train", "--resume", str(killed)]) == 0
    assert_same_run(whole, killed, ("evaluations.csv", "progress.csv"))


def test_protocol_says_what_is_said_for_what(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["protocol", str(whole), "--seed", "4"]) == 0
    printed = capsys.readouterr().out
    assert "speaker_0" in printed
    assert "mutual information (bits): " in printed
    team = load_model(whole / "seed_4")
    worlds = ParallelVecEnv(SpeakerListenerEnv, 128)
    worlds.seed("evaluation", 0)
    observations, masks, _ = worlds.reset()
    said = team.predict(observations, masks)[:, 0, 0]
    pairs = {(str(word), str(goal)) for word, goal in zip(said, observations[:, 0, :3].argmax(-1), strict=True)}
    table = rows(whole / "seed_4" / "protocol_speaker_0.csv")
    assert list(table[0]) == ["message", "meanings", "probability"]
    assert {(row["message"], goal) for row in table for goal in row["meanings"].split("; ")} == pairs
    assert sum(float(row["probability"]) for row in table) == pytest.approx(1)


def test_render_draws_the_episodes_of_an_evaluation(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "film.gif"
    assert exit_code(["render", str(whole), "--seed", "3", "--episodes", "2", "--out", str(path)]) == 0
    with Image.open(path) as image:
        count: Any = image
        assert (count.n_frames, image.size) == (52, (256, 256 + 12 + 2 * 16))  # 25 steps, and what was before them
        image.seek(1)
        shown = np.asarray(image.convert("RGB"))
    assert ((shown[256:] < 128).all(-1)).sum() > 50  # letters
    worlds = SpeakerListenerEnv(render_mode="rgb_array")
    team = load_model(whole / "seed_3")
    vec = ParallelVecEnv(SpeakerListenerEnv, 2)
    vec.seed("evaluation", 0)
    observations, masks, _ = vec.reset()
    worlds.world.load_state_dict(first_world(vec))
    actions = team.predict(observations, masks)
    worlds.agents = list(worlds.possible_agents)
    worlds.step({"speaker_0": actions[0, 0, 0], "listener_0": actions[0, 1, 0]})
    drawn = worlds.render()
    assert drawn is not None
    assert np.abs(shown[:256].astype(int) - drawn).mean() < 2  # but for the palette


def first_world(vec: ParallelVecEnv) -> dict[str, Any]:
    return {name: value[:1] for name, value in vec.worlds.state_dict().items()}


@pytest.mark.parametrize(
    ("env", "colors"),
    [(SpeakerListenerEnv, 5), (ReferenceEnv, 4), (SpreadEnv, 4)],  # with black and white
)
def test_worlds_draw_themselves(env: Callable[..., MPEEnv], colors: int) -> None:
    world = env(render_mode="rgb_array")
    world.reset(seed=5)
    picture = world.render()
    assert picture is not None
    assert picture.shape == (256, 256, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) >= colors
    place = 128 + np.array([1, -1]) * world.world.positions[0, 0] * 128 / max(
        1.2, 1.1 * np.abs(np.concatenate([world.world.positions[0], world.world.landmarks[0]])).max()
    )
    agents, _ = world.world.colors()
    assert picture[int(place[1]), int(place[0])].tolist() in agents.tolist()
    assert env().render() is None
    with pytest.raises(ValueError, match="render_mode must be 'rgb_array' or None, but got 'human'"):
        env(render_mode="human")


def test_worlds_of_mpe2_say_what_those_of_the_zoo_do() -> None:
    pytest.importorskip("mpe2")
    ours: dict[str, Any] = {
        "simple_speaker_listener_v4": SpeakerListenerEnv(),
        "simple_reference_v3": SplitActions(ReferenceEnv()),
        "simple_spread_v3": SpreadEnv(),
    }
    for module, expected in ours.items():
        found = teams._particles(module)()
        assert found.speech == getattr(expected, "speech", {})
        for agent in expected.possible_agents:
            assert found.action_space(agent) == expected.action_space(agent)
        assert type(teams.make_world(f"mpe2/{module}")) is type(expected)


def test_a_world_of_ones_own_has_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(teams, "_MAKERS", dict(teams._MAKERS))
    before = dict(teams.ENVIRONMENTS)
    try:
        teams.register_world("own/spread", lambda **how: SpreadEnv(2, **how))
        options = ["--env", "own/spread", "--steps", "80"]
        assert train(tmp_path / "isac", *options, "--agent", "isac") == 0
        assert load_model(tmp_path / "isac" / "seed_3").critics_see == "own"
        assert exit_code(["protocol", str(tmp_path / "isac")]) == 2
        assert train(tmp_path / "maddpg", *options, "--agent", "maddpg", "--logit-penalty", ".1") == 0
        assert load_model(tmp_path / "maddpg" / "seed_3").logit_penalty == 0.1
        assert exit_code(["render", str(tmp_path / "maddpg")]) == 0
    finally:
        teams.ENVIRONMENTS.clear()
        teams.ENVIRONMENTS.update(before)


def test_answers_to_mistakes(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, answer in (
        (["render", str(whole), "--episodes", "0"], "--episodes must be at least 1, but got 0"),
        (["render", str(whole), "--seed", "9"], "from 3 to 4, but got 9"),
        (["render", str(tmp_path)], "holds no run"),
        (["record", str(whole)], "masac has its own; render draws a team"),
        (["train", "--agent", "masac", "--env", "mpe2/simple_tag_v3"], "unknown environment 'mpe2/simple_tag_v3'"),
        (["train", "--agent", "masac", "--n-envs", "0"], "--n-envs must be at least 1, but got 0"),
        (["train", "--agent", "masac", "--critic", "vdn"], "--critic must be"),
        (
            ["train", "--agent", "masac", "--env", "mpe2/simple_spread_v3", "--signalling-bonus", "1"],
            "--signalling-bonus must be 0 where no agent says anything",
        ),
    ):
        assert exit_code([*argv, *(["--out", str(tmp_path / "run")] if argv[0] == "train" else [])]) == 2
        assert answer in " ".join(capsys.readouterr().err.split()), argv
