"""A partial download that the next pull continues: its bytes so far and their source."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO


class Begun:
    """A partial download. Callers must hold the lock of its folder.

    path: The file with the bytes so far. A JSON file beside it names their source.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._note = path.with_name(path.name + ".json")

    @property
    def num_bytes(self) -> int:
        """The size of the partial file, from whichever source it comes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def kept(self, source: str) -> tuple[int, str]:
        """Return how many bytes are valid and from this source, and the tag noted with them."""
        try:
            note = json.loads(self._note.read_bytes())
            kept, tag = note["kept"], note["tag"]
            is_good = note["source"] == source and isinstance(kept, int) and isinstance(tag, str)
        except (OSError, ValueError, TypeError, KeyError):
            return 0, ""
        if not is_good:
            return 0, ""
        num_bytes = self.num_bytes
        # -1 means all bytes that were written.
        return (num_bytes if kept < 0 else min(kept, num_bytes)), tag

    def open(self, source: str, kept: int, tag: str = "", *, all_counts: bool = False) -> IO[bytes]:
        """Open the file to append after its first `kept` bytes, which come from this source.

        all_counts: All bytes that are written count as valid, and not only those that are noted.
        """
        file = self.path.open("ab")
        file.truncate(kept)
        file.seek(kept)
        self.note(source, -1 if all_counts else kept, tag)
        return file

    def note(self, source: str, kept: int, tag: str = "") -> None:
        """Note the source and the tag. kept: The number of valid bytes; -1 for all bytes."""
        made = self._note.with_name(self._note.name + ".new")
        made.write_text(json.dumps({"source": source, "kept": kept, "tag": tag}))
        os.replace(made, self._note)

    def discard(self) -> None:
        for path in (self._note, self.path):
            path.unlink(missing_ok=True)
