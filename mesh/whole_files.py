"""Writes files completely or not at all; the old file stays until then."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable
from pathlib import Path


def write_whole(path: Path, data: bytes, mode: int = 0o600, *, masked: bool = True) -> None:
    """Replace the file at a path durably, so that it survives a power cut.

    A symbolic link is replaced, not followed. masked: the umask reduces the mode, as for any new
    file. Raises OSError. After an error, such as a full disk, nothing of the new file is left; but
    if only the sync of the directory fails, the new file is there.
    """
    write_pieces(path, (data,), mode, masked=masked)


def write_pieces(
    path: Path, pieces: Iterable[bytes | memoryview], mode: int = 0o600, *, masked: bool = True
) -> None:
    """Do what write_whole() does with a file that comes in pieces."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if not masked:
                os.fchmod(descriptor, mode)
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        # Raise the original error even if removing the file fails, say in a read-only directory.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and removals in a directory survive a power cut. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems do not support this call for directories.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
