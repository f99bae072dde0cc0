"""Wheels of the checkout, and interpreters of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_python(code: str, *, cwd: Path, **environment: str) -> str:
    """Run `code` in a fresh interpreter and return what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def build(folder: Path) -> Path:
    """The wheel of a copy of the checkout, built by the backend itself: nothing is fetched, nothing is left behind."""

    def ignored(at: str, names: list[str]) -> set[str]:
        at_the_top = ["runs"] if Path(at) == ROOT else []
        return shutil.ignore_patterns(".*", "build", "dist", "__pycache__", *at_the_top)(at, names)

    checkout = shutil.copytree(ROOT, folder / "checkout", ignore=ignored)
    built = run_python(f"import hatchling.build; print(hatchling.build.build_wheel({str(folder)!r}))", cwd=checkout)
    return folder / built.splitlines()[-1]
