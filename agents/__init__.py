"""The zoo: cards of agents with their settings, tuned by environment, for the command line; and what runs them.

A module here holds one card or several of :mod:`gsrl.runs.cards`: what an agent is, and where it has been tuned. What
its settings have reached is on its page in ``docs/agents``. Add a card to the list below, and it can be trained,
searched and compared.
"""

from agents import a2c, dial, discrete_sac, dqn, exact_sac, gumbel_sac, ppo, reinforce, sac, signalling
from gsrl.runs.cards import register

__all__: list[str] = []

for _card in (
    *(discrete_sac.CARD, gumbel_sac.CARD, exact_sac.CARD),
    *(reinforce.CARD, reinforce.BASELINE, reinforce.RLOO, reinforce.RELAX),
    *(ppo.CARD, ppo.MASKABLE, a2c.CARD, dqn.CARD, dqn.QUANTILES, sac.CARD),
    *(signalling.CARD, dial.CARD, dial.RIAL, dial.NO_COMMUNICATION),
):
    register(_card)
