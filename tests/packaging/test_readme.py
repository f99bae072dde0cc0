"""Every Python block of the README and of the guides runs on its own, as a reader would paste it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.common.forks import Forks, forks
from tests.common.wheels import ROOT

GUIDES = ("start", "estimators", "communication", "discrete-latents", "multi-agent", "tasks")
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


@pytest.fixture(scope="module")
def readers() -> Iterator[Forks]:
    with forks("gsrl") as readers:
        yield readers


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}-line-{block.lines_before + 1}")
def test_block_runs(block: Block, readers: Forks, tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    # Padded, so that a traceback's line numbers are the page's.
    script.write_text("\n" * block.lines_before + block.code, encoding="utf-8")
    readers.run(script, tmp_path)
