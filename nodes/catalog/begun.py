"""A download that the next pull goes on with: its bytes so far, and where they are from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO


class Begun:
    """path: the bytes so far; a note beside it says where they come from. Callers hold the folder's
    lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._note = path.with_name(path.name + ".json")

    @property
    def num_bytes(self) -> int:
        """How many there are, wherever they are from."""
        return self.path.stat().st_size if self.path.exists() else 0

    def kept(self, source: str) -> tuple[int, str]:
        """How many of the bytes are good and from this source, and what was noted with them."""
        try:
            note = json.loads(self._note.read_bytes())
            kept, tag = note["kept"], note["tag"]
            is_good = note["source"] == source and isinstance(kept, int) and isinstance(tag, str)
        except (OSError, ValueError, TypeError, KeyError):
            return 0, ""
        if not is_good:
            return 0, ""
        num_bytes = self.num_bytes
        # -1: all that was written.
        return (num_bytes if kept < 0 else min(kept, num_bytes)), tag

    def open(self, source: str, kept: int, tag: str = "", *, all_counts: bool = False) -> IO[bytes]:
        """The file behind what is kept of it, for more from this source. all_counts: whatever is
        written is good, and not only what is noted."""
        file = self.path.open("ab")
        file.truncate(kept)
        file.seek(kept)
        self.note(source, -1 if all_counts else kept, tag)
        return file

    def note(self, source: str, kept: int, tag: str = "") -> None:
        """kept: bytes that are good; -1 for all that are written."""
        made = self._note.with_name(self._note.name + ".new")
        made.write_text(json.dumps({"source": source, "kept": kept, "tag": tag}))
        os.replace(made, self._note)

    def discard(self) -> None:
        for path in (self._note, self.path):
            path.unlink(missing_ok=True)
