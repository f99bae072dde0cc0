"""Small files of each kind, and what the code that wrote them makes of them when it goes on; for commit f2f6d76.

  python kinds.py write          writes kinds/ and kinds/figures.json, with that commit on the path
  python kinds.py compare        goes on with each, and says which figures are equal to the digit
  python kinds.py renew NAME...  goes on with these by the code of now, and takes its figures from then on

Kinds are renewed where a decision changes what is computed: those with n-step returns that were corrected have been,
and replay, which an agent of the defaults learns from.

Figures are numbers that a layout does not change: sums over all parameters, rounded once, and what is logged. Only on
one machine are they equal to the digit: how sums are split among lanes, and so how they round, differs between
processors. The test takes what is near.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

import run_agent
from gsrl import DiscreteSAC, Population, Reinforce, make_estimator
from gsrl.algorithms.extractors import SmallCNN
from gsrl.comms import (
    DIAL,
    AttributeValueGame,
    Channel,
    DiscriminationGame,
    LewisGame,
    PopulationGame,
    QuestionGame,
    SignallingGame,
)
from gsrl.comms.riddle import SwitchRiddle
from gsrl.runs import search
from gsrl.runs.session import load_model
from gsrl.schedules import ExponentialSchedule
from gsrl.temperature import ExponentialTemperature, LearnedTemperature

FOLDER = Path(__file__).parent / "kinds"
FIGURES = FOLDER / "figures.json"

Figures = dict[str, float]

# Environments


class Toy(gym.Env[Any, Any]):
    """A bit to be answered, in episodes of five steps, every other one of which is cut off.

    Args:
        observations: What it is seen in: ``"vector"``, ``"image"`` or ``"dict"``.
        action_space: Of the answer: the first factor, but for what exceeds 1.
        masked: Whether one choice, another one at each step, is illegal.
    """

    def __init__(self, observations: str, action_space: spaces.Space[Any], *, masked: bool = False) -> None:
        vector = spaces.Box(-1.0, 1.0, (3,), np.float32)
        image = spaces.Box(0, 255, (3, 4, 1), np.uint8)
        known: dict[str, spaces.Space[Any]] = {"vector": vector, "image": image}
        known["dict"] = spaces.Dict({"kind": spaces.Discrete(3), "vector": vector})
        self.observations, self.observation_space = observations, known[observations]
        self.action_space = action_space
        self.masked = masked
        self.episodes = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        self.episodes += 1
        return self._observe()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        reward = float(min(int(np.ravel(action)[0]), 1) == self.bit) + 0.1 * float(np.sum(action))
        over = self.time == 5
        observation, info = self._observe()
        return observation, reward, over and self.episodes % 2 == 0, over and self.episodes % 2 == 1, info

    def _observe(self) -> tuple[Any, dict[str, Any]]:
        self.bit = int(self.np_random.integers(2))
        noise = self.np_random.uniform(-0.5, 0.5, 12).astype(np.float32)
        vector = np.append(noise[:2], np.float32(2 * self.bit - 1))
        image = (127 * (self.bit + 0.5 + noise)).astype(np.uint8).reshape(3, 4, 1)
        seen = {"vector": vector, "image": image, "dict": {"kind": self.bit, "vector": vector}}[self.observations]
        if not self.masked:
            return seen, {}
        mask = np.ones(spaces.flatdim(self.action_space), np.int8)
        mask[2 - self.time % 2] = 0
        return seen, {"action_mask": mask}


def vectors() -> Toy:
    return Toy("vector", spaces.Discrete(2))


def images() -> Toy:
    return Toy("image", spaces.Discrete(2))


def dicts() -> Toy:
    return Toy("dict", spaces.Discrete(3))


def masks() -> Toy:
    return Toy("vector", spaces.Discrete(3), masked=True)


def factors() -> Toy:
    return Toy("vector", spaces.MultiDiscrete([3, 2]))


def masked_factors() -> Toy:
    return Toy("vector", spaces.MultiDiscrete([2, 3]), masked=True)


# Figures


def sums(tensors: Mapping[str, torch.Tensor], name: str) -> Figures:
    """What does not depend on how parameters are laid out."""
    values = [value for tensor in tensors.values() for value in tensor.detach().double().flatten().tolist()]
    return {f"{name}, sum": math.fsum(values), f"{name}, sum of sizes": math.fsum(map(abs, values))}


def of_agent(agent: Any, name: str = "parameters") -> Figures:
    return sums(agent.policy.state_dict(), name)


def logged(scalars: Mapping[str, Any], name: str = "logged") -> Figures:
    return {f"{name} {key}": float(value) for key, value in scalars.items() if key.startswith("train/")}


def of_lockstep(model: Any) -> Figures:
    """What is logged of each, after it was saved and read again."""
    return {name: value for index, row in enumerate(model.scalars()) for name, value in logged(row, f"{index}").items()}


# Kinds


class Kind(NamedTuple):
    """A kind of file."""

    make: Callable[[Path], None]
    """Writes one."""
    go_on: Callable[[Path], Figures]
    """Loads it, goes on and says where that led to."""
    suffix: str = ".zip"
    """Of its name; none of a folder's."""


