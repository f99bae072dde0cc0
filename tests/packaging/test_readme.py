"""Every Python block of the README and of the guides runs on its own, as a reader would paste it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDES = ("estimators", "communication", "discrete-latents", "multi-agent", "tasks")
PAGES = ("README.md", *(f"docs/{name}.md" for name in GUIDES))


@dataclass(frozen=True)
class Block:
    """A Python block of a page."""

    page: str
    code: str
    lines_before: int


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(page, block.group(1), text.count("\n", 0, block.start(1))) for block in found]


BLOCKS = [block for page in PAGES for block in blocks(page)]


def test_every_page_has_python_blocks() -> None:
    assert {block.page for block in BLOCKS} == set(PAGES)


FORKS = """
import os, runpy, sys, traceback
import gsrl
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
"""Runs each script that it is told of in a process of its own, all of which begin with ``import gsrl`` done."""


@pytest.fixture(scope="module")
def forks() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", FORKS],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}-line-{block.lines_before + 1}")
def test_block_runs(block: Block, forks: subprocess.Popen[str], tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    # Padded, so that a traceback's line numbers are the page's.
    script.write_text("\n" * block.lines_before + block.code, encoding="utf-8")
    assert forks.stdin is not None
    assert forks.stdout is not None
    print(script, tmp_path, sep="\t", file=forks.stdin, flush=True)
    assert forks.stdout.readline() == "0\n", (tmp_path / "stderr").read_text()
