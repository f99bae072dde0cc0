"""Agents that are watched: recordings, a window, and text in a terminal."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from PIL import Image
from stable_baselines3.common.base_class import BaseAlgorithm

from gsrl._files import replacing
from gsrl._random import environment_seeds
from gsrl.distributions import FactoredCategorical
from gsrl.evaluation import takes_masks
from gsrl.masking import MASK_KEY, to_matrix
from gsrl.multi_agent import MADDPG, MultiAgentSAC
from gsrl.runs.config import Config
from gsrl.runs.environments import make_environment, render_modes
from gsrl.runs.errors import UsageError
from gsrl.runs.frames import Decision, Scene, compose
from gsrl.runs.trainees import EVALUATION_ENVS, evaluation_seed
from gsrl.spaces import OneHotCodec

__all__ = [
    "FORMATS",
    "MOST_AGENTS",
    "Player",
    "check_format",
    "decide",
    "modes_of",
    "record",
    "short_name",
    "shown_as",
    "watch",
]

FORMATS = (".gif", ".mp4")
"""What a recording can be, by the suffix of its file."""
MOST_AGENTS = 3
"""That a recording shows side by side unless they are chosen."""
MOST_FRAMES_PER_SECOND = 25
"""Of a recording: of an environment that shows more, some steps are left out."""
USUAL_FRAMES_PER_SECOND = 4
"""Where an environment does not say how fast it is."""
PAUSE = 1.0
"""Seconds for which the end of an episode stays."""
SAMPLED_FRAMES, COLOURS_OF_GIF = 12, 128
"""From how many frames the colours of a GIF are chosen, and how many."""


def modes_of(config: Config[Any]) -> list[str]:
    """Returns Gymnasium's render modes of the environment of a run.

    Raises:
        UsageError: It is none of Gymnasium's.
    """
    if config.card.environments is not None:
        others = "; render draws a team" if config.card.algorithm in (MultiAgentSAC, MADDPG) else ""
        raise UsageError(f"agents in Gymnasium's environments can be watched, and {config.agent} has its own{others}")
    return render_modes(config.env, env_kwargs=config.env_kwargs)


def shown_as(config: Config[Any]) -> str | None:
    """Returns the render mode that a recording shows the environment of a run by: pictures, else text, else none.

    Raises:
        UsageError: It is none of Gymnasium's.
    """
    modes = modes_of(config)
    return next((mode for mode in ("rgb_array", "ansi") if mode in modes), None)


def short_name(env_id: str) -> str:
    """Returns the name of an environment without module and namespace."""
    return re.split("[:/]", env_id)[-1]


class Player:
    """An agent that plays one episode after another, in an environment of its own.

    Episodes are those of the last of the environments that the final evaluation steps, which plays an only one.

    Args:
        model: Who plays.
        config: What it was trained with.
        title: What tells it from others.
        render_mode: Gymnasium's, of the environment; None: observations are shown as text.
        deterministic: Whether it takes the most probable action; else it samples.
    """

    def __init__(
        self,
        model: BaseAlgorithm,
        config: Config[Any],
        title: str,
        render_mode: str | None,
        *,
        deterministic: bool = True,
    ) -> None:
        self.model = model
        self.title = title
        self.name = config.env
        self.env = make_environment(config.env, render_mode=render_mode, **config.making)
        self.deterministic = deterministic
        self.render_mode = render_mode
        *_, self.seed = environment_seeds(EVALUATION_ENVS, evaluation_seed(config.seed, None), "evaluation")
        self._began = False

    @property
    def frames_per_second(self) -> float:
        """How fast the environment is."""
        rate = self.env.unwrapped.metadata.get("render_fps")
        return rate if isinstance(rate, int | float) and rate > 0 else USUAL_FRAMES_PER_SECOND

    def episode(self, every: int = 1) -> Iterator[Scene]:
        """Plays an episode: what is to be seen before each step, or before one of so many, and at the end."""
        observation, info = self.env.reset(seed=None if self._began else self.seed)
        self._began = True
        entropies: list[float] = []
        total, steps, has_ended = 0.0, 0, False
        while True:
            if not has_ended:
                action, decision = self._decide(observation, info)
                if decision.entropy is not None and decision.legal is not None:
                    most = float(np.log(decision.legal.sum(-1)).sum())
                    entropies.append(decision.entropy / most if most else 0.0)
            if steps % every == 0 or has_ended:
                picture = self._picture(observation)
                yield Scene(self.title, picture, decision, tuple(entropies), steps, total, has_ended)
            if has_ended:
                return
            observation, reward, terminated, truncated, info = self.env.step(action)
            total, steps, has_ended = total + float(reward), steps + 1, terminated or truncated

    def _decide(self, observation: Any, info: dict[str, Any]) -> tuple[Any, Decision]:
        normalization = self.model.get_vec_normalize_env()
        if normalization is not None:
            observation = normalization.normalize_obs(observation)
        mask = info.get(MASK_KEY) if takes_masks(self.model) else None
        how: dict[str, Any] = {} if mask is None else {"action_masks": mask}
        action, _ = self.model.predict(observation, deterministic=self.deterministic, **how)
        return action[()], decide(self.model, observation, action, mask)  # of Discrete a number

    def _picture(self, observation: Any) -> NDArray[np.uint8] | str:
        try:
            shown: Any = None if self.render_mode is None else self.env.render()
        except Exception as error:  # environments raise what they like, and what they draw with may be missing
            raise UsageError(f"{self.name} cannot be shown: {error}") from error
        if isinstance(shown, np.ndarray | str):
            return shown
        return "" if self.render_mode == "human" else _as_text(observation)

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()


def decide(model: BaseAlgorithm, observation: Any, action: Any, mask: Any = None) -> Decision:
    """Returns what an action of an agent was taken by.

    Args:
        model: The agent, gsrl's own or Stable-Baselines3's.
        observation: One observation, normalised if the agent wants it so.
        action: The action there.
        mask: Flat mask of the legal choices, ``[L]``; None: all are legal.
    """
    policy: Any = model.policy
    if isinstance(model.action_space, spaces.Box):
        return Decision(np.ravel(action))
    codec = OneHotCodec(model.action_space)
    chosen = codec.to_indices(np.asarray(action)).reshape(codec.n)
    with torch.no_grad():
        inputs, _ = policy.obs_to_tensor(observation)
        distribution = _distribution(policy, codec, inputs, mask)
        values, value = _values(model, codec, inputs, chosen)
    if distribution is None:
        return Decision(chosen, values=values, value=value)
    return Decision(
        chosen,
        distribution.probs[0].cpu().numpy().astype(float),
        distribution.mask[0].cpu().numpy(),
        float(distribution.entropy()[0]),
        values,
        value,
    )


def _distribution(policy: Any, codec: OneHotCodec, inputs: Any, mask: Any) -> FactoredCategorical | None:
    """What actions are drawn from; None where they are not."""
    matrix = None if mask is None else torch.as_tensor(to_matrix(codec, mask)[None])
    if hasattr(policy, "actor"):
        own: FactoredCategorical = policy.actor(inputs, None if matrix is None else matrix.to(policy.device))
        return own
    if not hasattr(policy, "get_distribution"):
        return None
    found: Any = policy.get_distribution(inputs)
    inner = getattr(found, "distributions", None) or found.distribution
    logits = torch.full((1, codec.n, codec.K), -torch.inf)
    if isinstance(inner, list):
        for row, factor in enumerate(inner):
            logits[0, row, : factor.logits.shape[-1]] = factor.logits[0]
    elif isinstance(inner, torch.distributions.Bernoulli):
        logits[0] = torch.stack([torch.zeros_like(inner.logits[0]), inner.logits[0]], -1)
    else:
        logits[0, 0] = inner.logits[0]
    return FactoredCategorical(logits, matrix)


def _values(model: Any, codec: OneHotCodec, inputs: Any, chosen: NDArray[Any]) -> tuple[Any, float | None]:
    """Q of every action where there is one factor, and of the action that is taken; None where there are no critics."""
    policy = model.policy
    if hasattr(model, "critics") and hasattr(policy, "critic"):
        matrices = np.eye(codec.K)[:, None] if codec.n == 1 else np.eye(codec.K)[chosen][None]
        one_hot = torch.as_tensor(matrices, dtype=torch.float32, device=policy.device).unsqueeze(1)  # [M, 1, n, K]
        found = policy.critic(inputs).objective(model.critics)(one_hot)[:, 0].cpu().numpy()
        return (found, float(found[chosen[0]])) if codec.n == 1 else (None, float(found[0]))
    if hasattr(policy, "q_net"):
        found = policy.q_net(inputs)[0].cpu().numpy()
    elif hasattr(policy, "quantile_net"):
        found = policy.quantile_net(inputs).mean(1)[0].cpu().numpy()
    else:
        return None, None
    return found, float(found[chosen[0]])


# Recordings


def check_format(path: Path) -> None:
    """Sees that a recording can be written under this name.

    Raises:
        UsageError: It is none of :data:`FORMATS`, or ffmpeg is missing.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"--out must end in {' or '.join(FORMATS)}, but got {path}")
    if path.suffix == ".mp4":
        _ffmpeg()


