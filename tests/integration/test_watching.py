"""Agents that are watched: what stands beside the picture, recordings, windows and terminals."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image
from stable_baselines3 import A2C, DQN

import run_agent
from gsrl import DiscreteSAC, Reinforce
from gsrl.runs import watching
from gsrl.runs.config import read_config
from gsrl.runs.frames import MOST_ACTIONS, Decision, Scene, compose
from gsrl.runs.session import evaluate_run, load_model
from gsrl.runs.watching import Player, decide
from tests.common.agents import train
from tests.common.command_line import assert_same_run, exit_code


class Written(gym.Env):
    """Shows itself as text alone, its second letter on red; episodes of four steps, each paid by the action."""

    metadata = {"render_modes": ["ansi"], "render_fps": 50}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(3)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return np.full(2, self.time / 4, np.float32), float(action), self.time == 4, False, {}

    def render(self) -> Any:
        return f"a\x1b[41mb\x1b[0m{self.time}\n"


gym.register("WatchWritten-v0", f"{__name__}:{Written.__name__}")


class Several(Written):
    """The same with other actions, and nothing to show."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.action_space = action_space  # type: ignore[assignment]

    def step(self, action: Any) -> Any:
        return super().step(np.sum(action))


# What stands beside the picture


def test_decisions_of_an_agent_with_critics_are_those_of_its_networks() -> None:
    model = DiscreteSAC("MlpPolicy", Written(), seed=0)
    observation = np.array([0.3, -0.2], np.float32)
    found = decide(model, observation, np.array(2), np.array([True, False, True]))
    inputs = torch.as_tensor(observation)[None]
    with torch.no_grad():
        logits = model.policy.actor(inputs).logits[0, 0].numpy()[[0, 2]]
        values = model.policy.critic(inputs)(torch.eye(3)[:, None, None]).mean(0)[:, 0]
    shares = np.exp(logits) / np.exp(logits).sum()
    assert found.probabilities == pytest.approx(np.array([[shares[0], 0, shares[1]]]), rel=1e-5)
    assert found.legal is not None
    assert found.legal.tolist() == [[True, False, True]]
    assert found.entropy == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-5)
    assert found.values == pytest.approx(values.numpy())
    assert found.value == pytest.approx(float(values[2]))


def test_q_of_the_action_alone_is_told_where_there_are_several_factors() -> None:
    model = DiscreteSAC("MlpPolicy", Several(spaces.MultiDiscrete([2, 3])), seed=0)
    found = decide(model, np.zeros(2, np.float32), np.array([1, 0]))
    one_hot = torch.tensor([[[[0.0, 1, 0], [1, 0, 0]]]])
    with torch.no_grad():
        value = model.policy.critic(torch.zeros(1, 2))(one_hot).mean()
    assert found.values is None
    assert found.value == pytest.approx(float(value))
    assert found.legal is not None
    assert found.legal.tolist() == [[True, True, False], [True, True, True]]
    assert compose([_scene(found)]).size[0] % 2 == 0


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)])
def test_decisions_of_baselines_are_the_probabilities_that_they_sample_by(space: Any) -> None:
    model = A2C("MlpPolicy", Several(space), seed=0)
    observation = np.array([0.5, -0.5], np.float32)
    action = model.predict(observation, deterministic=True)[0]
    found = decide(model, observation, action)
    inputs, actions = torch.as_tensor(observation)[None], torch.as_tensor(np.array(action))[None]
    with torch.no_grad():
        _, log_prob, entropy = model.policy.evaluate_actions(inputs, actions)
    assert entropy is not None
    assert found.probabilities is not None
    taken = np.take_along_axis(found.probabilities, found.action[:, None].astype(int), 1)
    assert np.log(taken).sum() == pytest.approx(float(log_prob[0]), rel=1e-5)
    assert found.entropy == pytest.approx(float(entropy[0]), rel=1e-5)
    assert (found.values, found.value) == (None, None)


def test_deep_q_learning_has_values_and_no_probabilities() -> None:
    model = DQN("MlpPolicy", Written(), seed=0, buffer_size=10)
    found = decide(model, np.ones(2, np.float32), np.array(1))
    with torch.no_grad():
        assert found.values == pytest.approx(model.q_net(torch.ones(1, 2))[0].numpy())
    assert (found.probabilities, found.entropy) == (None, None)
    assert compose([_scene(found)]).height > 100


