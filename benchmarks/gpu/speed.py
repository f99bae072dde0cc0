"""Steps and updates a second on a GPU: of one agent and of many in lock-step, with and without CUDA graphs.

Networks of 64x64 on CartPole-v1, and ``SmallCNN`` with a shared encoder on pictures of 10 x 10 x 4 booleans, such as
MinAtar's; batches of 64, one update a step. ``steps_per_second`` is all in, and that of all members;
``updates_per_second`` is of rounds of replay and update alone. With a graph the update of all members is captured
once and launched as one; it is of this program, and not of the library. No study's helpers are used: this runs with
nothing but the library and what it needs. ``benchmarks/gpu/check.sh`` calls it after the tests.

    python benchmarks/gpu/speed.py [--dry] [--minutes 6] [--tests FILE] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from gsrl import DiscreteSAC, Population
from gsrl.algorithms.extractors import SmallCNN
from gsrl.bench.origin import origin
from gsrl.runs.config import set_threads

OUT = Path(__file__).resolve().parents[1] / "results" / "gpu"
MEMBERS = (16, 64, 256, 1024)
WARM_UPS = 20
"""Updates before the clock starts: fewer than there are before one is recorded, which a capture could not hold."""


class Pictures(gym.Env[Any, np.int64]):
    """Noise of booleans of the size of MinAtar's Breakout, whose episodes end by chance."""

    observation_space = spaces.Box(0, 1, (10, 10, 4), np.bool_)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begins an episode."""
        super().reset(seed=seed)
        self.picture = self.np_random.random((10, 10, 4)) < 0.1
        return self.picture, {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Moves the picture by a row."""
        self.picture = np.roll(self.picture, 1, axis=0)
        return self.picture, float(action), self.np_random.random() < 0.02, False, {}


NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"env": "CartPole-v1", "policy": "MlpPolicy", "policy_kwargs": {"net_arch": [64, 64]}},
    "cnn": {
        "env": Pictures,
        "policy": "CnnPolicy",
        "policy_kwargs": {
            "net_arch": [64],
            "features_extractor_class": SmallCNN,
            "share_features_extractor": True,
        },
    },
}


def one_agent(network: str, device: str) -> tuple[Callable[[int], object], Callable[[int], object]]:
    """What takes steps, and what makes updates, of an agent by itself."""
    chosen = dict(NETWORKS[network])
    env = chosen.pop("env")
    agent = DiscreteSAC(env=env if isinstance(env, str) else env(), seed=0, **chosen, **settings(device))
    agent.learn(100 + WARM_UPS)
    return lambda steps: agent.learn(steps, log_interval=0, reset_num_timesteps=False), agent.train


def settings(device: str) -> dict[str, Any]:
    """Of everything timed here."""
    return {"batch_size": 64, "buffer_size": 1000, "learning_starts": 100, "device": device}


def rounds(population: Any, count: int) -> None:
    """Replay and update, without acting."""
    for _ in range(count):
        population.update(population._normalization.normalized(population.sample()))


@contextmanager
def captured(lockstep: Any) -> Iterator[None]:
    """For as long as it lasts, the update of all members is one CUDA graph, captured at its first call."""
    plain = lockstep.update
    static: list[Any] = []
    graph = torch.cuda.CUDAGraph()

    def update(*args: Any, **how: Any) -> Any:
        leaves, structure = tree_flatten((args, how))
        if not static:
            static.extend(leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves)
            inputs, options = tree_unflatten(static, structure)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    plain(*inputs, **options)
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph):
                plain(*inputs, **options)
        for place, leaf in zip(static, leaves, strict=True):
            if isinstance(place, Tensor):
                place.copy_(leaf, non_blocking=True)
        graph.replay()
        return lockstep.metrics

    lockstep.update = update
    try:
        yield
    finally:
        del lockstep.update


def rate(work: Callable[[int], object], seconds: float, device: str) -> float:
    """How often a second, for about so long."""
    done, begin = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - begin < seconds:
        work(5)
        done += 5
        if device == "cuda":
            torch.cuda.synchronize()
    return done / (time.perf_counter() - begin)


