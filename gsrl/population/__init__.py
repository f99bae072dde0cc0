"""Many agents in lock-step: as many seeds, or as many settings, for the price of few."""

from gsrl.population.base import VECTORS, Episode, Population, PopulationCallback
from gsrl.population.off_policy import OffPolicyPopulation
from gsrl.population.on_policy import OnPolicyPopulation

__all__ = ["VECTORS", "Episode", "OffPolicyPopulation", "OnPolicyPopulation", "Population", "PopulationCallback"]