def learn_on(agent: Any, env: Callable[[], Toy], steps: int = 40) -> Figures:
    agent.set_env(env())
    agent.env.seed(0)
    agent.learn(steps, reset_num_timesteps=False)
    return {**of_agent(agent), **logged(agent.logger.name_to_value)}


def sac(env: Callable[[], Toy], policy: str = "MlpPolicy", kwargs: dict[str, Any] | None = None, **more: Any) -> Kind:
    def make(path: Path) -> None:
        settings = {"buffer_size": 60, "learning_starts": 20, "batch_size": 16, "seed": 0, "device": "cpu", **more}
        agent = DiscreteSAC(policy, env(), policy_kwargs={"net_arch": [8], **(kwargs or {})}, **settings)
        agent.learn(50).save(path, include=["replay_buffer"])

    return Kind(make, lambda path: learn_on(DiscreteSAC.load(path, device="cpu"), env))


def reinforce(baseline: str, env: Callable[[], Toy] = vectors, **more: Any) -> Kind:
    def make(path: Path) -> None:
        settings = {"n_episodes": 2, "critic_updates": 2, "seed": 0, "device": "cpu", **more}
        agent = Reinforce("MlpPolicy", env(), baseline=baseline, policy_kwargs={"net_arch": [8]}, **settings)
        agent.learn(30).save(path)

    return Kind(make, lambda path: learn_on(Reinforce.load(path, device="cpu"), env))


def population(algorithm: Any, env: Callable[[], Toy], steps: int, **settings: Any) -> Kind:
    def make(path: Path) -> None:
        members = Population(
            algorithm, env, [3, 5], n_envs=2, policy_kwargs={"net_arch": [8]}, device="cpu", **settings
        )
        members.learn(steps).save(path)

    def go_on(path: Path) -> Figures:
        members = Population.load(path, algorithm, env, device="cpu").learn(steps)
        own = [of_agent(members.member(index), f"parameters of {index}") for index in range(2)]
        return {**own[0], **own[1], **of_lockstep(members)}

    return Kind(make, go_on)


def stopped(kind: Kind, algorithm: Any, env: Callable[[], Toy]) -> Kind:
    """The same, with a member that does not learn any more."""

    def make(path: Path) -> None:
        kind.make(path)
        members = Population.load(path, algorithm, env, device="cpu")
        members.stop(0)
        members.save(path)

    return Kind(make, kind.go_on)


def game(make_game: Callable[[], Any], make_channel: Callable[[], Channel], **settings: Any) -> Kind:
    def make(path: Path) -> None:
        games = SignallingGame(
            make_game(), make_channel(), **{"hidden": 6, "batch_size": 8, "device": "cpu", **settings}
        )
        games.learn(6, log_interval=3).save(path)

    def go_on(path: Path) -> Figures:
        games = SignallingGame.load(path, device="cpu").learn(6, log_interval=3)
        agents = {
            name: value
            for index in range(len(games.seeds))
            for name, value in sums(games.agents(index).state_dict(), f"parameters of {index}").items()
        }
        return {**agents, **of_lockstep(games)}

    return Kind(make, go_on)


