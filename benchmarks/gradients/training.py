"""Bias and variance of estimators on the live actor, batch and critic of a soft actor-critic, while it learns.

Trains ``gumbel-sac`` with its settings for the environment, with :class:`gsrl.callbacks.GradientDiagnosticsCallback`
looking on ten times, and writes what it logged to ``results/training-<env>-<critic>.csv``. Seed 0; the callback does
not disturb the training.

    python benchmarks/gradients/training.py --env CartPole-v1
    python benchmarks/gradients/training.py --env gsrl/FactoredMatch-v0 --critic network --steps 6000
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from stable_baselines3.common.logger import configure

from agents.environments import make_environments
from agents.training import set_threads
from gsrl.callbacks import GradientDiagnosticsCallback
from gsrl.estimators import make_estimator
from gsrl.runs.cards import defaults, get_card

RESULTS = Path(__file__).parent / "results"
LOOKS = 10


def main(argv: Sequence[str] | None = None) -> None:
    """Trains and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--critic", default="auto")
    parser.add_argument("--steps", type=int, help="those of the environment's settings if left out")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    set_threads(1)
    steps, n_envs, settings = defaults("gumbel-sac", arguments.env)
    steps = arguments.steps or steps
    settings = dataclasses.replace(settings, critic=arguments.critic)
    model = get_card("gumbel-sac").make(make_environments(arguments.env, n_envs, 0), settings, seed=0, device="cpu")
    estimators = {
        **{f"st-gumbel {tau:g}": make_estimator("st-gumbel", temperature=tau) for tau in (0.5, 1.0, 2.0)},
        **{name: make_estimator(name) for name in ("straight-through", "reinmax", "local-expectation", "rloo")},
        "reinforce": make_estimator("reinforce"),
    }
    callback = GradientDiagnosticsCallback(steps // LOOKS, estimators, num_samples=1000)
    with tempfile.TemporaryDirectory() as folder:
        model.set_logger(configure(folder, ["csv"]))
        model.learn(steps, callback, log_interval=None)  # type: ignore[arg-type]
        model.logger.close()
        rows = pd.read_csv(Path(folder) / "progress.csv")
    kept = rows[["time/total_timesteps", *(name for name in rows if name.startswith("gradients/"))]]
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = f"training-{arguments.env.replace('/', '-')}-{model.policy.critic.form}.csv"
    kept.rename(columns={"time/total_timesteps": "steps"}).to_csv(arguments.out / name, index=False)
    biases = kept[[name for name in kept if name.endswith("/relative_bias")]]
    print(biases.rename(columns=lambda name: name.split("/")[1]).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
