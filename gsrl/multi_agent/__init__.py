"""Teams: agents in worlds of PettingZoo's Parallel interface, as arrays."""

from gsrl.multi_agent.agents_vec_env import AgentsVecEnv
from gsrl.multi_agent.maddpg import MADDPG
from gsrl.multi_agent.sac import MultiAgentSAC
from gsrl.multi_agent.speech import CommWrapper, Speech, SplitActions
from gsrl.multi_agent.vec_env import Joint, ParallelVecEnv, TeamSpaces, Worlds
from gsrl.multi_agent.wrappers import ParallelWrapper, TurnBased

__all__ = [
    "MADDPG",
    "AgentsVecEnv",
    "CommWrapper",
    "Joint",
    "MultiAgentSAC",
    "ParallelVecEnv",
    "ParallelWrapper",
    "Speech",
    "SplitActions",
    "TeamSpaces",
    "TurnBased",
    "Worlds",
]
