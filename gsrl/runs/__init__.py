"""What the command line is made of: cards of agents, runs and searches in folders. Needs the extra ``cli``."""

from gsrl.runs import library  # noqa: F401  # registers the cards that come with the library
