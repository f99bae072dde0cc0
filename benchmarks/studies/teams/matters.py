"""What matters to teams that learn to talk, and to act together? Bonus, estimators, critics, targets, and who is seen.

Each variant is ten teams in lock-step, whose final parameters play 1,000 fixed episodes with the most probable choices:
a row for each team, with the return of an agent, that with what is heard exchanged among episodes, and what its first
words tell of what the first speaker alone knows, in bits. Rows are kept; a part goes on where it was.

- *talking*: speaker and listener, 130,000 steps, with the bonus and without: estimators; values of all choices with the
  exact gradient; no target critic; the others as in replay.
- *longer*: speaker and listener without the bonus, 300,000 steps.
- *reference*: two that move and talk, 400,000 steps, with the bonus.
- *spread*: three that cover landmarks, 200,000 steps, beside learners by themselves and without entropy; the same steps
  of ``ippo`` are in the suite ``multi-agent``.
- *foraging*: ``Foraging-8x8-2p-2f-coop-v3`` of ``lbforaging``, 500,000 steps: estimators, and learners by themselves;
  returns are of both agents together, at most 1.

    python benchmarks/studies/teams/matters.py [--only talking] [--variants-like "st-gumbel*"] [--seeds 10] [--steps N]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from benchmarks.studies.common import RESULTS, Rows, start, write_page
from envs.gym_teams import GymTeamEnv
from envs.mpe import ReferenceEnv, SpeakerListenerEnv, SpreadEnv
from gsrl import make_estimator
from gsrl._files import save_figure
from gsrl._style import BLUE, SOFT
from gsrl.comms.metrics import mutual_information
from gsrl.estimators import Estimator
from gsrl.multi_agent import MADDPG, MultiAgentSAC, ParallelVecEnv, SplitActions
from gsrl.temperature import ExponentialTemperature

Part = Literal["talking", "longer", "reference", "spread", "foraging"]
PARTS: tuple[Part, ...] = get_args(Part)
EPISODES = 1000


def annealed(updates: int) -> Estimator:
    """Straight-through Gumbel-softmax whose temperature falls from 1 to .3 by the end."""
    return make_estimator("st-gumbel", temperature=ExponentialTemperature(1.0, 0.3, updates))


ESTIMATORS: dict[str, Callable[[int], Estimator]] = {
    "st-gumbel, τ = 1": lambda updates: make_estimator("st-gumbel", temperature=1.0),
    "st-gumbel, τ = .5": lambda updates: make_estimator("st-gumbel", temperature=0.5),
    "st-gumbel, τ falls": annealed,
    "gumbel-rao": lambda updates: make_estimator("gumbel-rao", temperature=1.0),
    "gapped-st": lambda updates: make_estimator("gapped-st", temperature=1.0),
    "reinmax": lambda updates: make_estimator("reinmax", temperature=1.0),
    "gumbel-softmax": lambda updates: make_estimator("gumbel-softmax", temperature=1.0),
    "rloo": lambda updates: make_estimator("rloo"),
    "reinforce": lambda updates: make_estimator("reinforce", baseline="running-mean"),
}
"""Of so many updates."""

ST = "st-gumbel, τ = 1"
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "choices, exact": ("", {"critic": "choices", "estimator": "exact"}),
    "no target critic": (ST, {"polyak": 1.0}),
    "others as in replay": (ST, {"others": "replayed"}),
}
"""By label, the estimator and what else differs."""


class Variant(NamedTuple):
    """What one run is."""

    part: Part
    variant: str
    bonus: float
    steps: int


STEPS: dict[Part, int] = {
    "talking": 130_000,
    "longer": 300_000,
    "reference": 400_000,
    "spread": 200_000,
    "foraging": 500_000,
}
WORLDS: dict[Part, Callable[[], Any]] = {
    "talking": SpeakerListenerEnv,
    "longer": SpeakerListenerEnv,
    "reference": lambda: SplitActions(ReferenceEnv()),
    "spread": SpreadEnv,
    "foraging": lambda: GymTeamEnv("lbforaging:Foraging-8x8-2p-2f-coop-v3", time_limit=50),
}
BY_THEMSELVES = "by themselves"


def variants(part: Part, steps: int | None) -> Iterator[Variant]:
    """All of a part."""
    names = {
        "talking": [*ESTIMATORS, *OTHERS],
        "longer": [ST],
        "reference": [ST],
        "spread": [ST, "choices, exact", BY_THEMSELVES, "maddpg"],
        "foraging": [*ESTIMATORS, "choices, exact", BY_THEMSELVES],
    }[part]
    bonuses = {"talking": (1.0, 0.0), "reference": (1.0,)}.get(part, (0.0,))
    for bonus in bonuses:
        for name in names:
            yield Variant(part, name, bonus, steps or STEPS[part])


def team_of(run: Variant, seeds: int) -> MultiAgentSAC:
    """The teams of a variant."""
    estimator, how = OTHERS.get(run.variant, (run.variant if run.variant in ESTIMATORS else ST, {}))
    settings: dict[str, Any] = {"signalling_bonus": run.bonus, **how}
    if estimator:
        settings["estimator"] = ESTIMATORS[estimator](max(1, run.steps // 32))
    if run.variant == BY_THEMSELVES:
        settings["critics_see"] = "own"
    make = MADDPG if run.variant == "maddpg" else MultiAgentSAC
    return make(WORLDS[run.part], range(seeds), device="cpu", **settings)


def bits(team: MultiAgentSAC, index: int) -> float | None:
    """What the first word of the first speaker tells of what it alone knows; None: nobody speaks."""
    speakers = [i for i, agent in enumerate(team.team.agents) if team.speech[agent].factors]
    if not speakers:
        return None
    speech = team.speech[team.team.agents[speakers[0]]]
    worlds = ParallelVecEnv(WORLDS["talking"] if team.team.n == 1 else WORLDS["reference"], EPISODES, (0,))
    worlds.seed("evaluation")
    observations, masks, _ = worlds.reset()
    words = team.predict(observations, masks, index)[:, speakers[0]][:, list(speech.factors)]
    knows = observations[:, speakers[0]][:, list(speech.private)].argmax(-1)
    return mutual_information(words, knows[:, None])


def trained(run: Variant, seeds: int, episodes: int) -> Iterator[dict[str, Any]]:
    """A row for each team."""
    team, begin = team_of(run, seeds), time.process_time()
    team.learn(run.steps, log_interval=10**9)
    seconds = time.process_time() - begin
    talks = any(speech.factors for speech in team.speech.values())
    for index, seed in enumerate(team.seeds):
        together = len(team.team.agents) if run.part == "foraging" else 1
        scrambled = team.play(index, episodes, 0, scramble=True).mean() if talks else None
        yield {
            "seed": seed,
            "return": together * team.play(index, episodes, 0).mean(),
            "scrambled": scrambled,
            "bits": bits(team, index),
            "seconds": seconds / seeds,
        }


def interval(values: pd.Series) -> tuple[float, float]:
    """Mean and half of the 95 % interval, Student's."""
    count = len(values)
    half = stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / count**0.5 if count > 1 else 0.0
    return float(values.mean()), float(half)


