"""Ids that experiment trackers gave a run, kept in its folder, so that a resumed run goes on under them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from ..system.atomic_file import atomic_write

FILE = "trackers.json"
"""Name of the file in the folder of a run."""


class TrackedRuns:
    """Ids of a run by the name of the tracker.

    Args:
        out: folder of the run.

    Attributes:
        environment: variables of the process, which configure trackers.
    """

    def __init__(self, out: Path) -> None:
        self.environment: Mapping[str, str] = os.environ
        self._path = out / FILE

    def get(self, tracker: str) -> str | None:
        """Return the id that a tracker gave the run; None of a new run, or where the file is damaged."""
        run_id = self._read().get(tracker)
        return run_id if isinstance(run_id, str) else None

    def set(self, tracker: str, run_id: str) -> None:
        """Keep an id.

        Raises:
            TalkingheadError: the file cannot be written.
        """
        values = self._read()
        if values.get(tracker) != run_id:
            with atomic_write(self._path) as temp_path:
                temp_path.write_text(json.dumps(values | {tracker: run_id}) + "\n")

    def _read(self) -> dict[str, object]:
        try:
            values = json.loads(self._path.read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return values if isinstance(values, dict) else {}
