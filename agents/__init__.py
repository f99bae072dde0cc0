"""The zoo: settings of the library's agents, tuned by environment, and the environments of :mod:`envs`.

Importing it, as ``run_agent.py`` does, gives them to the command line. A module here tunes one card or several of
:mod:`gsrl.runs.cards`, or registers a card of its own; add it to the list below.
"""

import envs  # noqa: F401  # registers the environments of the checkout
from agents import a2c, discrete_sac, dqn, ppo, reinforce, sac, teams  # noqa: F401

__all__: list[str] = []
