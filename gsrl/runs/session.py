"""A run: one agent or several trained in one environment, and the folder that holds all about it.

The folder holds ``config.json``, ``progress.csv``, ``episodes.csv``, ``evaluations.csv``, TensorBoard events,
``learning_curve.png``, ``model.zip`` (the final parameters), ``checkpoint.zip`` (what resuming needs) and
``summary.json``.

A checkpoint is written before the first step, after each evaluation, every minute, and at the end. A run that is
killed at any moment and resumed ends in the same parameters, bit for bit on the same machine, as one that was never
interrupted, and in the same logs but for the times in them. Its environments are stepped to where they were (see
:mod:`gsrl.runs.rewind`). Where that cannot be, training says so, and a resumed run begins new episodes, with seeds
derived from the run's seed and the steps done: resuming twice then gives the same result.

Where several agents learn in lock-step, ``evaluations.csv``, ``episodes.csv`` and ``progress.csv`` have a column
``seed``. TensorBoard's events are in a folder for each agent, such as ``seed_3``, and in ``median``, ``lower_quartile``
and ``upper_quartile``, with the same names in each, so that it lays them over one another. ``seed_3`` also holds
``model.zip``, and a ``config.json`` for ``gsrl eval``. The picture shows all agents; ``checkpoint.zip`` holds
them all, and resuming is exact where there are as many processes.

Agents that talk are several in lock-step, one unless told otherwise, and a step is an episode of each. A score is the
share of right answers, or a return, see ``environments`` of the card; ``mean_return`` is its mean. Messages are hard
wherever something is evaluated. ``episodes.csv`` stays empty: thousands of episodes a second are not listed one by one.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from gsrl import checkpoint
from gsrl.masking import adapt
from gsrl.runs.cards import TaskCard
from gsrl.runs.config import Config, check_files, check_unchanged, is_finished, is_run, read_config, set_threads
from gsrl.runs.environments import make_environments, make_plain
from gsrl.runs.errors import UsageError
from gsrl.runs.files import occupied
from gsrl.runs.pool import Member, Members, number_of_processes
from gsrl.runs.rewind import why_not_rewindable
from gsrl.runs.run import Run, folder_of, told
from gsrl.runs.storage import check_sizes, load_parameters
from gsrl.runs.trainees import AlgorithmTrainee, Evaluator, TaskTrainee, Trainee, make_agent
from gsrl.runs.watching import MOST_AGENTS, Player, check_format, modes_of, record, short_name, shown_as, watch

__all__ = ["evaluate_run", "load_model", "member_folder", "record_run", "resume", "start", "watch_run"]


# Entry points


def start(config: Config[Any], folder: Path, command: Sequence[str]) -> dict[str, Any]:
    """Trains an agent in a new folder.

    Args:
        config: What to run.
        folder: The folder, made when missing.
        command: The command line, to be recorded.

    Returns:
        The summary, as ``summary.json`` holds it.

    Raises:
        UsageError: The configuration cannot be used; nothing was written.
        TrainingError: Training cannot go on.
    """
    config.check()
    with occupied(folder), told(folder):
        if is_run(folder):
            raise UsageError(f"{folder} holds a run already")
        check_files(folder)
        return _run(config, folder, command, None)


def resume(
    folder: Path, steps: int | None, device: str | None, command: Sequence[str], *, trusted: bool = False
) -> dict[str, Any]:
    """Goes on with an interrupted run, or extends a finished one.

    Args:
        folder: Folder of the run.
        steps: Steps of the whole run; those of its configuration if None.
        device: Device of the networks from here on; that of its configuration if None.
        command: The command line, to be recorded.
        trusted: Whether the module of an environment ``module:name`` is imported.

    Returns:
        The summary, as ``summary.json`` holds it.

    Raises:
        UsageError: There is nothing to resume, or nothing left to do.
        TrainingError: Training cannot go on.
        gsrl.checkpoint.CheckpointError: The checkpoint is damaged, or does not fit the configuration.
    """
    read_config(folder, trusted=trusted)
    with occupied(folder), told(folder):
        check_files(folder)
        stored = read_config(folder)
        config = dataclasses.replace(
            stored, steps=stored.steps if steps is None else steps, device=stored.device if device is None else device
        )
        config.check()
        return _run(config, folder, command, _checkpoint(folder, config, steps))


def _checkpoint(folder: Path, config: Config[Any], steps: int | None) -> dict[str, Any]:
    """What the checkpoint of a run holds that is to go on with a configuration.

    Args:
        folder: Folder of the run.
        config: The configuration.
        steps: The steps that were asked for, if any were.

    Raises:
        UsageError: There is nothing to resume, or nothing left to do.
        gsrl.checkpoint.CheckpointError: The checkpoint is damaged, or does not fit the configuration.
    """
    path = folder / "checkpoint.zip"
    if not path.exists():
        raise UsageError(f"{folder} cannot be resumed: it has no checkpoint.zip")
    state: dict[str, Any] = checkpoint.load(path, device=config.device)
    with checkpoint.fitting(path):
        checkpoint.check_entries(state, dict.fromkeys(("steps", "seconds")))
        checkpoint.check_counts(state, "steps")
    if "config" in state:  # older checkpoints lack it
        check_unchanged(dataclasses.asdict(config), state["config"], folder / "config.json")
    check_sizes(state, config.settings, path)
    if steps is not None and steps < state["steps"]:  # a last rollout may exceed those of the configuration
        raise UsageError(
            f"--steps must be at least the {state['steps']} that {folder} has done, but got {config.steps}"
        )
    if state["steps"] >= config.steps and is_finished(folder):
        raise UsageError(
            f"{folder} is finished, at {state['steps']} steps; --steps with a larger number goes on with it"
        )
    return state


def evaluate_run(
    folder: Path,
    episodes: int | None = None,
    seed: int | None = None,
    *,
    deterministic: bool = True,
    device: str | None = None,
    trusted: bool = False,
    max_episode_steps: int | None = None,
    scramble: bool = False,
    split: str = "train",
) -> dict[str, Any]:
    """Evaluates the final model of a run; of agents that talk with hard messages.

    Args:
        folder: Folder of the run, of one agent; or of an agent of a run in lock-step, such as ``seed_3`` inside it.
        episodes: How many; None for 20, or, of tasks where not all there are can be listed, those of the final
            evaluation.
        seed: Seed in place of the run's, of tasks that of the episodes. With the run's own, and as many episodes, the
            result is the summary's.
        deterministic: Take the most probable action, or send the most probable symbols; else sample.
        device: Device of the networks; that of the run if None.
        trusted: Whether the module of an environment ``module:name`` is imported.
        max_episode_steps: Steps after which an episode is cut off; those of the run if None. Not of tasks.
        scramble: Whether messages are shuffled across episodes, of agents that talk.
        split: Of the meanings, of signalling agents.

    Returns:
        ``agent``, ``env``, ``seed``, ``episodes``, ``deterministic``, ``mean_return``, ``std_return`` and ``returns``,
        a score for each episode; of tasks ``scramble`` and ``split`` as well.

    Raises:
        UsageError: There is no model in the folder, an argument is out of range, or there is no such evaluation.
        gsrl.checkpoint.CheckpointError: The model is damaged.
    """
    if episodes is not None and episodes < 1:
        raise UsageError(f"--episodes must be at least 1, but got {episodes}")
    config = _config_of_model(folder, device, trusted=trusted)
    set_threads(config.threads)
    card = config.card
    how: dict[str, Any] = {"deterministic": deterministic}
    if isinstance(card, TaskCard):
        if max_episode_steps is not None:
            raise UsageError(
                f"--max-episode-steps is for agents in Gymnasium's environments, and {config.agent} has its own"
            )
        if seed is not None and not 0 <= seed < 2**31:
            raise UsageError(f"--seed must be at least 0 and below 2**31, but got {seed}")
        how |= {"scramble": scramble, "split": split}
        returns = _scores(config, card, load_model(folder, device=device, trusted=trusted), episodes, seed, how)
    elif scramble or split != "train":
        raise UsageError(f"--scramble and --split are for agents that talk, and {config.agent} does not")
    else:
        given: dict[str, Any] = {"seed": seed, "max_episode_steps": max_episode_steps}
        config = dataclasses.replace(config, **{name: value for name, value in given.items() if value is not None})
        config.check()
        with closing(Evaluator(config.env, config.seed, **config.making)) as evaluator:
            model = _load_model(folder, config, evaluator.env)
            returns = np.array(evaluator(model, episodes or 20, deterministic=deterministic))
    return {
        "agent": config.agent,
        "env": config.env,
        "seed": config.seed,
        "episodes": len(returns),
        **how,
        "mean_return": float(returns.mean()),
        "std_return": float(returns.std()),
        "returns": returns.tolist(),
    }


def _scores(
    config: Config[Any], card: TaskCard, model: Any, episodes: int | None, seed: int | None, how: Mapping[str, Any]
) -> NDArray[np.float64]:
    """Those of a task, if it can be played so."""
    usual = {"deterministic": True, "scramble": False, "split": "train"}
    options = {"deterministic": "--stochastic", "scramble": "--scramble", "split": "--split"}
    asked = {name: value for name, value in how.items() if value != usual[name]}
    for name in asked.keys() - inspect.signature(card.play).parameters:
        raise UsageError(f"{config.agent} cannot be evaluated so: it knows no {options[name]}")
    try:
        scores: NDArray[np.float64]
        scores, *_ = card.play(model, config.settings, episodes or config.eval_episodes, seed=seed or 0, **asked)
    except ValueError as error:
        raise UsageError(f"{config.agent} cannot be evaluated so: {error}") from error
    return scores


def load_model(folder: Path | str, *, n_envs: int = 1, device: str | None = None, trusted: bool = False) -> Any:
    """Opens the final model of a run, of whichever agent, in environments like its own.

    Those of gsrl's own algorithms and tasks are read by their ``load`` too; Stable-Baselines3's are not, as it stores a
    pickle. What observations were normalised by is in ``model.get_env()``, where they were.

    Args:
        folder: Folder of the run, of one agent; or of an agent of a run in lock-step, such as ``seed_3`` inside it.
        n_envs: Environments of ``model.get_env()``; not of tasks.
        device: Device of the networks; that of the run if None.
        trusted: Whether the module of an environment ``module:name`` is imported.

    Returns:
        The model, which predicts and is evaluated, its replay is not kept; or the task.

    Raises:
        UsageError: There is no model in the folder.
        gsrl.checkpoint.CheckpointError: The model is damaged.
    """
    folder = Path(folder)
    config = _config_of_model(folder, device, trusted=trusted)
    if isinstance(config.card, TaskCard):
        return config.card.load(folder / "model.zip", config.env, config.settings, config.device)
    return _load_model(folder, config, make_environments(config.env, n_envs, config.seed, **config.making))


def member_folder(folder: Path, config: Config[Any], seed: int | None) -> Path:
    """Returns the folder of one agent of a run.

    Args:
        folder: Of the run, of one agent or of several.
        config: What it is.
        seed: Whose; None for the first.

    Raises:
        UsageError: There is none of this seed.
    """
    seeds = range(config.seed, config.seed + (config.seeds or 1))
    if seed is not None and seed not in seeds:
        raise UsageError(f"--seed must be one of {folder}, from {seeds[0]} to {seeds[-1]}, but got {seed}")
    return folder if config.seeds is None else folder_of(folder, seeds[0] if seed is None else seed)


def _config_of_model(folder: Path, device: str | None, *, trusted: bool) -> Config[Any]:
    """The configuration of a run of one agent that has left a model, on this device, or ``UsageError``."""
    config = read_config(folder, trusted=trusted)
    if config.seeds is not None:
        one = folder_of(folder, config.seed)
        raise UsageError(f"{folder} holds {config.seeds} agents: each is in a folder of its own, such as {one}")
    if not (folder / "model.zip").exists():
        raise UsageError(f"{folder} has no model.zip: its training did not finish")
    config = dataclasses.replace(config, device=device or config.device, compile=False)
    config.check()
    return config


def _load_model(folder: Path, config: Config[Any], env: VecEnv) -> BaseAlgorithm:
    """The model of a run, in some environments."""
    path = folder / "model.zip"
    tree = checkpoint.load(path, device=config.device)
    check_sizes(tree, config.settings, path)
    if hasattr(config.settings, "buffer_size"):  # there is nothing to put into it
        config = dataclasses.replace(config, settings=dataclasses.replace(config.settings, buffer_size=env.num_envs))
    with warnings.catch_warnings(action="ignore"):  # about training in as many environments, which is not to be
        model = make_agent(config, env, config.seed)
    load_parameters(tree, model, path)
    return model


def record_run(
    folder: Path,
    out: Path | None = None,
    *,
    seeds: Sequence[int] = (),
    episodes: int = 1,
    seed: int | None = None,
    deterministic: bool = True,
    max_episode_steps: int | None = None,
    trusted: bool = False,
) -> Path:
    """Records the final models of a run side by side, see :func:`gsrl.runs.watching.record`.

    Args:
        folder: Folder of the run, of one agent or of several in lock-step.
        out: Path of the recording; None: ``recording.gif`` in the folder.
        seeds: Of several agents, those that are shown; none: the first three.
        episodes: How many, one after another.
        seed: Seed in place of the run's, of the episodes.
        deterministic: Take the most probable action; else sample.
        max_episode_steps: Steps after which an episode is cut off; those of the run if None.
        trusted: Whether the module of an environment ``module:name`` is imported.

    Returns:
        The path.

    Raises:
        UsageError: There is no model in the folder, an argument is out of range, or what a recording needs is missing.
        gsrl.checkpoint.CheckpointError: The model is damaged.
    """
    out = folder / "recording.gif" if out is None else out
    check_format(out)
    if episodes < 1:
        raise UsageError(f"--episodes must be at least 1, but got {episodes}")
    config = read_config(folder, trusted=trusted)
    here = [config.seed] if config.seeds is None else list(range(config.seed, config.seed + config.seeds))
    for each in seeds:
        if each not in here:
            raise UsageError(f"--seeds must be among {', '.join(map(str, here))} of {folder}, but got {each}")
    chosen = list(seeds) or here[:MOST_AGENTS]
    how: dict[str, Any] = {"seed": seed, "max_episode_steps": max_episode_steps, "trusted": trusted}
    mode = shown_as(config)
    with ExitStack() as stack:
        players = []
        for each in chosen:
            own = folder if config.seeds is None else folder_of(folder, each)
            title = f"seed {each}" if len(chosen) > 1 else short_name(config.env)
            player = _player(own, title, mode, deterministic=deterministic, **how)
            players.append(stack.enter_context(closing(player)))
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {out} cannot be written: {error.strerror}") from error
        record(players, out, episodes)
    return out


def watch_run(folder: Path, episodes: int, *, trusted: bool = False, **how: Any) -> Iterator[tuple[int, float]]:
    """Shows the final model of a run, see :func:`gsrl.runs.watching.watch`.

    Args:
        folder: Folder of the run, of one agent; or of an agent of a run in lock-step, such as ``seed_3`` inside it.
        episodes: How many.
        trusted: Whether the module of an environment ``module:name`` is imported.
        **how: ``seed``, ``deterministic`` and ``max_episode_steps``, see :func:`record_run`.

    Yields:
        Steps and return of each episode.

    Raises:
        UsageError: As :func:`record_run`; or there is no display for an environment that shows pictures alone.
        gsrl.checkpoint.CheckpointError: The model is damaged.
    """
    if episodes < 1:
        raise UsageError(f"--episodes must be at least 1, but got {episodes}")
    config = _config_of_model(folder, None, trusted=trusted)
    modes = modes_of(config)
    yield from watch(lambda mode: _player(folder, config.env, mode, trusted=trusted, **how), modes, episodes)


def _player(
    folder: Path,
    title: str,
    render_mode: str | None,
    *,
    seed: int | None = None,
    max_episode_steps: int | None = None,
    deterministic: bool = True,
    trusted: bool = False,
) -> Player:
    """The final model of a run in an environment that is shown."""
    model = load_model(folder, trusted=trusted)
    config = read_config(folder, trusted=trusted)
    given: dict[str, Any] = {"seed": seed, "max_episode_steps": max_episode_steps}
    config = dataclasses.replace(config, **{name: value for name, value in given.items() if value is not None})
    config.check()
    return Player(model, config, title, render_mode, deterministic=deterministic)


# Training


def _run(config: Config[Any], folder: Path, command: Sequence[str], state: Mapping[str, Any] | None) -> dict[str, Any]:
    """Makes what is to be trained, brings it to where a checkpoint left it, and trains it."""
    set_threads(config.threads)
    is_task = config.card.is_task
    if is_task:
        config = dataclasses.replace(config, seeds=config.seeds or 1)
    elif config.seeds is not None and config.processes is None:
        # Kept in the configuration: when resumed, members have the same company.
        config = dataclasses.replace(config, processes=number_of_processes(config.seeds, config.device))
    # First: what uses global random numbers in spite of all must not meet those of the training.
    obstacle = None
    if config.card.environments is None:
        obstacle = why_not_rewindable(lambda: adapt(make_plain(config.env, **config.making)))
    trainee = _make_trainee(config)
    try:
        if state is not None:
            with checkpoint.fitting(folder / "checkpoint.zip"):
                lost = trainee.load_state(state)
            if lost is not None:
                print(
                    f"new episodes begin, as {config.env} could not be brought to where it was: {lost}", file=sys.stderr
                )
        run = Run(config, folder, trainee, state, command, obstacle)
        if state is None and config.card.tuned_settings(config.env) is None:
            print(f"{config.agent} is not tuned for {config.env}: its general settings are used", file=sys.stderr)
    except BaseException:
        trainee.close()
        raise
    return run.run()


def _make_trainee(config: Config[Any]) -> Trainee:
    if config.card.is_task:
        return TaskTrainee(config)
    if config.seeds is None:
        return AlgorithmTrainee(config)
    return Members(config, [Member(seed, config.settings) for seed in range(config.seed, config.seed + config.seeds)])
