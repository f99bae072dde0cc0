"""The tuned settings of all REINFORCE agents, so that they differ in the baseline alone."""

from __future__ import annotations

from gsrl.runs.cards import tune

_TUNED = {
    "CartPole-v1": {"learning_rate": 1e-2},
    "Acrobot-v1": {"learning_rate": 1e-2, "n_episodes": 16, "ent_coef": 0.01},
    "LunarLander-v3": {"learning_rate": 1e-2, "n_episodes": 4, "ent_coef": 0.01},
}

# The paper's count of CartPole's episodes, for RELAX, is, by the code that was published with it, one of updates, each
# from one episode of every environment, until the mean return of the latest 100 episodes is 195.
for _name in ("reinforce", "reinforce-baseline", "reinforce-rloo", "reinforce-relax"):
    tune(_name, _TUNED)
