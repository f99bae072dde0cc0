"""Teams: agents in worlds of PettingZoo's Parallel interface, as arrays."""

from gsrl.multi_agent.vec_env import Joint, ParallelVecEnv, TeamSpaces, Worlds

__all__ = ["Joint", "ParallelVecEnv", "TeamSpaces", "Worlds"]