def lines(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each variant."""
    found = []
    for (bonus, name), group in rows.groupby(["bonus", "variant"], sort=False):
        mean, half = interval(group["return"])
        found.append(
            {
                "variant": name,
                "bonus": bonus,
                "steps": group["steps"].iloc[0],
                "teams": len(group),
                "return": f"{mean:.2f} ± {half:.2f}",
                "worst": f"{group['return'].min():.2f}",
                "scrambled": "" if group["scrambled"].isna().all() else f"{group['scrambled'].mean():.2f}",
                "bits": "" if group["bits"].isna().all() else f"{group['bits'].mean():.2f}",
                "seconds a team": f"{group['seconds'].mean():.0f}",
            }
        )
    return pd.DataFrame(found)


def draw(rows: pd.DataFrame) -> Figure:
    """Returns of speakers and listeners by variant: teams, means and intervals, with the bonus and without."""
    names = [name for name in [*ESTIMATORS, *OTHERS] if name in set(rows["variant"])]
    figure = Figure(figsize=(7.2, 0.34 * len(names) + 1.3), layout="constrained")
    axes = figure.subplots()
    for bonus, color, shift in ((1.0, BLUE, 0.16), (0.0, SOFT, -0.16)):
        for place, name in enumerate(reversed(names)):
            own = rows[(rows["bonus"] == bonus) & (rows["variant"] == name)]["return"]
            if len(own):
                mean, half = interval(own)
                axes.plot(own, [place + shift] * len(own), "o", ms=3, color=color, alpha=0.35)
                axes.errorbar(mean, place + shift, xerr=half, fmt="D", ms=4, capsize=2, color=color)
        axes.plot([], [], "D", color=color, label="with the bonus" if bonus else "without")
    for value, label in ((-15.5, "silent"), (-11.7, "two symbols"), (-7.6, "script")):
        axes.axvline(value, color=SOFT, lw=0.8, ls=":")
        axes.text(value, len(names) - 0.4, label, ha="center", va="bottom", fontsize=7, color=SOFT)
    axes.set(yticks=range(len(names)), yticklabels=names[::-1], xlabel="return of an agent")
    axes.set_xlim(max(axes.get_xlim()[0], -40.0), -5.0)
    axes.legend(loc="lower left")
    return figure


def main(
    *,
    only: tuple[Part, ...] = PARTS,
    variants_like: tuple[str, ...] = ("*",),
    seeds: int = 10,
    steps: int | None = None,
    episodes: int = EPISODES,
    out: Path = RESULTS / "teams",
) -> None:
    """Makes the rows that are missing, and writes page and figure.

    Args:
        only: Parts.
        variants_like: Patterns of the labels of variants.
        seeds: Teams of each variant.
        steps: Of each team; None: those of the part.
        episodes: Of an evaluation.
        out: Folder of the results.
    """
    rows = Rows(out / "matters.csv", order=("part",))
    runs = [
        run._asdict()
        for part in only
        for run in variants(part, steps)
        if any(fnmatch(run.variant, pattern) for pattern in variants_like)
    ]
    for run in rows.missing(runs):
        rows.add(list(trained(Variant(**run), seeds, episodes)), **run)
    table = rows.table()
    tables: dict[str, pd.DataFrame] = {
        part: lines(table[table["part"] == part]) for part in PARTS if (table["part"] == part).any()
    }
    text = (
        "Final parameters, fixed episodes, the most probable choices; intervals are Student's, of 95 %, over teams. A "
        "silent listener gets -15.5, two symbols -11.7, a script -7.6."
    )
    write_page(out / "matters.md", "What matters to teams", text, tables)
    talking = table[table["part"] == "talking"]
    if len(talking):
        save_figure(draw(talking), out / "matters.png")


if __name__ == "__main__":
    start(main, __doc__)
