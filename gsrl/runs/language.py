"""What agents that talk have come to say."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from gsrl.comms import MessageProtocol, SignallingGame, metrics
from gsrl.multi_agent import MADDPG, MultiAgentSAC
from gsrl.runs.config import read_config, set_threads
from gsrl.runs.errors import UsageError
from gsrl.runs.files import write_text
from gsrl.runs.session import load_model, member_folder

__all__ = ["Language", "languages_of"]


class Language(NamedTuple):
    """What an agent has come to say."""

    title: str
    """Whose it is."""
    folder: Path
    """Of the agent."""
    protocol: MessageProtocol
    """Which message stands for which meanings, held-out ones too."""
    metrics: dict[str, float]
    """What can be said of it in numbers: of a signalling game every meaning counts the same, of a team as often as it
    comes."""
    speaker: str = ""
    """Who speaks, of a team."""

    def write(self, out: Path) -> list[Path]:
        """Writes table and pictures, and returns their paths.

        Args:
            out: Where to.

        Raises:
            UsageError: It cannot be made.
        """
        of = f"_{self.speaker}" if self.speaker else ""
        paths = [out / f"protocol{of}.{kind}" for kind in ("md", "csv", "png")]
        figures = "".join(f"- {name}: {value:.3f}\n" for name, value in self.metrics.items())
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {out} cannot be a folder: {error.strerror}") from error
        write_text(paths[0], f"# {self.title}\n\n{self.protocol.to_markdown()}\n{figures}")
        write_text(paths[1], self.protocol.to_csv())
        self.protocol.draw(paths[2], self.title)
        if not self.speaker:
            paths.append(out / "dependence.png")
            self.protocol.draw_dependence(paths[3], self.title)
        return paths


def languages_of(folder: Path, seed: int | None = None) -> list[Language]:
    """What an agent has come to say; of a team each that speaks.

    Args:
        folder: Folder of a run, or of an agent of it, such as ``seed_3`` inside it.
        seed: Which of several; None for the first.

    Raises:
        UsageError: There is no such model, or it is of no signalling game and of no team that speaks.
        gsrl.checkpoint.CheckpointError: The model is damaged.
    """
    run = read_config(folder)
    if run.card.algorithm not in (SignallingGame, MultiAgentSAC, MADDPG):
        raise UsageError(
            f"protocol needs a run of signalling agents or of a team, and {folder} holds one of {run.agent}: there is "
            "no list of meanings"
        )
    folder = member_folder(folder, run, seed)
    set_threads(run.threads)
    model = load_model(folder)
    title = f"{run.agent} in {run.env}, seed {model.seeds[0]}"
    if isinstance(model, SignallingGame):
        protocol = model.protocol(split="all")
        return [Language(title, folder, protocol, _metrics(protocol, model))]
    try:
        protocols = model.protocol()
    except ValueError as error:
        raise UsageError(f"{folder} has no protocol: {error}") from error
    return [
        Language(f"{title}, {agent}", folder, each, {"mutual information (bits)": each.information()}, agent)
        for agent, each in protocols.items()
    ]


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
