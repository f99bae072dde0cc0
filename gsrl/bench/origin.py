"""Where a measurement comes from: command, versions, processor."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from gsrl.runs.config import describe_session

__all__ = ["made_by", "origin", "processor"]


def origin(command: str) -> dict[str, Any]:
    """What a file of results begins with; ``load`` is that of the last minute: 1 is the measurement itself."""
    load = round(os.getloadavg()[0], 2)
    return {**describe_session([]), "command": command, "processor": processor(), "load": load}


def made_by(command: str) -> str:
    """The same as a sentence, for a page."""
    made = origin(command)
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return f"Made by `{command}` with {versions}; one thread of {made['processor']} a run."


def processor() -> str:
    """The processor's name, where Linux tells it; else its kind, or the machine's."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
