"""What people and programs read of one result: a Markdown and a JSON file beside each other."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_both(folder: Path, name: str, markdown: str, content: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write `name.md` and `name.json` into the folder, which is made. Raises OSError."""
    paths = folder / f"{name}.md", folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    paths[0].write_text(markdown, encoding="utf-8")
    paths[1].write_text(f"{text}\n", encoding="utf-8")
    return paths
