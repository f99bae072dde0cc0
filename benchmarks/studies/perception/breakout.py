"""Tokens of MinAtar's Breakout: transformers that are taught by an agent with a convolution, and keep 25 tokens of 100.

- ``players``: transformers learn what the teacher, the run of an agent, would do in frames of its play, a tenth of
  whose actions are random: the divergence of their policies from its policy. *dense* reads all tokens; *pruned* 25, a
  choice that is learned; *random* any 25. All play greedily, in environments with the same seeds.
- ``learning``: steps a second of ``DiscreteSAC`` as it learns, by its features extractor.
- ``page``: tables of what is there.

Rows are appended as they come; those that are there already are not made again.

    gsrl train --agent discrete-sac --env MinAtar/Breakout-v1 --steps 40000 --train-freq 4 --out runs/breakout
    python benchmarks/studies/perception/breakout.py players --teacher runs/breakout
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import tyro
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

import envs  # noqa: F401  (registers MinAtar's games)
from benchmarks.studies.common import RESULTS, Rows, in_turns, repeated, start, write_page
from gsrl import DiscreteSAC
from gsrl.algorithms.extractors import SmallCNN
from gsrl.evaluation import evaluate_policy
from gsrl.perception.extractors import DiscreteLatentExtractor, TokenPruningExtractor
from gsrl.perception.pruning import RANKINGS, TokenPruner, VisionTransformer, save_picture
from gsrl.runs.environments import make_environments
from gsrl.runs.session import load_model

GAME = "MinAtar/Breakout-v1"
SHAPE = (4, 10, 10)
OUT = RESULTS / "perception"
N_ENVS = 16

PLAYERS: dict[str, dict[str, Any]] = {
    "dense": {"stages": {}},
    "pruned": {"stages": {0: 0.25}},
    "random": {"stages": {0: 0.25}, "ranking": "random"},
}
"""Settings of a :class:`TokenPruner`."""

EXTRACTORS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SmallCNN": (SmallCNN, {}),
    "transformer, all tokens": (TokenPruningExtractor, {"patch": 1, "stages": (), "shares": ()}),
    "transformer, 25 of 100": (TokenPruningExtractor, {"patch": 1}),
    "codes of 16 x 8": (DiscreteLatentExtractor, {}),
}
"""Those of an agent, by what they are."""

TEXT = """What the words mean: [the page on token pruning](../../../docs/token-pruning.md#in-an-agent).

Returns are means over episodes of greedy play, with 95 % intervals over the seeds of the transformers; the teacher is
one agent. Agreement is how often the greedy action is the teacher's, on frames that were not learned from. Steps a
second are by the processor's clock, one thread: `players` of batches of one frame and of 64, and learning of
`DiscreteSAC` with an update at every step."""


class Player:
    """A transformer that plays greedily, as ``evaluate_policy`` asks for it.

    Args:
        pruner: What answers.
    """

    def __init__(self, pruner: TokenPruner) -> None:
        self.pruner = pruner
        self.generator = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def logits(self, frames: Tensor) -> Tensor:
        """Of frames ``[B, 4, 10, 10]``; the choice has no noise, unless it is all that ranks the tokens."""
        is_random = self.pruner.ranking is not None
        return self.pruner(frames, deterministic=not is_random, generator=self.generator).outputs

    def predict(self, observation: Any, *args: Any, **how: Any) -> tuple[NDArray[np.int64], None]:
        """Actions for observations ``[B, 10, 10, 4]``."""
        return self.logits(images(observation)).argmax(-1).numpy(), None


def images(observations: Any) -> Tensor:
    """Observations ``[B, 10, 10, 4]`` as images ``[B, 4, 10, 10]``."""
    return torch.as_tensor(np.asarray(observations)).movedim(-1, 1).float()


@torch.no_grad()
def frames_of(teacher: Any, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Frames of its play ``[count, 4, 10, 10]``, a tenth of whose actions are random, and its logits ``[count, 3]``."""
    env, rng = make_environments(GAME, N_ENVS, seed), np.random.default_rng(seed)
    observations: Any = env.reset()
    seen: list[Tensor] = []
    said: list[Tensor] = []
    while len(seen) * N_ENVS < count:
        seen.append(images(observations))
        given = torch.as_tensor(np.asarray(observations)).float()
        said.append(teacher.policy.get_distribution(given).distribution.logits.flatten(1))
        actions, _ = teacher.predict(observations, deterministic=False)
        is_random = rng.random(N_ENVS) < 0.1
        observations, *_ = env.step(np.where(is_random, rng.integers(3, size=N_ENVS), actions))
    env.close()
    return torch.cat(seen)[:count], torch.cat(said)[:count]


def taught(name: str, frames: Tensor, logits: Tensor, updates: int, seed: int, batch: int = 64) -> Player:
    """A player that has learned from the teacher's logits."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    how = dict(PLAYERS[name])
    network = VisionTransformer(SHAPE, patch=1, width=32, depth=3, heads=2, n_outputs=logits.shape[-1])
    ranking = RANKINGS[how.pop("ranking")](network) if "ranking" in how else None
    pruner = TokenPruner(network, how["stages"], ranking=ranking)
    groups = [{**group, "first": group["lr"]} for group in pruner.parameter_groups(1e-3, 1e-2)]
    optimizer = torch.optim.Adam(groups)
    for update in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = group["first"] * (1 - update / updates)
        rows = torch.from_numpy(rng.integers(len(frames), size=batch))
        outputs = pruner(frames[rows]).outputs
        loss = F.kl_div(outputs.log_softmax(-1), logits[rows].log_softmax(-1), reduction="batchmean", log_target=True)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(pruner.parameters(), 1.0)
        optimizer.step()
    return Player(pruner.eval())


def returns_of(player: Any, episodes: int) -> list[float]:
    """Returns of episodes of greedy play."""
    env = make_environments(GAME, N_ENVS, seed=1_000)
    found, _ = evaluate_policy(player, env, episodes, return_episode_rewards=True, warn=False, max_episode_steps=2_500)
    env.close()
    assert isinstance(found, list)
    return found


def players(out: Path, folder: Path, frames: int, updates: int, seeds: int, episodes: int) -> None:
    """Returns, agreement and speed of the teacher and of those that it teaches."""
    rows = Rows(out / "breakout.csv")
    run = {"updates": updates, "frames": frames}
    runs: list[dict[str, Any]] = [{"player": name, "seed": seed} for seed in range(seeds) for name in PLAYERS]
    todo = [each for each in runs if not rows.holds(**run, **each)]
    if not todo:
        return
    teacher = load_model(folder)
    if not rows.holds(**run, player="teacher"):
        found = returns_of(teacher, episodes)
        steps = json.loads((folder / "config.json").read_text(encoding="utf-8"))["steps"]
        rows.add([_row(found, teacher_steps=steps)], **run, player="teacher", seed=0)
        print(f"teacher: {np.mean(found):.2f}", flush=True)
    learned = frames_of(teacher, frames, seed=1)
    held_out, wanted = frames_of(teacher, 2_000, seed=2)
    for each in todo:
        player = taught(each["player"], *learned, updates, each["seed"])
        agreement = (player.logits(held_out).argmax(-1) == wanted.argmax(-1)).float().mean().item()
        found = returns_of(player, episodes)
        cost: dict[str, Any] = {"flops": player.pruner.flops()}
        for batch in (1, 64):
            subject = repeated(partial(player.logits, held_out[:batch]))
            seconds = in_turns({"": subject}, 100 if batch == 1 else 10, 5, time.process_time)[""].median()
            cost[f"frames_a_second_{batch}"] = round(batch / seconds)
        rows.add([_row(found, agreement=round(agreement, 4), **cost)], **run, **each)
        print(f"{each}: {np.mean(found):.2f}, agreement {agreement:.3f}", flush=True)
        if each == {"player": "pruned", "seed": 0}:
            some = held_out[:: len(held_out) // 8][:8]
            with torch.no_grad():
                pruned = player.pruner(some, deterministic=True)
            save_picture(out / "breakout-kept.png", colours(some), pruned, patch=1)


def colours(frames: Tensor) -> Tensor:
    """Frames ``[B, 4, 10, 10]`` as pictures ``[B, 3, 10, 10]``: ball red, its trail dark red, bricks blue."""
    palette = torch.tensor([[1.0, 1, 1], [1, 0.3, 0.2], [0.5, 0.15, 0.1], [0.3, 0.5, 0.9]])
    return torch.einsum("bchw,cd->bdhw", frames, palette).clamp(0, 1)


def _row(found: list[float], **more: Any) -> dict[str, Any]:
    return {"episodes": len(found), "return": np.mean(found), "return_std": np.std(found, ddof=1), **more}


def learning(out: Path, steps: int = 300) -> None:
    """Steps a second of an agent that learns."""
    rows = Rows(out / "breakout-learning.csv")
    for run in rows.missing([{"extractor": name} for name in EXTRACTORS]):
        cls, kwargs = EXTRACTORS[run["extractor"]]
        policy_kwargs = {"features_extractor_class": cls, "features_extractor_kwargs": kwargs}
        how: dict[str, Any] = {"policy_kwargs": policy_kwargs, "learning_starts": 200, "buffer_size": 2_000, "seed": 0}
        model = DiscreteSAC("CnnPolicy", make_environments(GAME, 1, 0), device="cpu", **how).learn(300)
        begin = time.process_time()
        model.learn(steps, reset_num_timesteps=False)
        rows.add([{"steps_a_second": round(steps / (time.process_time() - begin), 1)}], **run)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A line for each player: means over seeds, the return with the 95 % interval of Student's t."""
    lines = []
    for name, own in table.groupby("player", sort=False):
        half = stats.t.ppf(0.975, len(own) - 1) * own["return"].sem() if len(own) > 1 else np.nan
        line: dict[str, Any] = {"player": name, "seeds": len(own), "episodes": own["episodes"].sum()}
        line["return"] = f"{own['return'].mean():.2f}" + ("" if np.isnan(half) else f" ± {half:.2f}")
        if own["agreement"].notna().all():
            line |= {"agreement, %": f"{100 * own['agreement'].mean():.1f}", "FLOPs": f"{own['flops'].iloc[0]:,.0f}"}
            line |= {f"frames a second, batch of {b}": f"{own[f'frames_a_second_{b}'].median():.0f}" for b in (1, 64)}
        lines.append(line)
    return pd.DataFrame(lines).fillna("")


def page(out: Path) -> None:
    """Tables."""
    tables: dict[str, pd.DataFrame] = {}
    if (out / "breakout.csv").exists():
        found = pd.read_csv(out / "breakout.csv")
        for (updates, frames), part in found.groupby(["updates", "frames"], sort=False):
            steps = int(part["teacher_steps"].max())
            heading = f"Returns, {updates} updates on {frames} frames of a teacher of {steps} steps"
            tables[heading] = summary(part)
    if (out / "breakout-learning.csv").exists():
        tables["DiscreteSAC, steps of learning a second"] = pd.read_csv(out / "breakout-learning.csv")
    write_page(out / "breakout.md", "Tokens of Breakout", TEXT, tables)


def main(
    what: tyro.conf.Positional[Literal["players", "learning", "page"]],
    *,
    teacher: Path = Path("runs") / "breakout",
    frames: int = 20_000,
    updates: int = 1_200,
    seeds: int = 3,
    episodes: int = 100,
    out: Path = OUT,
) -> None:
    """Runs what is missing of a part of the study.

    Args:
        what: The part.
        teacher: Folder of its run.
        frames: Of the teacher's play, to learn from.
        updates: Of a transformer, of 64 frames.
        seeds: Of each kind of transformer.
        episodes: Of an evaluation.
        out: Folder of rows and page.
    """
    if what == "players":
        players(out, teacher, frames, updates, seeds, episodes)
    elif what == "learning":
        learning(out)
    page(out)


if __name__ == "__main__":
    start(main, __doc__)
