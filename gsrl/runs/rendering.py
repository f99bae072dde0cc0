"""Episodes of a team in a run, as a moving picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsrl.multi_agent import MADDPG, MultiAgentSAC
from gsrl.multi_agent.film import film
from gsrl.runs.config import read_config, set_threads
from gsrl.runs.errors import UsageError
from gsrl.runs.session import load_model, member_folder
from gsrl.runs.teams import make_world

__all__ = ["render_run"]


def render_run(
    folder: Path, seed: int | None = None, episodes: int = 3, out: Path | None = None
) -> tuple[Path, list[NDArray[np.float64]]]:
    """Writes the first episodes of the final evaluation of a team as a GIF, with what is said.

    Args:
        folder: Folder of a run, or of a team of it, such as ``seed_3`` inside it.
        seed: Which of several; None for the first.
        episodes: How many.
        out: The GIF; None for ``episodes.gif`` in the folder of the team.

    Returns:
        Its path, and the returns of the agents in each episode.

    Raises:
        UsageError: There is no such model, it is of no team, or its worlds draw nothing.
        gsrl.checkpoint.CheckpointError: The model is damaged.
    """
    run = read_config(folder)
    if run.card.algorithm not in (MultiAgentSAC, MADDPG):
        raise UsageError(f"render needs a run of a team, and {folder} holds one of {run.agent}")
    folder = member_folder(folder, run, seed)
    set_threads(run.threads)
    team, path = load_model(folder), out or folder / "episodes.gif"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {path} cannot be written: {error.strerror}") from error
    try:
        returns = film(
            path,
            lambda joint: team.predict(joint.observations, joint.masks),
            lambda: make_world(run.env, render_mode="rgb_array"),
            team.speech,
            episodes=episodes,
        )
    except (ModuleNotFoundError, ValueError) as error:
        raise UsageError(f"{run.env} cannot be drawn: {error}") from error
    return path, returns
