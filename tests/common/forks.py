"""Scripts that run in processes of their own, all of which begin with the same imports done."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.common.wheels import ROOT

FORKS = """
import os, runpy, sys, traceback
import {module}
for line in sys.stdin:
    script, folder = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
        code = 1
        try:
            runpy.run_path(script, run_name="__main__")
            code = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forks:
    """Runs each script in a fork of one process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, script: Path, folder: Path) -> str:
        """Run a script in a folder, and return what it printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(script, folder, sep="\t", file=self._process.stdin, flush=True)
        assert self._process.stdout.readline() == "0\n", (folder / "stderr").read_text()
        return (folder / "stdout").read_text()


@contextmanager
def forks(module: str) -> Iterator[Forks]:
    """Forks of a process that has imported a module of the checkout."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", FORKS.format(module=module)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield Forks(process)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=60) == 0
