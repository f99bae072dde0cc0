"""Tutorials: each is a page of Markdown whose blocks are run, and a notebook of the same blocks with what they made."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "docs" / "tutorials"
MADE = ROOT / "build" / "tutorials"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
PICTURES = {".gif": "image/gif", ".png": "image/png"}
LONGEST = 900
"""Seconds that a tutorial may take."""


@dataclass
class Made:
    """What a block printed and drew."""

    text: str = ""
    pictures: list[str] = field(default_factory=list)
    """Names of files."""


def sources() -> list[Path]:
    """The pages that are tutorials."""
    return sorted(SOURCES.glob("[0-9]*.md"))


def run_all(processes: int = 2) -> None:
    """Run all tutorials whose text, or the library, has changed since they were run.

    Raises:
        RuntimeError: A block of one failed.
    """
    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(_run, sources()))


def _run(page: Path) -> None:
    folder = MADE / page.stem
    done, key = folder / "key", _key(page)
    if done.exists() and done.read_text(encoding="utf-8") == key:
        return
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "SDL_VIDEODRIVER": "dummy"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    command = [sys.executable, "-m", "website.tutorials", str(page), str(folder)]
    result = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST, check=False
    )
    if result.returncode != 0:
        raise RuntimeError(f"{page.name} must run, but: {result.stderr[-2000:]}")
    done.write_text(key, encoding="utf-8")


def _key(page: Path) -> str:
    files = [page, Path(__file__), *sorted((ROOT / "gsrl").rglob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def execute(page: Path, folder: Path) -> list[Made]:
    """Run the blocks of a page in one process, in their order, in a folder of their own.

    What a block calls ``figure``, and pictures that it writes into the folder, are what it drew.

    Args:
        page: The tutorial.
        folder: For ``made.json`` and the pictures.
    """
    work = folder / "work"
    for old in [path for path in (folder.rglob("*") if folder.exists() else ()) if path.is_file()]:
        old.unlink()
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    sys.path.insert(0, str(work))
    text = page.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__main__"}
    made: list[Made] = []
    for block in BLOCK.finditer(text):
        before = {path.name for path in work.iterdir()}
        printed = io.StringIO()
        if block[1] == "python":
            code = compile("\n" * text.count("\n", 0, block.start(2)) + block[2], str(page), "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, names)
        else:
            done = subprocess.run(["bash", "-ec", block[2]], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"{block[2]}\n{done.stdout}\n{done.stderr}")
            printed.write(done.stdout)
        drawn = _drawn(names.pop("figure", None), folder, page.stem, len(made))
        pictures = [*drawn, *_files(folder, work, before, page.stem)]
        made.append(Made(_tidy(printed.getvalue()), pictures))
    (folder / "made.json").write_text(json.dumps([asdict(each) for each in made]), encoding="utf-8")
    return made


def _tidy(text: str) -> str:
    """What a terminal would still show: no escapes, no lines that were written over, few of many."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    lines = [line.rpartition("\r")[2].rstrip() for line in plain.strip("\n").split("\n")]
    return "\n".join(lines if len(lines) <= 40 else [*lines[:10], "...", *lines[-20:]])


def _drawn(figure: Any, folder: Path, stem: str, number: int) -> Iterator[str]:
    if figure is not None:
        figure.savefig(folder / f"{stem}-{number}.png", dpi=100, bbox_inches="tight")
        yield f"{stem}-{number}.png"


def _files(folder: Path, work: Path, before: set[str], stem: str) -> Iterator[str]:
    for path in sorted(work.iterdir()):
        if path.name not in before and path.suffix in PICTURES:
            (folder / f"{stem}-{path.name}").write_bytes(path.read_bytes())
            yield f"{stem}-{path.name}"


def made_of(page: Path) -> list[Made]:
    """What the blocks of a tutorial made when it was run."""
    return [Made(**each) for each in json.loads((MADE / page.stem / "made.json").read_text(encoding="utf-8"))]


def with_output(text: str, made: list[Made]) -> str:
    """A page with what its blocks printed and drew below each."""
    rest = iter(made)

    def shown(block: re.Match[str]) -> str:
        each = next(rest)
        printed = f"\n```text\n{each.text}\n```\n" if each.text else ""
        return block.group() + printed + "".join(f"\n![What this drew]({name})\n" for name in each.pictures)

    return BLOCK.sub(shown, text)


def notebook(text: str, made: list[Made], folder: Path) -> dict[str, Any]:
    """The page as a notebook of Jupyter's format 4.5.

    Args:
        text: The page.
        made: What its blocks made.
        folder: Where the pictures are.
    """
    cells: list[dict[str, Any]] = []
    last = 0
    for block, each in zip(BLOCK.finditer(text), made, strict=True):
        cells += _prose(text[last : block.start()])
        code = block[2] if block[1] == "python" else f"%%bash\n{block[2]}"
        outputs: list[dict[str, Any]] = []
        if each.text:
            outputs.append({"output_type": "stream", "name": "stdout", "text": each.text + "\n"})
        for name in each.pictures:
            data = base64.b64encode((folder / name).read_bytes()).decode()
            picture = {PICTURES[Path(name).suffix]: data, "text/plain": name}
            outputs.append({"output_type": "display_data", "data": picture, "metadata": {}})
        cells.append(
            {"cell_type": "code", "execution_count": None, "metadata": {}, "source": code.strip(), "outputs": outputs}
        )
        last = block.end()
    cells += _prose(text[last:])
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    python = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": python}, "cells": cells}


def _prose(text: str) -> list[dict[str, Any]]:
    return [{"cell_type": "markdown", "metadata": {}, "source": text.strip()}] if text.strip() else []


if __name__ == "__main__":
    try:
        execute(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception:
        traceback.print_exc()
        sys.exit(1)
