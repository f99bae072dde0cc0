"""Environments of the checkout; importing this package registers them with Gymnasium, under ids ``gsrl/...``.

- :mod:`envs.probes`: so small that every value is known, to find faults;
- :mod:`envs.matching`: many factors, many bits or very many choices, with known best returns;
- :mod:`envs.grid`: a maze with illegal actions, masked or not;
- :mod:`envs.discretized`: continuous control with discrete actions;
- :mod:`envs.deep_sea`: a reward that only lasting exploration finds;
- :mod:`envs.minigrid`: MiniGrid's tasks, seen as symbols;
- :mod:`envs.scaled`: known environments with rewards in another unit.

Beside them stand MinAtar's games under their own ids (:mod:`envs.minatar`), and environments of several agents for
PettingZoo, which has no registry, and which has to be installed to import them:

- :mod:`envs.gym_teams`: teams of Gymnasium's, such as level-based foraging;
- :mod:`envs.mpe`: particles that move and speak, many worlds at once;
- :mod:`envs.signalling`: senders and receivers, with a discrete channel between them;
- :mod:`envs.switch_riddle`: prisoners who can leave each other one bit a day.
"""

from envs import deep_sea, discretized, grid, matching, minatar, minigrid, probes, scaled

__all__ = ["deep_sea", "discretized", "grid", "matching", "minatar", "minigrid", "probes", "scaled"]
