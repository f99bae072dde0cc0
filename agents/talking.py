"""A run of agents that talk: several in lock-step, one unless told otherwise.

A step is an episode, of each agent. The folder holds what that of other agents in lock-step does, see
:mod:`agents.populations`, with these differences. A score is the share of right answers, or a return, see
``ENVIRONMENTS`` of the agent; ``mean_return`` is its mean. Messages are hard wherever something is evaluated.
``episodes.csv`` stays empty: thousands of episodes a second are not listed one by one. ``seed_3/model.zip`` is read by
:class:`gsrl.comms.SignallingGame` or :class:`gsrl.comms.DIAL`.

A run that is killed and resumed ends as one that was not, bit for bit.
"""

from __future__ import annotations

import dataclasses
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from agents import get_agent
from agents.common import UsageError
from agents.config import Config, read_config, refusals
from agents.files import write_text
from agents.interruption import Stop
from agents.lockstep import Member
from agents.plots import unit
from agents.populations import PopulationRun, folder_of
from agents.scores import interquartile_mean
from agents.training import carry_out, describe_steps, set_threads
from gsrl import checkpoint
from gsrl.comms import Protocol, SignallingGame, metrics

__all__ = ["Language", "evaluate_run", "language_of", "train"]

# Entry points


def train(config: Config[Any], folder: Path, command: Sequence[str], state: Mapping[str, Any] | None) -> dict[str, Any]:
    """Trains agents that talk.

    Args:
        config: What to run; it has been checked.
        folder: Folder of the run.
        command: The command line, to be recorded.
        state: What its checkpoint holds; None: it is new.

    Returns:
        The summary, as ``summary.json`` holds it.

    Raises:
        UsageError: The configuration cannot be used; nothing was written.
        TrainingError: Training cannot go on.
        gsrl.checkpoint.CheckpointError: The checkpoint does not fit the configuration.
    """
    config = dataclasses.replace(config, seeds=1 if config.seeds is None else config.seeds)
    set_threads(config.threads)
    talkers: Any = _Talkers(config)
    if state is not None:
        with checkpoint.fitting(folder / "checkpoint.zip"):
            checkpoint.check_entries(state, dict.fromkeys(("steps", "seconds", "members")))
            talkers.load_state(state["members"])
    run = _TalkingRun(config, folder, talkers, state, command, rewindable=True)
    what = f"{config.agent} in {config.env}" + (f", {config.seeds} in lock-step" if len(run.seeds) > 1 else "")
    return carry_out(run, command, None, what=what, resumed=state is not None)


def evaluate_run(
    folder: Path,
    episodes: int | None = None,
    seed: int | None = None,
    *,
    device: str | None = None,
    deterministic: bool = True,
    scramble: bool = False,
    split: str = "train",
) -> dict[str, Any]:
    """Evaluates the final model of an agent, with hard messages.

    Args:
        folder: Folder of an agent of a run, such as ``seed_3`` inside it.
        episodes: How many, where not all there are can be listed; those of the final evaluation if None.
        seed: Of the episodes; None repeats the final evaluation.
        device: Device of the networks; that of the run if None.
        deterministic: Send the most probable symbols; else sample them.
        scramble: Whether messages are shuffled across episodes.
        split: Of the meanings.

    Returns:
        ``agent``, ``env``, ``seed``, ``episodes``, ``deterministic``, ``scramble``, ``split``, ``mean_return``,
        ``std_return`` and ``returns``: a score for each episode.

    Raises:
        UsageError: There is no model in the folder, or there is no such evaluation.
        gsrl.checkpoint.CheckpointError: The model is damaged.
    """
    config, model = _load(folder, device)
    if episodes is not None and episodes < 1:
        raise UsageError(f"--episodes must be at least 1, but got {episodes}")
    if seed is not None and not 0 <= seed < 2**31:
        raise UsageError(f"--seed must be at least 0 and below 2**31, but got {seed}")
    kind = {"deterministic": deterministic, "scramble": scramble, "split": split}
    try:
        scores = get_agent(config.agent).play(
            model, config.settings, episodes or config.eval_episodes, seed=seed or 0, **kind
        )[0]
    except ValueError as error:
        raise UsageError(f"{config.agent} cannot be evaluated so: {error}") from error
    return {
        "agent": config.agent,
        "env": config.env,
        "seed": config.seed,
        "episodes": len(scores),
        **kind,
        "mean_return": float(scores.mean()),
        "std_return": float(scores.std()),
        "returns": scores.tolist(),
    }


