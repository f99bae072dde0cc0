"""Do a speaker and a listener find a language, and what is it worth?

Each seed is a team of :class:`gsrl.multi_agent.MultiAgentSAC` with its defaults, and a bonus for messages that tell
something. Its final parameters play 1,000 fixed episodes, with the most probable choices: returns, those with what is
heard exchanged among episodes, what the message tells of the goal, in bits, and the gap to a scripted team in the same
episodes, which names the goal, and goes where it is told.

    python benchmarks/studies/teams/speaker_listener.py [--seeds 10] [--steps 130000] [--bonus 1.0] [--out FILE]
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.studies.common import record, start
from envs.mpe import DAMPING, DT, PUSHES, SpeakerListenerEnv
from gsrl.comms.metrics import mutual_information
from gsrl.multi_agent import MultiAgentSAC, ParallelVecEnv

EPISODES = 1000

Ints = NDArray[np.int64]


def scripted(observations: NDArray[np.float32]) -> Ints:
    """What a team does that has agreed on words: ``[B, 2, 1]``.

    The listener takes the push by which it is nearest to the goal in two steps; to the middle of the landmarks, as long
    as it has heard nothing.
    """
    words = observations[:, 0, :3].argmax(-1)
    listener = observations[:, 1]
    velocities, landmarks, heard = listener[:, :2], listener[:, 2:8].reshape(-1, 3, 2), listener[:, 8:11]
    told = landmarks[np.arange(len(words)), heard.argmax(-1)]
    way = np.where(heard.any(-1, keepdims=True), told, landmarks.mean(1)) - DT * velocities
    after = way[:, None] - DT * ((1 - DAMPING) * velocities[:, None] + DT * PUSHES)  # [B, moves, 2]
    return np.stack([words, np.square(after).sum(-1).argmin(-1)], 1)[..., None]


def script_returns(seed: int) -> NDArray[np.float64]:
    """Of the scripted team in the episodes of an evaluation with this seed, ``[EPISODES]``."""
    worlds, parts = ParallelVecEnv(SpeakerListenerEnv, 128, (seed,)), []
    for batch in range(-(-EPISODES // 128)):
        worlds.seed("evaluation", batch)
        joint, returns = worlds.reset(), np.zeros(128)
        for _ in range(25):
            _, rewards, _, _ = worlds.step(scripted(joint.observations))
            returns += rewards[:, 0]
            joint = worlds.joint
        parts.append(returns)
    return np.concatenate(parts)[:EPISODES]


def bits(team: MultiAgentSAC, index: int) -> float:
    """What a speaker's most probable word tells of the goal."""
    worlds = ParallelVecEnv(SpeakerListenerEnv, EPISODES, (0,))
    worlds.seed("evaluation")
    observations, masks, _ = worlds.reset()
    words = team.predict(observations, masks, index)[:, 0]
    return mutual_information(words, observations[:, 0, :3].argmax(-1)[:, None])


def main(*, seeds: int = 10, steps: int = 130_000, bonus: float = 1.0, out: Path | None = None) -> None:
    """Trains, measures, prints and, on request, writes the result."""
    team = MultiAgentSAC(SpeakerListenerEnv, range(seeds), signalling_bonus=bonus)
    team.learn(steps, log_interval=10**9)
    returns, script = team.evaluate(EPISODES)[..., 0], script_returns(0)
    rows = [
        {
            "seed": seed,
            "return": round(returns[seed].mean(), 2),
            "gap_to_script": round((script - returns[seed]).mean(), 2),
            "standard_error_of_gap": round((script - returns[seed]).std(ddof=1) / EPISODES**0.5, 2),
            "scrambled": round(team.play(seed, EPISODES, 0, scramble=True)[:, 0].mean(), 2),
            "bits": round(bits(team, seed), 3),
        }
        for seed in range(seeds)
    ]
    print(pd.DataFrame(rows).to_string(index=False))
    print(f"script: {script.mean():.2f}")
    record(out, {"steps": team.steps, "bonus": bonus, "script": round(script.mean(), 2), "rows": rows})


if __name__ == "__main__":
    start(main, __doc__)
