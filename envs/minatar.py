"""MinAtar's games under their own names, whether or not the package ``minatar`` (the extra of that name) is installed.

It is what ``minatar.gym.register_envs`` does, without its imports: Gymnasium loads no plugins of itself.
"""

from __future__ import annotations

import gymnasium as gym

__all__ = ["GAMES"]

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
"""The games, as MinAtar calls them."""


def _register(game: str, version: str, minimal: bool) -> None:
    gym.register(
        f"MinAtar/{game.title().replace('_', '')}-{version}",
        "minatar.gym:BaseEnv",
        kwargs={"game": game, "use_minimal_action_set": minimal},
    )


for _game in GAMES:
    _register(_game, "v0", minimal=False)
    _register(_game, "v1", minimal=True)
