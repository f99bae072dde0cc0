"""The pictures of runs, from the logs in their folders: they can be drawn again, and several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsrl.runs.cards import TaskCard
from gsrl.runs.config import Config, is_finished, is_run, parse_config, read_json
from gsrl.runs.curve import RETURN, STEPS, Curve, plot_curves, plot_learning_curve, plot_population
from gsrl.runs.errors import UsageError
from gsrl.runs.logs import CsvLog

__all__ = ["PICTURE", "plot_run", "plot_runs"]

PICTURE = "learning_curve.png"
"""Name of the picture in the folder of a run."""


def plot_run(folder: Path, config: Config[Any], path: Path, *, finished: bool) -> None:
    """Draws the learning curve of a run.

    Args:
        folder: Folder of the run, with its logs.
        config: Its configuration.
        path: Path of the PNG.
        finished: Whether the last evaluation is the final one, which is marked.
    """
    card = config.card
    title = f"{config.agent} {'in' if card.is_task else 'on'} {config.env}, {_seeds(config)}"
    if config.seeds is None:
        rows = [CsvLog(folder / f"{name}.csv").rows() for name in ("evaluations", "episodes")]
        plot_learning_curve(path, title, *rows, finished=finished)
        return
    how: dict[str, Any] = {"diverged_at": _diverged_at(folder)}
    if isinstance(card, TaskCard):
        best = card.best_score(config.env, config.settings)
        how |= {"x": f"{card.unit}s", "y": card.scores(config.env), "best": best}
        how |= {"decimals": card.decimals}
    plot_population(path, title, *_evaluations(folder, config), finished=finished, **how)


def plot_runs(folders: Sequence[Path], out: Path | None) -> Path:
    """Draws the learning curve of a run again, or those of several side by side: a panel for each environment.

    Nothing is imported, and no environment made: the logs say it all.

    Args:
        folders: Folders of runs, of one agent or of several in lock-step.
        out: Path of the picture; None: :data:`PICTURE` in the folder of a single run.

    Returns:
        The path.

    Raises:
        UsageError: A folder holds no run, or one without an evaluation; or there is no place for the picture.
    """
    configs = []
    for folder in folders:
        if not is_run(folder):
            raise UsageError(f"{folder} holds no run: it has no config.json")
        configs.append(parse_config(folder / "config.json", environment=False))
        if not CsvLog(folder / "evaluations.csv", ["mean_return"]).rows():
            raise UsageError(f"{folder} holds no evaluation: plot takes the folder of a run, which has evaluations.csv")
    path = out or folders[0] / PICTURE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {path} cannot be written: {error.strerror}") from error
    if len(folders) == 1:
        plot_run(folders[0], configs[0], path, finished=is_finished(folders[0]))
        return path
    names = [folder.resolve().name for folder in folders]
    panels: dict[tuple[str, str, str], list[Curve]] = {}
    for folder, config, name in zip(folders, configs, names, strict=True):
        steps, returns = _evaluations(folder, config)
        card = config.card
        units = (f"{card.unit}s", card.scores(config.env)) if isinstance(card, TaskCard) else (STEPS, RETURN)
        label = str(folder) if names.count(name) > 1 else name
        panels.setdefault((config.env, *units), []).append(Curve(label, steps, returns, card.decimals))
    plot_curves(path, panels)
    return path


def _seeds(config: Config[Any]) -> str:
    count = config.seeds or 1
    return f"seed {config.seed}" if count == 1 else f"seeds {config.seed} to {config.seed + count - 1}"


def _diverged_at(folder: Path) -> list[int | None]:
    """Steps after which each agent of a run diverged, by its summary; None: it did not."""
    path = folder / "summary.json"
    members = read_json(path).get("members", []) if path.exists() else []
    return [each.get("stopped_at") if each.get("diverged") else None for each in members]


def _evaluations(folder: Path, config: Config[Any]) -> tuple[list[int], NDArray[np.float64]]:
    """Steps of the evaluations of a run, and the mean return of each agent, ``[agents, evaluations]``."""
    rows = CsvLog(folder / "evaluations.csv", ["mean_return"]).rows()
    seeds = range(config.seed, config.seed + (config.seeds or 1))
    steps = sorted({int(row["steps"]) for row in rows})
    returns = np.full((len(seeds), len(steps)), np.nan)
    for row in rows:
        seed = int(row.get("seed", config.seed))
        if seed not in seeds:
            raise UsageError(f"{folder / 'evaluations.csv'} has a row of seed {seed}, which is none of the run's")
        returns[seed - config.seed, steps.index(int(row["steps"]))] = float(row["mean_return"])
    return steps, returns
