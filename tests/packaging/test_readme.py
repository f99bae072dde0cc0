"""Every Python block of the README runs on its own, as a reader would paste it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = list(re.finditer(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL))


def lines_before(block: re.Match[str]) -> int:
    """How many lines of the README stand before the block's code."""
    return README.count("\n", 0, block.start(1))


def test_readme_has_python_blocks() -> None:
    assert BLOCKS, "README.md has no ```python block"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line-{lines_before(block) + 1}")
def test_readme_block_runs(block: re.Match[str], tmp_path: Path) -> None:
    script = tmp_path / "readme.py"
    # Padded, so that a traceback's line numbers are the README's.
    script.write_text("\n" * lines_before(block) + block.group(1), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