def test_reinforce_has_no_critic_of_actions() -> None:
    found = decide(Reinforce("MlpPolicy", Written(), seed=0), np.ones(2, np.float32), np.array(1))
    assert found.values is None
    assert found.probabilities is not None
    assert found.probabilities.sum() == pytest.approx(1)


def _scene(decision: Decision, picture: Any = "text", **how: Any) -> Scene:
    return Scene("an agent", picture, decision, (0.5,), 3, 2.0, **how)


def test_pictures_keep_their_shape_and_text_its_colours() -> None:
    decision = Decision(np.array([0]), np.full((1, 30), 1 / 30), np.ones((1, 30), bool), 3.4, np.arange(30.0), 0.0)
    picture = np.zeros((50, 100, 3), np.uint8)
    picture[:, :50] = (200, 0, 0)
    image = np.array(compose([_scene(decision, picture)]))
    assert (image == (200, 0, 0)).all(-1).sum() == pytest.approx(160 * 160, rel=0.02)  # 320 wide, half of it red
    few = compose([_scene(decision._replace(values=decision.values[: MOST_ACTIONS + 1]), picture)])  # type: ignore[index]
    assert few.size == (image.shape[1], image.shape[0])  # rows are those of the most probable
    two = compose([_scene(decision, picture)] * 2)
    assert two.width == 2 * (320 + 20)
    text = np.array(compose([_scene(decision, "a\x1b[41mb\x1b[0mc")]))
    assert (text == (0xC0, 0x39, 0x2B)).all(-1).sum() > 50
    faded = np.array(compose([_scene(decision, picture, has_ended=True)]))
    assert not (faded == (200, 0, 0)).all(-1).any()


# Runs

CARTPOLE = ("--seeds", "2", "--processes", "1", "--steps", "100", "--net-arch", "8", "--eval-every", "40")
BITS = ("--env", "gsrl/FactoredMatch-v0", "--max-episode-steps", "5", "--net-arch", "8", "--eval-every", "64")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    train(folder / "cartpole", "discrete-sac", *CARTPOLE)
    train(folder / "text", "discrete-sac", "--env", "WatchWritten-v0", "--steps", "60", "--net-arch", "8")
    train(folder / "bits", "ppo", *BITS)
    return folder


def test_an_episode_is_that_of_the_evaluation(runs: Path) -> None:
    own = runs / "cartpole" / "seed_1"
    player = Player(load_model(own), read_config(own), "", None)
    *_, last = player.episode()
    assert last.has_ended
    assert last.total == last.steps == evaluate_run(own, 1)["returns"][0]
    assert len(last.entropies) == last.steps
    *_, other = player.episode()
    assert len({last.entropies, other.entropies}) == 2
    player.close()


