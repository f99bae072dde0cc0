"""What the command line is made of: cards of agents, runs and searches in folders. Needs the extra ``cli``."""