def _ffmpeg() -> Any:
    try:
        import imageio_ffmpeg
    except ModuleNotFoundError as error:
        remedy = 'pip install "gsrl[watch]"'
        raise UsageError(f"a recording in MP4 needs imageio-ffmpeg, which is not installed: {remedy}") from error
    return imageio_ffmpeg


def record(
    players: Sequence[Player], path: Path, episodes: int = 1, *, each_step: Callable[[], None] = lambda: None
) -> None:
    """Records agents side by side: each waits at the end of its episode until all have come to theirs.

    Args:
        players: The agents.
        path: Path of the recording, a GIF or an MP4 by its suffix.
        episodes: How many, one after another.
        each_step: Called at each step.

    Raises:
        UsageError: The recording cannot be of this format.
        OSError: It cannot be written.
    """
    check_format(path)
    rate = players[0].frames_per_second
    stride = max(1, round(rate / MOST_FRAMES_PER_SECOND))
    frames: list[bytes] = []
    seconds: list[float] = []
    for _ in range(episodes):
        for scenes in _together([player.episode(stride) for player in players]):
            each_step()
            image = compose(scenes)
            frames.append(zlib.compress(image.tobytes(), 1))  # a thirtieth
            seconds.append(stride / rate)
        seconds[-1] = max(PAUSE, seconds[-1])

    def images() -> Iterator[Image.Image]:
        return (Image.frombytes("RGB", image.size, zlib.decompress(each)) for each in frames)

    (_save_gif if path.suffix == ".gif" else _save_mp4)(path, images, seconds)


