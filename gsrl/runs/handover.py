"""Trained agents as folders to hand over, with a model card, in the layout of the Hugging Face Hub; and back into runs.

A folder holds ``README.md``, the card; ``model.zip``, ``config.json`` and ``config.toml``, from which all commands that
read a run read it too; ``policy.onnx`` and ``policy.pt``, see :mod:`gsrl.export`; ``results.json``, ``summary.json``,
``evaluations.csv`` and ``learning_curve.png``; and ``replay.mp4`` or ``replay.gif``. The hub shows the card, compares
the returns in its header, and plays ``replay.mp4``.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import warnings
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from gsrl import checkpoint
from gsrl._files import replacing
from gsrl.algorithms.base import Algorithm
from gsrl.export import save_onnx, save_torchscript
from gsrl.runs.config import Config, describe_session, is_run, read_config, settings_file, write_json
from gsrl.runs.environments import make_environments
from gsrl.runs.errors import UsageError, counted
from gsrl.runs.files import occupied, write_text
from gsrl.runs.logs import CsvLog
from gsrl.runs.plots import PICTURE
from gsrl.runs.scores import mean_interval
from gsrl.runs.session import evaluate_run, load_model, record_run
from gsrl.runs.storage import load_parameters, state_dict
from gsrl.runs.trainees import make_agent

__all__ = ["export_run", "import_folder"]

COPIED = ("model.zip", "evaluations.csv", "summary.json")
"""Files of a run that are in the folder as they are, where there are any."""
MOST_STEPS = 200
"""Of the episode that is recorded."""
COLOURS_OF_PICTURE = 64
"""Of the learning curve, which makes a third of it."""


def export_run(folder: Path, out: Path, *, episodes: int = 100, trusted: bool = False) -> list[Path]:
    """Makes a folder of the final model of a run, with a model card.

    Args:
        folder: Folder of the run, of one agent; or of an agent of a run in lock-step, such as ``seed_3`` inside it.
        out: The folder, which may not be one of a run.
        episodes: Greedy episodes whose returns the card tells.
        trusted: Whether the modules of an environment ``module:name`` and of wrappers are imported.

    Returns:
        The paths of the files.

    Raises:
        UsageError: There is no model in the folder, or it is none of an agent in Gymnasium's environments.
        gsrl.checkpoint.CheckpointError: The model is damaged.
    """
    config = read_config(folder, trusted=trusted)
    if config.card.environments is not None:
        raise UsageError(f"export is for agents in Gymnasium's environments, and {config.agent} has its own")
    results = evaluate_run(folder, episodes, trusted=trusted)
    with occupied(out):
        if is_run(out):
            raise UsageError(f"--out must be a new folder, but {out} holds a run or an export")
        for name in COPIED:
            if (folder / name).exists():
                shutil.copyfile(folder / name, out / name)
        # What it was trained with, but for what is of the machine, or looks on.
        plain = dataclasses.replace(config, device="cpu", threads=1, record_every=None, track=None)
        session = describe_session([])
        write_json(out / "config.json", {**dataclasses.asdict(plain), "versions": session["versions"]})
        write_text(out / "config.toml", settings_file(plain))
        write_json(out / "results.json", _results(results))
        if (folder / PICTURE).exists():
            with Image.open(folder / PICTURE) as image, replacing(out / PICTURE) as file:
                image.convert("RGB").quantize(COLOURS_OF_PICTURE).save(file, "PNG", optimize=True)
        files = _save_policy(folder, out, trusted=trusted)
        replay = _record(folder, out, trusted=trusted)
        write_text(out / "README.md", _card(config, results, session["versions"], [*files, *replay]))
    return sorted(out.iterdir())


def _results(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the hub's own library writes of an evaluation."""
    return {
        "mean_reward": results["mean_return"],
        "std_reward": results["std_return"],
        "is_deterministic": True,
        "n_eval_episodes": results["episodes"],
        "eval_datetime": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _save_policy(folder: Path, out: Path, *, trusted: bool) -> list[str]:
    """Writes the policy for programs without gsrl, where it can be; returns the names of the files."""
    model = load_model(folder, trusted=trusted)
    model.get_env().close()
    if not isinstance(model, Algorithm):
        return []
    save_torchscript(model.policy, out / "policy.pt", action_masks=model.masked)
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        print('policy.onnx was left out: pip install "gsrl[export]"', file=sys.stderr)
        return ["policy.pt"]
    with warnings.catch_warnings(action="ignore"):  # of what the exporter itself will change
        save_onnx(model.policy, out / "policy.onnx", action_masks=model.masked)
    return ["policy.pt", "policy.onnx"]


def _record(folder: Path, out: Path, *, trusted: bool) -> list[str]:
    """Records an episode, where there is something to draw with; returns the name of the file."""
    name = "replay.gif" if find_spec("imageio_ffmpeg") is None else "replay.mp4"
    try:
        record_run(folder, out / name, max_episode_steps=MOST_STEPS, trusted=trusted)
    except UsageError as error:
        print(f"nothing was recorded: {error}", file=sys.stderr)
        return []
    return [name]


# The card


def _card(config: Config[Any], results: Mapping[str, Any], versions: Mapping[str, str], files: list[str]) -> str:
    """The page of the folder, which begins with what the hub reads."""
    card, mean, std = config.card, results["mean_return"], results["std_return"]
    low, high = mean_interval(results["returns"])
    trust = " --trust" if ":" in config.env or any(":" in name.partition(":")[2] for name in config.wrapper) else ""
    shown = {"replay.gif": "![An episode](replay.gif)", "replay.mp4": "An episode: [replay.mp4](replay.mp4)."}
    elsewhere = {
        "policy.onnx": '`policy.onnx`: `onnxruntime.InferenceSession("policy.onnx")`, from observations, and '
        "`action_masks` where it learned with them, to `actions`.",
        "policy.pt": '`policy.pt`: `torch.jit.load("policy.pt")`, the same, also in C++.',
    }
    parts = [
        _front_matter(config.agent, config.env, mean, std),
        f"# {config.agent} on {config.env}",
        f"{card.summary[0].upper()}{card.summary[1:]}, trained by gsrl."
        + (f" Source: {card.source}." if card.source else ""),
        f"| return, greedy | {mean:.2f} (95 % interval of the mean: {low:.2f} to {high:.2f}) |\n"
        "|---|---|\n"
        f"| its standard deviation | {std:.2f}, over {counted(results['episodes'], 'episode')} |\n"
        f"| training | {config.steps:,} environment steps, seed {config.seed} |\n"
        f"| versions | {', '.join(f'{name} {number}' for name, number in versions.items())} |",
        *[shown[name] for name in files if name in shown],
        f"![Learning curve]({PICTURE})",
        "## Use",
        "```sh\n"
        'pip install "gsrl[cli,watch]"\n'
        f"gsrl eval .{trust}\n"
        f"gsrl watch .{trust}\n"
        f"gsrl import . --out runs/mine{trust}\n"
        f"gsrl train --resume runs/mine --steps {2 * config.steps}{trust}\n"
        "```",
        *[elsewhere[name] for name in ("policy.onnx", "policy.pt") if name in files],
        "## Made by",
        f"`gsrl train --config config.toml{trust}` repeats the training. `config.toml`:",
        f"```toml\n{settings_file(dataclasses.replace(config, device='cpu')).rstrip()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(agent: str, env: str, mean: float, std: float) -> str:
    """What the hub finds an agent by, and compares it by: names and metric are those of its other libraries."""
    name, env = json.dumps(agent), json.dumps(env)
    return f"""---
library_name: gsrl
tags:
- {env}
- deep-reinforcement-learning
- reinforcement-learning
- gsrl
model-index:
- name: {name}
  results:
  - task:
      type: reinforcement-learning
      name: reinforcement-learning
    dataset:
      type: {env}
      name: {env}
    metrics:
    - type: mean_reward
      value: {mean:.2f} +/- {std:.2f}
      name: mean_reward
      verified: false
---"""


# Back


def import_folder(folder: Path, out: Path, *, trusted: bool = False) -> Path:
    """Makes a run of a folder that :func:`export_run` made: to be evaluated, watched, and trained further.

    Of the training it goes on with what the model holds: parameters, their optimisers and statistics. Replay is not in
    it, nor where environments were; new episodes begin.

    Args:
        folder: The folder.
        out: Folder of the run, which holds none yet.
        trusted: Whether the modules of an environment ``module:name`` and of wrappers are imported.

    Returns:
        ``out``.

    Raises:
        UsageError: There is no model in the folder, or a run in the other one.
        gsrl.checkpoint.CheckpointError: The model is damaged.
    """
    config = read_config(folder, trusted=trusted)
    if config.card.environments is not None or config.seeds is not None:
        raise UsageError(f"{folder} must hold one agent in Gymnasium's environments, but got {config.agent}")
    if not (folder / "model.zip").exists():
        raise UsageError(f"{folder} must hold a model.zip, but has none")
    with occupied(out):
        if is_run(out):
            raise UsageError(f"{out} holds a run already")
        checkpoint.save(out / "checkpoint.zip", _begun(folder, config))
        for name in (*COPIED, PICTURE):
            if (folder / name).exists():
                shutil.copyfile(folder / name, out / name)
        write_json(out / "config.json", {**dataclasses.asdict(config), "sessions": []})
        write_text(out / "config.toml", settings_file(config))
    return out


def _begun(folder: Path, config: Config[Any]) -> dict[str, Any]:
    """What a checkpoint of a run would hold that has come to where a model is, as far as that is known."""
    path, card = folder / "model.zip", config.card
    with closing(make_environments(config.env, config.n_envs, config.seed, **config.making)) as env:
        model: Any = make_agent(config, env, config.seed)
        if isinstance(model, Algorithm):
            with warnings.catch_warnings(action="ignore"):  # of a replay that is not there
                model = card.constructor.load(path, env=env, device=config.device)
            steps = model.num_timesteps
        else:
            load_parameters(checkpoint.load(path, device=config.device), model, path)
            steps = max(config.steps, CsvLog(folder / "evaluations.csv").last_step())
            model.num_timesteps = steps
        return {
            "steps": steps,
            "seconds": {},
            "config": dataclasses.asdict(config),
            **state_dict(model),
            "environments": None,
        }
