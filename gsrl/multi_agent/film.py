"""Episodes of a team as a moving picture: what an environment draws, and below it what agents say."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gsrl._files import replacing
from gsrl._style import INK
from gsrl.multi_agent.speech import Speech
from gsrl.multi_agent.vec_env import Joint, ParallelVecEnv
from gsrl.multi_agent.wrappers import ParallelWrapper, Returned

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["film"]

LINE, MARGIN = 16, 6
"""Of the text, in pixels."""


def film(
    path: str | os.PathLike[str],
    act: Callable[[Joint], NDArray[np.int64]],
    make_env: Callable[[], Any],
    speech: Mapping[str, Speech],
    *,
    episodes: int = 3,
    seed: int = 0,
    milliseconds: int = 120,
) -> list[NDArray[np.float64]]:
    """Writes episodes of an evaluation as a GIF, one after another.

    They are the first ones of :meth:`gsrl.multi_agent.MultiAgentSAC.play`. Below each picture stands what each agent
    says by the action that led there, symbols joined by ``-``, and the mean return of the agents so far.

    Args:
        path: Of the GIF.
        act: The actions ``[B, A, n]`` at a joint.
        make_env: Makes a world that draws: its ``render()`` returns an array ``[height, width, 3]``.
        speech: Of each agent, by name; those without messages are not written of.
        episodes: How many.
        seed: Of the episodes.
        milliseconds: Of a step.

    Returns:
        Returns of the agents in each episode, ``[A]``.

    Raises:
        ModuleNotFoundError: Pillow is missing.
        ValueError: ``episodes`` is below 1, or the environment draws nothing.

    Example:
        >>> from functools import partial
        >>> from envs.mpe import SpreadEnv
        >>> make_env = partial(SpreadEnv, max_cycles=3, render_mode="rgb_array")
        >>> stay = np.zeros((1, 3, 1), np.int64)
        >>> returns = film("spread.gif", lambda joint: stay, make_env, Speech.of(SpreadEnv()), episodes=1)
        >>> len(returns), returns[0].shape, os.path.exists("spread.gif")
        (1, (3,), True)
    """
    if not isinstance(episodes, int) or isinstance(episodes, bool) or episodes < 1:
        raise ValueError(f"episodes must be an integer of at least 1, but got {episodes!r}.")
    worlds = ParallelVecEnv(lambda: _Drawn(make_env()), episodes, (seed,))
    worlds.seed("evaluation", 0)
    joint = worlds.reset()
    agents, going = worlds.spaces.agents, np.ones(episodes, np.bool_)
    envs: list[_Drawn] = worlds.worlds.envs  # type: ignore[attr-defined]  # objects, as none of them is batched
    frames: list[list[Image]] = [[_captioned(env.pictures[0][0], _told(agents, speech, None, 0.0))] for env in envs]
    returns = np.zeros((episodes, len(agents)))
    while going.any():
        actions = act(joint)
        _, rewards, _, _ = worlds.step(actions)
        for world in np.flatnonzero(going).tolist():
            returns[world] += rewards[world]
            caption = _told(agents, speech, actions[world], float(returns[world].mean()))
            frames[world].append(_captioned(envs[world].pictures[0][len(frames[world])], caption))
        going &= ~worlds.over
        joint = worlds.joint
    worlds.close()
    first, *rest = [frame for each in frames for frame in each]
    durations = [milliseconds * (1 if number < len(each) - 1 else 8) for each in frames for number in range(len(each))]
    with replacing(path) as file:
        first.save(file, "GIF", save_all=True, append_images=rest, duration=durations, loop=0)
    return list(returns)


class _Drawn(ParallelWrapper):
    """Keeps the pictures of each episode."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.pictures: list[list[NDArray[np.uint8]]] = []

    def reset(self, **how: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins an episode."""
        observations, infos = self.env.reset(**how)
        self.agents = list(self.env.agents)
        self.pictures.append([self._picture()])
        return observations, infos

    def step(self, actions: Mapping[str, Any]) -> Returned:
        """Takes a step."""
        step: Returned = self.env.step(actions)
        self.agents = list(self.env.agents)
        self.pictures[-1].append(self._picture())
        return step

    def _picture(self) -> NDArray[np.uint8]:
        picture = self.env.render()
        if not isinstance(picture, np.ndarray) or picture.ndim != 3:
            raise ValueError(
                f"render of {self.env} must return an array [height, width, 3], but returned {type(picture).__name__}: "
                "make it with render_mode='rgb_array', if it has such a mode."
            )
        return picture[..., :3]


def _told(agents: Sequence[str], speech: Mapping[str, Speech], actions: Any, mean_return: float) -> list[str]:
    lines = []
    for i, agent in enumerate(agents):
        factors = list(speech[agent].factors)
        if factors:
            lines.append(f"{agent}: {'' if actions is None else '-'.join(map(str, actions[i][factors].tolist()))}")
    return [*lines, f"return {mean_return:.1f}"]


def _captioned(picture: NDArray[np.uint8], lines: Sequence[str]) -> Image:
    """The picture with lines of text below it, on a palette, which GIFs have."""
    from PIL import Image, ImageDraw, ImageFont

    height, width, _ = picture.shape
    image = Image.new("RGB", (width, height + LINE * len(lines) + 2 * MARGIN), "white")
    image.paste(Image.fromarray(picture), (0, 0))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=13)
    for number, line in enumerate(lines):
        draw.text((MARGIN, height + MARGIN + LINE * number), line, INK, font)
    return image.quantize(64)