def test_recordings_show_all_steps_of_all_agents(runs: Path, tmp_path: Path) -> None:
    lengths = [int(evaluate_run(runs / "cartpole" / f"seed_{seed}", 1)["returns"][0]) for seed in (0, 1)]
    assert run_agent.main(["record", str(runs / "cartpole"), "--out", str(tmp_path / "new" / "two.gif")]) == 0
    with Image.open(tmp_path / "new" / "two.gif") as image:
        frames, durations = _frames(image)
    # Half of 50 steps a second, and the end of each.
    assert len(frames) == -(-max(lengths) // 2) + 1
    assert durations[:-1] == [40] * (len(frames) - 1)
    assert durations[-1] == 1000
    assert frames[0].shape[1] == 2 * 340
    assert (frames[0][:, :340] != frames[0][:, 340:]).any()
    assert exit_code(["record", str(runs / "cartpole"), "--seeds", "1", "--out", str(tmp_path / "one.gif")]) == 0
    with Image.open(tmp_path / "one.gif") as image:
        assert _frames(image)[0][0].shape[1] == 320 + 236 + 30


@pytest.mark.parametrize(("name", "steps"), [("text", 4), ("bits", 5)])
def test_environments_without_pictures_are_recorded_as_text(name: str, steps: int, runs: Path) -> None:
    assert run_agent.main(["record", str(runs / name), "--episodes", "2"]) == 0
    with Image.open(runs / name / "recording.gif") as image:
        frames, durations = _frames(image)
    every = 2 if name == "text" else 1
    assert sum(durations) == 2 * (1000 + steps * (20 if name == "text" else 250))
    assert len(frames) == 2 * (-(-steps // every) + 1)
    ink = [(frame[:250, :330] < 100).all(-1).sum() for frame in frames]
    assert ink[0] > 20


def _frames(image: Image.Image) -> tuple[list[np.ndarray], list[int]]:
    frames, durations = [], []
    for index in range(image.n_frames):  # type: ignore[attr-defined]
        image.seek(index)
        frames.append(np.array(image.convert("RGB")))
        durations.append(image.info["duration"])
    return frames, durations


@pytest.mark.skipif(find_spec("imageio_ffmpeg") is None, reason="needs imageio-ffmpeg")
def test_a_recording_can_be_an_mp4(runs: Path, tmp_path: Path) -> None:
    import imageio_ffmpeg

    path = tmp_path / "text.mp4"
    assert run_agent.main(["record", str(runs / "text"), "--out", str(path)]) == 0
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
    assert frames == 2 + 25
    assert seconds == pytest.approx(27 / 25)


@pytest.mark.parametrize(
    ("argv", "answer"),
    [
        (["record", "cartpole", "--out", "a.avi"], "--out must end in .gif or .mp4, but got a.avi"),
        (["record", "cartpole", "--out", "a.mp4"], 'imageio-ffmpeg, which is not installed: pip install "gsrl[watch]"'),
        (["record", "cartpole", "--seeds", "1", "2"], "--seeds must be among 0, 1 of cartpole, but got 2"),
        (["record", "cartpole", "--episodes", "0"], "--episodes must be at least 1, but got 0"),
        (["record", "nowhere"], "nowhere holds no run"),
        (["watch", "cartpole"], "cartpole holds 2 agents: each is in a folder of its own, such as cartpole/seed_0"),
        (["watch", "cartpole/seed_0"], "there is no display for a window, and the environment shows no text"),
        (["train", "--record-every", "0"], "--record-every must be at least 1, but got 0"),
        (["train", "--agent", "signalling", "--record-every", "9"], "--record-every is for agents in Gymnasium's"),
    ],
)
def test_mistakes_are_answered(
    argv: list[str], answer: str, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(runs)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setattr(watching, "_has_display", lambda: False)
    assert exit_code(argv) == 2
    assert answer in capsys.readouterr().err


def test_text_is_watched_in_the_terminal(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_agent.main(["watch", str(runs / "text"), "--episodes", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("a\x1b[41mb\x1b[0m4\n\nstep 4, return") == 2
    assert printed.count("probabilities") == printed.count("entropy") == printed.count("Q  ") == 2 * 5
    expected = evaluate_run(runs / "text", 1)["mean_return"]
    assert f"return {expected:.1f} after 4 steps" in printed
    assert run_agent.main(["watch", str(runs / "bits"), "--episodes", "1"]) == 0
    assert "after 5 steps" in capsys.readouterr().out


def test_pictures_are_watched_in_a_window(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert run_agent.main(["watch", str(runs / "cartpole" / "seed_0"), "--episodes", "1"]) == 0
    (length,) = evaluate_run(runs / "cartpole" / "seed_0", 1)["returns"]
    assert f"return {length:.1f} after {length:.0f} steps" in capsys.readouterr().out


def test_recording_changes_nothing_of_a_training(runs: Path, tmp_path: Path) -> None:
    train(tmp_path / "bits", "ppo", *BITS, "--record-every", "100")
    assert_same_run(runs / "bits", tmp_path / "bits")
    train(tmp_path / "cartpole", "discrete-sac", *CARTPOLE, "--record-every", "60")
    assert_same_run(runs / "cartpole", tmp_path / "cartpole")
    recordings = {path.name: path.read_bytes() for path in tmp_path.glob("*/recordings/*")}
    assert recordings.keys() == {"128.gif", "256.gif", "80.gif", "100.gif"}
    assert all(each.startswith(b"GIF89a") for each in recordings.values())


def test_what_cannot_be_shown_stops_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def broken(self: Any) -> Any:
        raise RuntimeError("no pencil")

    monkeypatch.setattr(Written, "render", broken)
    train(tmp_path / "run", "a2c", "--env", "WatchWritten-v0", "--record-every", "100", "--eval-every", "100")
    assert "nothing was recorded: WatchWritten-v0 cannot be shown: no pencil" in capsys.readouterr().err
