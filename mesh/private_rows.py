"""Private TOML files of rows, which several processes read and change.

A file is read again whenever it has changed. It is changed under a lock and replaced whole.
"""

import contextlib
import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, TypeVar

from airdraft.mesh.errors import KeysError
from airdraft.mesh.json_form import from_object
from airdraft.mesh.keys import as_toml, read_toml, write_private

_HEADER: Final = "# Changed by `airdraft`, and read again whenever it has changed.\n"
MAX_ROWS: Final = 10_000
_LOCK_POLL_S: Final = 0.02

R = TypeVar("R")
_Stamp = tuple[int, ...] | None


@dataclass(slots=True)
class RowFile(Generic[R]):
    """One file.

    table: the name of its tables. row: the dataclass of a table, of plain values. unique: texts
    that no two rows may share unless they are empty; the first is the key of a row. refused_mode:
    permissions that other users may not have. check: raises KeysError for an invalid row.
    """

    path: Path
    table: str
    row: type[R]
    unique: tuple[str, ...]
    refused_mode: int
    check: Callable[[R], None] = lambda _row: None
    _cached: tuple[_Stamp, Mapping[str, R]] | None = field(default=None, init=False)

    def rows(self) -> Mapping[str, R]:
        """The rows by key: the same object while the file stays the same.

        Raises KeysError for an invalid file, which is read again at the next call.
        """
        stamp = self._stamp()
        if self._cached is None or self._cached[0] != stamp:
            self._cached = None
            self._cached = stamp, {} if stamp is None else self._parsed()
        return self._cached[1]

    def write(self, rows: Iterable[R]) -> None:
        """Replace the file, within locked(). Raises KeysError."""
        found = list(rows)
        if len(found) > MAX_ROWS:
            raise KeysError(f"{self.path} has {MAX_ROWS} rows, the maximum: remove one")
        parts = [f"\n[[{self.table}]]\n{as_toml(row)}" for row in found]
        write_private(self.path, _HEADER + "".join(parts))
        # Two changes within one clock tick may leave the same stamp.
        self._cached = None

    def _stamp(self) -> _Stamp:
        """A stamp that differs between contents of the file; None if there is no file."""
        try:
            info = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise KeysError(f"{self.path}: {error.strerror}") from error
        if info.st_mode & self.refused_mode:
            raise KeysError(
                f"other users can read or change {self.path} (mode {info.st_mode & 0o777:o}): "
                f"run chmod 600 on it"
            )
        return info.st_ino, info.st_mtime_ns, info.st_size, info.st_mode

    def _parsed(self) -> Mapping[str, R]:
        try:
            content = read_toml(self.path)
        except FileNotFoundError:
            return {}
        found = content.get(self.table, [])
        if content.keys() - {self.table} or not isinstance(found, list) or len(found) > MAX_ROWS:
            reason = f"tables [[{self.table}]] are accepted, {MAX_ROWS} at most"
            raise KeysError(f"{self.path}: {reason}")
        try:
            rows = [
                from_object(self.row, item, f"{self.table}[{place}]")
                for place, item in enumerate(found)
            ]
            for row in rows:
                self.check(row)
        except (ValueError, KeysError) as error:
            raise KeysError(f"{self.path}: {error}") from None
        for name in self.unique:
            counts = Counter(getattr(row, name) for row in rows)
            if twice := [text for text, count in counts.items() if text and count > 1]:
                raise KeysError(f"{self.path}: the {name} {twice[0]} occurs twice")
        return {getattr(row, self.unique[0]): row for row in rows}


@contextlib.contextmanager
def locked(path: Path, limit_s: float = 5.0) -> Iterator[None]:
    """Hold a lock file, which keeps other processes from changing the files that it is for.

    Raises KeysError if another process does not let go of it within limit_s, which is far more than
    a change of a file takes.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise KeysError(f"{path} cannot be written: {error.strerror}") from error
    try:
        deadline = time.monotonic() + limit_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise KeysError(f"{path} is held by another process") from None
                time.sleep(_LOCK_POLL_S)
            except OSError as error:
                raise KeysError(f"{path} cannot be locked: {error.strerror}") from error
        yield
    finally:
        os.close(descriptor)
