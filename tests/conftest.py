"""What every test runs under: one thread a process, no display, the same Hypothesis examples each time."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

pytest.register_assert_rewrite("tests.common")

# Small networks are slower on two threads than on one, and the tests already run in parallel processes.
torch.set_num_threads(1)

# For the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

settings.register_profile("deterministic", deadline=None, derandomize=True)
settings.load_profile("deterministic")
