"""Bias and variance of estimators on the live actor, batch and critic of a soft actor-critic, while it learns.

Trains ``gumbel-sac`` with its settings for the environment, with :class:`gsrl.callbacks.GradientDiagnosticsCallback`
looking on ten times, and writes what it logged to ``training-<env>-<critic>.csv``. Seed 0; the callback does
not disturb the training.

    python benchmarks/studies/gradients/training.py --env CartPole-v1
    python benchmarks/studies/gradients/training.py --env gsrl/FactoredMatch-v0 --critic network --steps 6000
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pandas as pd
from stable_baselines3.common.logger import configure

from benchmarks.studies.common import RESULTS, start
from gsrl.callbacks import GradientDiagnosticsCallback
from gsrl.estimators import make_estimator
from gsrl.runs.cards import defaults, get_card
from gsrl.runs.environments import make_environments

LOOKS = 10


def main(
    *, env: str = "CartPole-v1", critic: str = "auto", steps: int | None = None, out: Path = RESULTS / "gradients"
) -> None:
    """Trains and writes; for as many steps as the environment's settings have, unless told otherwise."""
    tuned, n_envs, settings = defaults("gumbel-sac", env)
    steps = steps or tuned
    settings = dataclasses.replace(settings, critic=critic)
    model = get_card("gumbel-sac").make(make_environments(env, n_envs, 0), settings, seed=0, device="cpu")
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
    out.mkdir(parents=True, exist_ok=True)
    name = f"training-{env.replace('/', '-')}-{model.policy.critic.form}.csv"
    kept.rename(columns={"time/total_timesteps": "steps"}).to_csv(out / name, index=False)
    biases = kept[[name for name in kept if name.endswith("/relative_bias")]]
    print(biases.rename(columns=lambda name: name.split("/")[1]).round(3).to_string(index=False))


if __name__ == "__main__":
    start(main, __doc__)
