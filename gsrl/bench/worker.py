"""A process that carries out one task: it trains, or goes on with, what a suite's run or population needs.

Its command line is the folder of the task, whose ``task.json`` says what to do; its output is the task's log. It ends
when its standard input does, so that it never outlives the process that started it, however that ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["LOG", "TASK", "Child", "last_line"]

TASK = "task.json"
"""File of what a task is to do."""

LOG = "task.log"
"""File of what its process wrote."""

Task = dict[str, Any]


class Child:
    """A worker, seen from outside.

    Args:
        folder: Folder of the task, which holds its ``task.json``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        here = os.pathsep.join(path for path in sys.path if path)  # where modules are found, for it too
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONPATH": here}
        with (folder / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "gsrl.bench.worker", str(folder.resolve())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # a terminal's Ctrl-C is for the runner, which passes it on once
            )

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def wait(self) -> int:
        """Waits for its exit code."""
        return self._process.wait()

    def stop(self) -> None:
        """Asks it to save what resuming needs, and to end."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()


def last_line(folder: Path) -> str:
    """The last line of a task's log."""
    lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it left no word")


def main(argv: Sequence[str]) -> int:
    """Carries out the task; returns an exit code as ``run_agent.py train`` would."""
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    from gsrl.runs import session
    from gsrl.runs.cards import load_zoo
    from gsrl.runs.config import is_finished, is_run, parse_config
    from gsrl.runs.run import ANSWERED

    folder = Path(argv[0])
    task = json.loads((folder / TASK).read_text(encoding="utf-8"))
    command = task["command"]
    try:
        for module in task["zoo"]:
            load_zoo(module)
        config = parse_config(folder / TASK, trusted=True)  # it is what the runner has written, and looked at
        if not is_run(folder):
            summary = session.start(config, folder, command)
        elif not is_finished(folder):
            summary = session.resume(folder, None, None, command)
        else:
            return 0
    except ANSWERED as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0 if summary["status"] == "finished" else 130


def _end_with_standard_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
