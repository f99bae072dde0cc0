"""What runs agents from a command line: cards, which say what there is to run. It needs the extra ``cli``."""
