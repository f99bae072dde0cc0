"""What the package says of itself where it is built: the README, with links that hold on any page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class ReadmeHook(MetadataHookInterface):
    """Gives the package its README, whose links into the repository are addresses."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Put it into the metadata."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        blob = metadata["urls"]["Source"] + "/blob/main/"
        raw = metadata["urls"]["Source"] + "/raw/main/"
        text = re.sub(r"(!\[[^\]]*\]\()(?![a-z]+:|#)", lambda found: found[1] + raw, text)
        text = re.sub(r"((?<!!)\[[^\]]*\]\()(?![a-z]+:|#)", lambda found: found[1] + blob, text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
