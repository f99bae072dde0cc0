"""SAC's settings: ``hyperparams/sac.yml`` of RL Baselines3 Zoo."""

from __future__ import annotations

from gsrl.runs.cards import tune

tune("sac", {"Pendulum-v1": {"steps": 20_000, "learning_rate": 1e-3}})