def team(**settings: Any) -> Kind:
    def make(path: Path) -> None:
        small = {"seeds": (0, 1), "hidden": 6, "batch_size": 4, "target_interval": 3, "device": "cpu"}
        DIAL(SwitchRiddle, **{**small, **settings}).learn(24, log_interval=3).save(path)

    def go_on(path: Path) -> Figures:
        teams = DIAL.load(path, SwitchRiddle, device="cpu").learn(24, log_interval=3)
        returns = {f"return of {index}": value for index, value in enumerate(teams.evaluate(20).mean_return.tolist())}
        return {**of_lockstep(teams), **returns}

    return Kind(make, go_on)


def replay(env: Callable[[], Toy], **settings: Any) -> Kind:
    def agent() -> DiscreteSAC:
        small = {"buffer_size": 40, "learning_starts": 20, "policy_kwargs": {"net_arch": [8]}, "device": "cpu"}
        return DiscreteSAC("MlpPolicy", env(), batch_size=16, seed=0, **small, **settings)

    def make(path: Path) -> None:
        agent().learn(50).save_replay_buffer(path)

    def go_on(path: Path) -> Figures:
        new = agent()
        new.load_replay_buffer(path)
        return learn_on(new, env)

    return Kind(make, go_on)


def command(*arguments: str) -> None:
    code = run_agent.main(list(arguments))
    assert code in (0, 130), f"run_agent.py {' '.join(arguments)} ended with {code}"


def evaluations(folder: Path, name: str = "evaluations.csv", column: str = "mean_return") -> Figures:
    with (folder / name).open(newline="") as file:
        return {f"{name} {row}": float(values[column]) for row, values in enumerate(csv.DictReader(file))}


def clean(folder: Path) -> None:
    """Leaves out what is drawn and written anew, and what says where it was made."""
    for path in [*folder.rglob("events.out.tfevents.*"), *folder.rglob("*.png"), *folder.rglob(".*")]:
        path.unlink()
    for path in [*folder.rglob("config.json"), *folder.rglob("search.json")]:
        config = json.loads(path.read_text())
        for session in config["sessions"]:
            session.update(command=["train"], platform="")
        path.write_text(json.dumps(config, indent=2) + "\n")
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def run(agent: str, *options: str, further: int, of_models: Callable[[Path], Figures]) -> Kind:
    """A run that was finished, and is to go on."""

    def make(folder: Path) -> None:
        command("train", "--agent", agent, "--eval-episodes", "2", *options, "--out", str(folder))
        clean(folder)

    def go_on(folder: Path) -> Figures:
        command("train", "--resume", str(folder), "--steps", str(further))
        return {**of_models(folder), **evaluations(folder)}

    return Kind(make, go_on, "")


def of_model(folder: Path) -> Figures:
    return of_agent(load_model(folder))


def of_members(folder: Path) -> Figures:
    return {
        name: value
        for path in sorted(folder.glob("seed_*"))
        for name, value in of_agent(load_model(path), f"parameters of {path.name}").items()
    }


def of_games(folder: Path) -> Figures:
    return {
        name: value
        for path in sorted(folder.glob("seed_*"))
        for name, value in sums(
            SignallingGame.load(path / "model.zip", device="cpu").agents(0).state_dict(), f"parameters of {path.name}"
        ).items()
    }


def of_teams(folder: Path) -> Figures:
    loaded = [(path.name, DIAL.load(path / "model.zip", SwitchRiddle, device="cpu")) for path in folder.glob("seed_*")]
    return {f"return of {name}": float(teams.evaluate(20).mean_return[0]) for name, teams in sorted(loaded)}