class Language(NamedTuple):
    """What an agent has come to say."""

    title: str
    """Whose it is."""
    folder: Path
    """Of the agent."""
    protocol: Protocol
    """Which message stands for which meanings, held-out ones too."""
    metrics: dict[str, float]
    """What can be said of it in numbers, every meaning counting the same."""

    def write(self, out: Path) -> list[Path]:
        """Writes table and pictures, and returns their paths.

        Args:
            out: Where to.

        Raises:
            UsageError: It cannot be made.
        """
        paths = [out / name for name in ("protocol.md", "protocol.csv", "protocol.png", "dependence.png")]
        figures = "".join(f"- {name}: {value:.3f}\n" for name, value in self.metrics.items())
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {out} cannot be a folder: {error.strerror}") from error
        write_text(paths[0], f"# {self.title}\n\n{self.protocol.to_markdown()}\n{figures}")
        write_text(paths[1], self.protocol.to_csv())
        self.protocol.draw(paths[2], self.title)
        self.protocol.draw_dependence(paths[3], self.title)
        return paths


def language_of(folder: Path, seed: int | None = None) -> Language:
    """What an agent has come to say.

    Args:
        folder: Folder of a run, or of an agent of it, such as ``seed_3`` inside it.
        seed: Which of several; None for the first.

    Raises:
        UsageError: There is no such model, or it is of no signalling game.
        gsrl.checkpoint.CheckpointError: The model is damaged.
    """
    run = read_config(folder)
    if getattr(get_agent(run.agent), "ALGORITHM", None) is not SignallingGame:
        raise UsageError(
            f"protocol needs a run of signalling agents, and {folder} holds one of {run.agent}: there is no list of "
            "meanings"
        )
    seeds = range(run.seed, run.seed + (run.seeds or 1))
    if seed is not None and seed not in seeds:
        raise UsageError(f"--seed must be one of {folder}, from {seeds[0]} to {seeds[-1]}, but got {seed}")
    if run.seeds is not None:
        folder = folder_of(folder, seeds[0] if seed is None else seed)
    config, model = _load(folder, None)
    protocol = model.protocol(split="all")
    return Language(f"{config.agent} in {config.env}, seed {config.seed}", folder, protocol, _metrics(protocol, model))


# Training


