"""Files that are written whole or not at all; the one before stays until then."""

import contextlib
import os
import secrets
from pathlib import Path


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put a file in the place of a path; a link is replaced, not followed.

    Raises OSError, on a full disk, say, and then nothing of it is left.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        # What ends it is told, not that a directory has become read-only meanwhile.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