def row(network: str, members: int | None, graphs: bool, **figures: Any) -> dict[str, Any]:
    """A line of the result; ``members`` is None for an agent by itself."""
    made = {"network": network, "members": members, "graphs": graphs, **figures}
    print(made, flush=True)
    return made


def measured(network: str, members: int, device: str, seconds: float, *, graphs: bool) -> Iterator[dict[str, Any]]:
    """Rows of a population, without graphs and with."""
    begin = time.perf_counter()
    chosen = dict(NETWORKS[network])
    env = chosen.pop("env")
    population: Any = Population(DiscreteSAC, env, range(members), **chosen, **settings(device))
    population.learn(100 + WARM_UPS)
    building = round(time.perf_counter() - begin, 1)
    learn = lambda steps: population.learn(steps, reset_num_timesteps=False)  # noqa: E731
    update = lambda count: rounds(population, count)  # noqa: E731
    for captures in (False, True) if graphs else (False,):
        figures: dict[str, Any] = {}
        try:
            if captures:
                population.lockstep._stack()  # without what has been recorded in the meantime
                population._prepare()
                with captured(population.lockstep):
                    update(1)
                    figures = {
                        "steps": members * rate(learn, seconds, device),
                        "updates": rate(update, seconds, device),
                    }
            else:
                figures = {"steps": members * rate(learn, seconds, device), "updates": rate(update, seconds, device)}
        except RuntimeError as error:
            yield row(network, members, captures, failed=str(error).splitlines()[0])
            continue
        rates = {f"{name}_per_second": round(value, 1) for name, value in figures.items()}
        yield row(network, members, captures, **rates, seconds_to_build=building)
    population.close()


def page(made: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The result in Markdown."""
    lines = [
        "# On a GPU",
        "",
        f"`{made['command']}` on {made['device']}, {made['processor']}, torch {made['versions']['torch']}.",
        f"Tests: {made['tests']}.",
        "",
        "| network | members | CUDA graph | steps a second, all members | updates a second |",
        "|---|---:|---|---:|---:|",
    ]
    for each in rows:
        members = "one agent" if each["members"] is None else each["members"]
        failed = each.get("failed")
        figures = (
            [f"failed: {failed}", ""] if failed else [f"{each[f'{x}_per_second']:,.0f}" for x in ("steps", "updates")]
        )
        lines.append(f"| {each['network']} | {members} | {'yes' if each['graphs'] else 'no'} | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="on the CPU, for a moment each: shows that it runs")
    parser.add_argument("--minutes", type=float, default=6.0, help="after which nothing more is begun")
    parser.add_argument("--tests", type=Path, help="what the tests printed, whose last line goes into the result")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of gpu.json and gpu.md")
    options = parser.parse_args()
    set_threads(1)
    device = "cpu" if options.dry else "cuda"
    seconds, sizes = (0.05, (2,)) if options.dry else (3.0, MEMBERS)
    end = time.perf_counter() + 60 * options.minutes
    rows: list[dict[str, Any]] = []
    for network in NETWORKS:
        learn, train = one_agent(network, device)
        rates = {"steps_per_second": rate(learn, seconds, device), "updates_per_second": rate(train, seconds, device)}
        rows.append(row(network, None, graphs=False, **{name: round(value, 1) for name, value in rates.items()}))
    for members in sizes:
        for network in NETWORKS:
            if time.perf_counter() > end:
                print(f"left out, for time was over: {network}, {members} members", flush=True)
                continue
            rows += measured(network, members, device, seconds, graphs=device == "cuda")
            gc.collect()
    command = "benchmarks/gpu/check.sh" + (" --dry" if options.dry else "")
    tests = (
        options.tests.read_text(encoding="utf-8").strip().splitlines()[-1].strip("= ") if options.tests else "not run"
    )
    name = "the CPU (dry)" if options.dry else torch.cuda.get_device_name()
    made = {**origin(command), "device": name, "cuda": torch.version.cuda, "tests": tests}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps({**made, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    (options.out / "gpu.md").write_text(page(made, rows), encoding="utf-8")
    print(f"written: {options.out / 'gpu.json'} and gpu.md")


if __name__ == "__main__":
    main()
