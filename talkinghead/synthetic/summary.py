"""Summary of a data set in dataset.json."""

import json
from pathlib import Path
from typing import Any

from ..dataset.writer import DatasetWriter
from ..system.atomic_file import atomic_write


def write_summary(out: Path, settings: dict[str, Any], writer: DatasetWriter) -> None:
    """Write settings and counts of a data set to dataset.json in its folder."""
    counts = {"clips": writer.clips, "frames": writer.frames, "people": len(writer.people)}
    with atomic_write(out / "dataset.json") as temp_path:
        temp_path.write_text(json.dumps({**settings, **counts}, indent=1) + "\n")