@contextmanager
def interrupted_search(steps: int) -> Any:
    """Searches are interrupted once they have done some steps."""
    advance = search.Search._advance

    def interrupt(self: Any, pace: Any) -> None:
        if self.members.steps >= steps:
            raise search.Interrupted
        pace.steps = min(pace.steps, max(1, steps - self.members.steps))
        advance(self, pace)

    search.Search._advance = interrupt  # type: ignore[method-assign]
    try:
        yield
    finally:
        search.Search._advance = advance  # type: ignore[method-assign]


def interrupted(agent: str, *options: str) -> Kind:
    """A search that was interrupted, and is to go on."""

    def make(folder: Path) -> None:
        with interrupted_search(30):
            command("search", "--agent", agent, *options, "--confirm", "1", "--out", str(folder))
        clean(folder)

    def go_on(folder: Path) -> Figures:
        command("search", "--resume", str(folder))
        summary = json.loads((folder / "summary.json").read_text())
        scores = {f"score {index}": value for index, value in enumerate(summary["winner"]["scores"])}
        return {**scores, **of_members(folder / "confirmation"), **evaluations(folder / "confirmation")}

    return Kind(make, go_on, "")


PROBE = ("--env", "gsrl/ProbeOneStep-v0")
OFF_POLICY = (*PROBE, "--net-arch", "8", "--buffer-size", "60", "--learning-starts", "20", "--batch-size", "16")
ON_POLICY = (*PROBE, "--net-arch", "8", "--n-episodes", "4")
SMALL_CNN = {
    "features_extractor_class": SmallCNN,
    "features_extractor_kwargs": {"features_dim": 6, "channels": 2},
    "net_arch": [],
}

KINDS: dict[str, Kind] = {
    "sac-vectors": sac(vectors),
    "sac-learned-entropy": sac(
        vectors,
        ent_coef="auto",
        estimator="st-gumbel",
        n_steps=3,
        reward_scale=2.0,
        learning_rate=ExponentialSchedule(1e-2, 1e-3, 1.0),
        max_grad_norm=1.0,
    ),
    "sac-images": sac(images, "CnnPolicy", SMALL_CNN, estimator="exact"),
    "sac-dicts": sac(
        dicts,
        "MultiInputPolicy",
        estimator=make_estimator("st-gumbel", temperature=ExponentialTemperature(1.0, 0.5, 50)),
    ),
    "sac-masks": sac(masks, estimator="rloo"),
    "sac-factors": sac(factors),
    "sac-masked-factors": sac(masked_factors, estimator="relax"),
    **{f"reinforce-{name}": reinforce(name) for name in ("none", "running-mean", "leave-one-out", "value", "relax")},
    "reinforce-masks": reinforce("value", masks, gae_lambda=0.9, ent_coef=0.01, normalize_advantage=True),
    "population-sac": population(
        DiscreteSAC, masks, 40, buffer_size=60, learning_starts=20, batch_size=16, gamma=[0.9, 0.99]
    ),
    "population-stopped": stopped(
        population(DiscreteSAC, factors, 40, buffer_size=60, learning_starts=20, batch_size=16), DiscreteSAC, factors
    ),
    **{
        f"population-{name}": population(Reinforce, vectors, 40, n_episodes=4, baseline=name, critic_updates=2)
        for name in ("leave-one-out", "value", "relax")
    },
    "game-lewis": game(
        lambda: LewisGame(4), lambda: Channel(4, temperature=LearnedTemperature(1.0, 0.1)), seeds=[0, 1]
    ),
    "game-single": game(lambda: LewisGame(4), lambda: Channel(4, estimator="exact", erasure=0.1), seed=3),
    "game-sequence": game(
        lambda: AttributeValueGame(2, 2),
        lambda: Channel(2, 3, variable_length=True, length_cost=0.1, permutation=0.2),
        sender="gru",
        receiver="lstm",
        seeds=[0, 1],
    ),
    "game-discrimination": game(
        lambda: DiscriminationGame(2, 3), lambda: Channel(3, 2, estimator="rloo", num_samples=2), seeds=[0, 1]
    ),
    "game-community": game(lambda: PopulationGame(LewisGame(3), 2), lambda: Channel(3), seeds=[0, 1]),
    "game-questions": game(lambda: QuestionGame(2, 2), lambda: Channel(2, 2), sender="gru", seeds=[0, 1]),
    "game-relax": game(lambda: LewisGame(4), lambda: Channel(4, estimator="relax"), seeds=[0, 1]),
    "dial": team(),
    "dial-rial": team(communication="rial"),
    "dial-silent": team(communication="none", layers=2),
    "replay": replay(vectors),
    "replay-masks": replay(masks, n_steps=3),
    "run-gumbel-sac": run("gumbel-sac", *OFF_POLICY, "--n-envs", "2", "--steps", "40", further=80, of_models=of_model),
    "run-reinforce": run("reinforce-relax", *ON_POLICY, "--steps", "40", further=80, of_models=of_model),
    "run-ppo": run(
        "ppo",
        *("--env", "CartPole-v1", "--normalize", "--n-envs", "2", "--n-steps", "16", "--batch-size", "16"),
        *("--n-epochs", "2", "--steps", "64"),
        further=128,
        of_models=of_model,
    ),
    "run-lockstep": run(
        "gumbel-sac",
        *(*OFF_POLICY, "--seeds", "2", "--processes", "1", "--steps", "40"),
        further=80,
        of_models=of_members,
    ),
    "run-lockstep-reinforce": run(
        "reinforce-rloo",
        *(*ON_POLICY, "--seeds", "2", "--processes", "1", "--steps", "40"),
        further=80,
        of_models=of_members,
    ),
    "run-signalling": run(
        "signalling",
        *("--meanings", "4", "--vocabulary", "4", "--batch-size", "8", "--hidden", "6", "--seeds", "2"),
        *("--steps", "48"),
        further=96,
        of_models=of_games,
    ),
    "run-dial": run(
        "dial",
        *("--batch-size", "4", "--hidden", "6", "--seeds", "2", "--steps", "24"),
        further=48,
        of_models=of_teams,
    ),
    "search": interrupted(
        "gumbel-sac",
        *(*OFF_POLICY, "--steps", "80", "--eval-episodes", "2", "--processes", "1", "--rungs", "2"),
        *("--grid", "learning_rate=1e-3,1e-2", "--grid", "n_steps=1,3"),
    ),
}
"""What users may have files of."""


