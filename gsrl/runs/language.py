"""What agents that talk have learned: their evaluation, and their language."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from gsrl.comms import MessageProtocol, SignallingGame, metrics
from gsrl.runs.config import Config, read_config
from gsrl.runs.errors import UsageError
from gsrl.runs.files import write_text
from gsrl.runs.run import folder_of, set_threads

__all__ = ["Language", "evaluate_run", "language_of"]


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
        card: Any = config.card
        scores = card.play(model, config.settings, episodes or config.eval_episodes, seed=seed or 0, **kind)[0]
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
    protocol: MessageProtocol
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
    if run.card.algorithm is not SignallingGame:
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
    card: Any = config.card
    return config, card.load(path, config.settings, config.device)


def _metrics(protocol: MessageProtocol, model: SignallingGame) -> dict[str, float]:
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
