"""What the command line is called, and its commands: for its help, and for messages that say what to type.

Nothing is imported here that takes time, for help comes at once.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["COMMANDS", "overview", "typed"]

name = "gsrl"
"""Of the program that runs."""

root: Path | None = None
"""Of the checkout that the program is part of, if it is: suites are there, and what machines of a cluster need."""

found: tuple[str, ...] = ()
"""Options of this call by which agents and environments are found that are not the library's."""

COMMANDS = {
    "train": "train an agent (discrete-sac on CartPole-v1 unless told otherwise), or resume a run",
    "search": "search settings by successive halving, many agents in lock-step",
    "eval": "evaluate the model of a run",
    "watch": "watch the model of a run act, in a window or as text",
    "record": "record the models of a run side by side, as a GIF or an MP4",
    "export": "make a folder of a trained agent to hand over: model card, ONNX, TorchScript",
    "import": "make a run of such a folder",
    "plot": "draw the learning curve of a run again, or those of several side by side",
    "protocol": "print and draw the language of a run of signalling agents, or of a team",
    "render": "draw episodes of a team as a GIF, with what is said",
    "gradients": "measure gradient estimators, on a test problem or on the agent of a run",
    "bench": "run a suite of agents, environments and seeds, or go on with one",
    "report": "say what came out of it: tables, pictures, and a page to read",
    "list": "list the agents, or say where one is tuned",
}
"""What each does. The function of :mod:`gsrl.runs.cli` that does it is called ``_<command>_command``."""

_REST = """
Each command has --help; `train --agent X --env Y --help` shows the settings of that agent, tuned for that environment.
More agents come from installed packages, by entry points `gsrl.agents`, and from a module that is named by --zoo.
--path FOLDER lets modules of a folder be found, those of environments `module:Id` too. --version says which version of
gsrl this is.
"""


def typed() -> str:
    """Returns what is typed to run it, where it finds what it has found in this call."""
    return " ".join([f"python {name}" if name.endswith(".py") else name, *found])


def overview() -> str:
    """Returns the help that comes without a command: all there are."""
    width = max(map(len, COMMANDS))
    return "\n".join([f"{typed()} {command:{width}}  {what}" for command, what in COMMANDS.items()]) + f"\n{_REST}"