def file_of(name: str) -> Path:
    return FOLDER / f"{name}{KINDS[name].suffix}"


def going_on(name: str, scratch: Path) -> Figures:
    """Goes on with a copy of a file.

    Args:
        name: A key of :data:`KINDS`.
        scratch: A folder for the copy.
    """
    source = file_of(name)
    copy = scratch / source.name
    scratch.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, copy)
    else:
        shutil.copy(source, copy)
    return KINDS[name].go_on(copy)


def recorded() -> dict[str, Figures]:
    """What the code that wrote the files made of them."""
    figures: dict[str, dict[str, str]] = json.loads(FIGURES.read_text())
    return {kind: {name: float.fromhex(value) for name, value in each.items()} for kind, each in figures.items()}


def main(mode: str, names: Sequence[str], scratch: Path) -> int:
    torch.set_num_threads(1)
    if mode in ("write", "renew"):
        if mode == "write":
            names = tuple(KINDS)
            FOLDER.mkdir(exist_ok=True)
            for name in names:
                KINDS[name].make(file_of(name))
        figures = {} if mode == "write" else json.loads(FIGURES.read_text())
        figures |= {name: {key: value.hex() for key, value in going_on(name, scratch).items()} for name in names}
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        return 0
    different = 0
    for name, expected in recorded().items():
        found = going_on(name, scratch)
        same = sum(found.get(key) == value for key, value in expected.items())
        different += same < len(expected)
        print(f"{name}: {'equal' if same == len(expected) else 'DIFFERENT'}, {same} of {len(expected)} figures")
    return int(different > 0)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        sys.exit(main(sys.argv[1], sys.argv[2:], Path(folder)))
