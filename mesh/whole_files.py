"""Files that are written whole or not at all; the one before stays until then."""

import contextlib
import errno
import os
import secrets
from pathlib import Path


def write_whole(path: Path, data: bytes, mode: int = 0o600, *, masked: bool = True) -> None:
    """Put a file in the place of a path, to outlast a power cut; a link is replaced, not followed.

    masked: the umask takes from the mode, as it does of any new file.

    Raises OSError. On a full disk, say, nothing of it is left then; where only the directory cannot
    be made to last, the file is there all the same.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if not masked:
                os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        # What ends it is told, not that a directory has become read-only meanwhile.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make what was renamed or removed in a directory outlast a power cut. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems have no such call for directories, and cannot do better.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