def _together(episodes: Sequence[Iterator[Scene]]) -> Iterator[list[Scene]]:
    """What is to be seen of all at each step, to the end of the longest episode."""
    shown: dict[int, Scene] = {}
    while True:
        went_on = False
        for index, episode in enumerate(episodes):
            scene = next(episode, None)
            if scene is not None:
                shown[index], went_on = scene, True
        if not went_on:
            return
        yield [shown[index] for index in range(len(episodes))]


def _save_gif(path: Path, images: Callable[[], Iterator[Image.Image]], seconds: Sequence[float]) -> None:
    sampled = list(islice(images(), 0, None, -(-len(seconds) // SAMPLED_FRAMES)))
    width, height = sampled[0].size
    sheet = Image.new("RGB", (width, height * len(sampled)))
    for index, image in enumerate(sampled):
        sheet.paste(image, (0, index * height))
    # Colours that all frames share: then what is stored of a frame is what is other than in the one before.
    palette = sheet.quantize(COLOURS_OF_GIF, dither=Image.Dither.NONE)
    first, *others = (image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images())
    # In hundredths of a second; browsers slow down what is shown for less than two.
    durations = [10 * max(2, round(100 * each)) for each in seconds]
    with replacing(path) as file:
        first.save(file, "GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=False)


def _save_mp4(path: Path, images: Callable[[], Iterator[Image.Image]], seconds: Sequence[float]) -> None:
    rate = 1 / min(seconds)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recording.mp4"
        writer = _ffmpeg().write_frames(str(file), next(images()).size, fps=rate, macro_block_size=2)
        writer.send(None)
        with closing(writer):
            for image, duration in zip(images(), seconds, strict=True):
                for _ in range(round(duration * rate)):
                    writer.send(image.tobytes())
        with replacing(path) as target:
            target.write(file.read_bytes())


# On the screen


def watch(make: Callable[[str | None], Player], modes: Sequence[str], episodes: int) -> Iterator[tuple[int, float]]:
    """Plays in a window where there is a display, or as text in the terminal.

    Args:
        make: Makes the player, given the environment's render mode.
        modes: Those that the environment has.
        episodes: How many.

    Yields:
        Steps and return of each episode.

    Raises:
        UsageError: The environment shows pictures alone, and there is no display.
    """
    in_window = bool({"human", "rgb_array"} & {*modes}) and _has_display()
    text_mode = "ansi" if "ansi" in modes else None
    if not in_window and text_mode is None and modes:
        raise UsageError(
            "there is no display for a window, and the environment shows no text: `record` writes a file to look at"
        )
    with closing(make("human" if in_window else text_mode)) as player:
        for _ in range(episodes):
            scene = None
            for scene in player.episode():
                if not in_window:
                    _print(scene)
                    if sys.stdout.isatty():
                        time.sleep(1 / min(player.frames_per_second, MOST_FRAMES_PER_SECOND))
            assert scene is not None  # an episode has a beginning
            yield scene.steps, scene.total


def _has_display() -> bool:
    # SDL, which draws Gymnasium's windows, is told by the third of a display of its own.
    names = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in names)


def _print(scene: Scene) -> None:
    clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""
    decision = scene.decision
    lines = [str(scene.picture).strip("\n"), "", f"step {scene.steps}, return {scene.total:.2f}"]
    if decision.probabilities is not None and len(decision.probabilities) == 1:
        lines.append("probabilities  " + "  ".join(f"{share:.2f}" for share in decision.probabilities[0]))
    if decision.values is not None:
        lines.append("Q              " + "  ".join(f"{value:.2f}" for value in decision.values))
    if decision.entropy is not None:
        lines.append(f"entropy        {decision.entropy:.2f} nats")
    lines.append(f"action         {' '.join(map(str, decision.action))}")
    print(clear + "\n".join(lines) + "\n", flush=True)


def _as_text(observation: Any) -> str:
    """An observation, for environments that cannot show themselves."""
    if isinstance(observation, dict):
        return "\n".join(f"{key}:\n{_as_text(part)}" for key, part in observation.items())
    return np.array2string(
        np.asarray(observation), precision=2, suppress_small=True, max_line_width=44, threshold=400, edgeitems=4
    )
