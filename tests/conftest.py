"""What every test runs under: one thread a process, no display, the same Hypothesis examples each time.

The processes that agents and environments are shared out to are forks of one that has imported everything.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from gsrl.runs import program
from gsrl.runs.cards import load_zoo

pytest.register_assert_rewrite("tests.common")

# Small networks are slower on two threads than on one, and the tests already run in parallel processes.
torch.set_num_threads(1)

# For the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

# As run_agent.py does.
load_zoo("agents")
program.name, program.root = "run_agent.py", Path(__file__).parents[1]

settings.register_profile("deterministic", deadline=None, derandomize=True)
settings.load_profile("deterministic")


@pytest.fixture(scope="session", autouse=True)
def _imports_are_made_once() -> Iterator[None]:
    """A process that is spawned imports torch, agents and environments again, for seconds.

    What differs for it is nothing that a test could see: a fork server is spawned too, and holds nothing of the test.
    Commands that tests run in processes of their own do spawn.
    """
    get_context = multiprocessing.get_context
    multiprocessing.set_forkserver_preload(["gsrl.runs.cli", "gsrl.runs.pool", "agents"])

    def of_one_server(method: str | None = None) -> Any:
        if method not in ("spawn", "forkserver"):
            return get_context(method)
        with contextlib.chdir(Path(__file__).parents[1]):  # where it finds what it imports
            forkserver.ensure_running()
        return get_context("forkserver")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", of_one_server)
        yield