class _Talkers:
    """Agents in lock-step, with what :class:`agents.lockstep.Members` offers of those in Gymnasium's environments.

    Args:
        config: What to run, with ``seeds``.

    Raises:
        UsageError: The agents cannot be made with these settings.
    """

    learning = True

    def __init__(self, config: Config[Any]) -> None:
        assert config.seeds is not None  # of one agent too
        self.config, self.agent = config, get_agent(config.agent)
        self.members = [Member(seed, config.settings) for seed in range(config.seed, config.seed + config.seeds)]
        self.model = self._make([member.seed for member in self.members], compile=config.compile)
        self.stopped_at: list[int | None] = [None] * len(self.members)
        self._update_seconds = 0.0

    def _make(self, seeds: Sequence[int], *, compile: bool = False) -> Any:
        config = self.config
        with refusals(config.agent, config.settings):
            return self.agent.make(config.env, config.settings, seeds=seeds, device=config.device, compile=compile)

    @property
    def steps(self) -> int:
        """Episodes of each."""
        return int(self.model.steps)

    @property
    def diverged(self) -> list[bool]:
        """Whether each was frozen because its loss was not finite."""
        return [not alive for alive in self.model.lockstep.alive.tolist()]

    def cancel(self) -> None:
        """Nothing: an evaluation is over soon."""

    def close(self) -> None:
        """Nothing: there is nothing to close."""

    def learn(self, steps: int) -> list[Any]:
        """Trains to the end of the update that reaches so many steps."""
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"the (game|team) of seed \d+ diverged")  # which the run tells
            updates = -(-(steps - self.steps) // self.model.batch_size)
            self.agent.learn(self.model, self.config.settings, updates, self.config.steps)
        self._update_seconds += time.perf_counter() - begin
        # Not the steps of now, which depend on how many are taken at a time.
        own = [count * self.model.batch_size for count in self.model.lockstep.counts]
        self.stopped_at = [steps if diverged else None for steps, diverged in zip(own, self.diverged, strict=True)]
        return []

    def evaluate(self, episodes: int, *, final: bool = False) -> NDArray[np.float64]:
        """The scores of each, ``[agents, episodes]``; but for the final ones, steps decide on the episodes."""
        seed = 0 if final else self.steps
        scores: NDArray[np.float64] = self.agent.play(self.model, self.config.settings, episodes, seed=seed)
        return scores

    def scalars(self) -> list[dict[str, float]]:
        """What is logged of each."""
        rows: list[dict[str, float]] = self.model.scalars()
        return rows

    def seconds(self) -> dict[str, float]:
        """What the time of this process went to."""
        return {"update": self._update_seconds}

    def state(self, *, rewindable: bool) -> dict[str, Any]:
        """All that changes while they learn."""
        return {"model": self.model.state_dict(), "stopped_at": self.stopped_at}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state`."""
        checkpoint.check_entries(state, dict.fromkeys(("model", "stopped_at")))
        self.model.load_state_dict(state["model"])
        self.stopped_at = list(state["stopped_at"])

    def save_models(self, paths: Sequence[Path]) -> None:
        """Saves each as one by itself."""
        state = self.model.state_dict()
        for index, (member, path) in enumerate(zip(self.members, paths, strict=True)):
            alone = self._make([member.seed])
            own = {name: state[name][index : index + 1] for name in ("members", "alive", "diverged")}
            alone.load_state_dict({**state, **own, "history": []})
            alone.save(path)


class _TalkingRun(PopulationRun):
    """Agents that talk in training, with their logs."""

    def evaluate(self, episodes: int, stop: Stop, *, final: bool = False) -> NDArray[np.float64]:
        stop.check()
        with self.timed("evaluation"):
            # As many along the way: they take no time.
            scores = self.members.evaluate(self.config.eval_episodes, final=final)
        means, deviations = scores.mean(1).tolist(), scores.std(1).tolist()
        rows = [{"mean_return": mean, "std_return": std} for mean, std in zip(means, deviations, strict=True)]
        self.record_times()
        self._record(rows, scores.shape[1])
        seeds = f"IQM {interquartile_mean(means):.3f}, worst {min(means):.3f} of {len(means)} seeds{self._lost()}"
        result = seeds if len(means) > 1 else f"{means[0]:.3f}"
        episodes_done = describe_steps(self.steps, self.config.steps, "episodes")
        tqdm.write(f"{episodes_done}: {unit(self.config)} {result}", sys.stderr)
        return scores


def _load(folder: Path, device: str | None) -> tuple[Config[Any], Any]:
    """The configuration and the model of an agent of a run."""
    config = read_config(folder)
    if config.seeds is not None:
        one = folder_of(folder, config.seed)
        raise UsageError(f"{folder} holds {config.seeds} agents: each is in a folder of its own, such as {one}")
    path = folder / "model.zip"
    if not path.exists():
        raise UsageError(f"{folder} has no model.zip: its training did not finish")
    config = dataclasses.replace(config, device=device or config.device, compile=False)
    config.check()
    set_threads(config.threads)
    return config, get_agent(config.agent).load(path, config.settings, config.device)


def _metrics(protocol: Protocol, model: SignallingGame) -> dict[str, float]:
    """Entropy and the like; where meanings have several attributes, how messages mirror them."""
    messages, meanings, lengths = protocol.messages, protocol.meanings, protocol.lengths
    figures = {
        "message entropy (bits)": metrics.message_entropy(messages, lengths),
        "mutual information (bits)": metrics.mutual_information(messages, meanings, lengths),
        "mean length": metrics.mean_length(messages, lengths),
        "redundancy": metrics.redundancy(
            messages, model.channel.vocabulary, lengths if model.channel.variable_length else None
        ),
    }
    if meanings.shape[1] > 1:
        figures |= {
            "topographic similarity": metrics.topographic_similarity(messages, meanings, lengths),
            "positional disentanglement": metrics.positional_disentanglement(messages, meanings, lengths),
            "bag-of-symbols disentanglement": metrics.bag_of_symbols_disentanglement(messages, meanings, lengths),
        }
    return figures
