"""Files of saved texts, which a target finds again after it was restarted.

A file has a header, the tokens, the saved state, and the SHA-256 of all of it. It gets its name
when it is complete and on the disk, and is used only if the hash is right, so no power cut and no
damage can change a text.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from airdraft.mesh.whole_files import write_pieces
from airdraft.nodes.engine.protocol import SavedPrefix

_MAGIC: Final = b"airdraft prefix 1\n"
_SUFFIX: Final = ".prefix"
_PIECE_BYTES: Final = 1 << 20
_LENGTH_BYTES: Final = 4
_MOST_HEADER_BYTES: Final = 1 << 16
# Another process of this machine may be writing a file that has no name yet.
_ABANDONED_S: Final = 3600.0


class DamagedPrefixError(ValueError):
    """A file is not what was written."""


@dataclass(frozen=True, slots=True, eq=False)
class PrefixFile:
    """A file by its header. owner: as in its name. length, shortest: as of SavedPrefix."""

    path: Path
    owner: str
    token_ids: Sequence[int]
    length: int
    shortest: int
    pending: tuple[int, ...]
    state_bytes: int


def name_of(owner: str, token_ids: Sequence[int]) -> str:
    """Returns the name of the file of a text. owner: hexadecimal digits."""
    tokens = np.asarray(token_ids, "<i4").tobytes()
    return f"{owner}-{hashlib.blake2b(tokens, digest_size=16).hexdigest()}{_SUFFIX}"


def owner_in(path: Path) -> str:
    """Returns the owner in the name of a file."""
    return path.name.partition("-")[0]


def write_prefix(
    folder: Path,
    owner: str,
    token_ids: Sequence[int],
    saved: SavedPrefix,
    on_piece: Callable[[], None],
) -> PrefixFile:
    """Write a saved text durably. on_piece: called after each MB.

    Raises OSError; then nothing of it is left.
    """
    path = folder / name_of(owner, token_ids)
    write_pieces(path, _pieces(token_ids, saved, on_piece))
    facts = saved.length, saved.shortest, saved.pending, saved.num_bytes
    return PrefixFile(path, owner, list(token_ids), *facts)


def _pieces(
    token_ids: Sequence[int], saved: SavedPrefix, on_piece: Callable[[], None]
) -> Iterator[bytes | memoryview]:
    header = json.dumps(
        {
            "tokens": len(token_ids),
            "length": saved.length,
            "shortest": saved.shortest,
            "pending": saved.pending,
            "state_bytes": saved.num_bytes,
        }
    ).encode()
    begin = _MAGIC + len(header).to_bytes(_LENGTH_BYTES, "little") + header
    digest = hashlib.sha256()
    tokens = memoryview(np.asarray(token_ids, "<i4").tobytes())
    for piece in (memoryview(begin), tokens, *_in_pieces(saved.state)):
        digest.update(piece)
        yield piece
        on_piece()
    yield digest.digest()


def _in_pieces(state: npt.NDArray[np.uint8]) -> Iterator[memoryview]:
    for at in range(0, len(state), _PIECE_BYTES):
        yield state[at : at + _PIECE_BYTES].data


def found_prefixes(folder: Path) -> list[PrefixFile]:
    """Returns the files of a folder. What is no complete file is deleted. Raises OSError."""
    found = []
    for path in sorted(folder.iterdir()):
        try:
            if path.suffix == _SUFFIX and not path.name.startswith("."):
                with path.open("rb") as file:
                    found.append(_read_header(file, path)[0])
            elif time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()
        except DamagedPrefixError:
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            # Another process has deleted it.
            continue
    return found


def read_prefix(wanted: PrefixFile, on_piece: Callable[[], None]) -> SavedPrefix:
    """Returns what a file has. on_piece: called from time to time.

    Raises DamagedPrefixError and OSError.
    """
    digest = hashlib.sha256()
    with wanted.path.open("rb") as file:
        found, begin = _read_header(file, wanted.path)
        if (found.token_ids, found.state_bytes) != (wanted.token_ids, wanted.state_bytes):
            raise DamagedPrefixError("it is another file now")
        digest.update(begin)
        state = np.empty(found.state_bytes, np.uint8)
        for piece in _in_pieces(state):
            if file.readinto(piece) != len(piece):
                raise DamagedPrefixError("it is too short")
            digest.update(piece)
            on_piece()
        if file.read() != digest.digest():
            raise DamagedPrefixError("its hash is wrong")
    return SavedPrefix(found.length, state, found.shortest, found.pending)


def _read_header(file: BinaryIO, path: Path) -> tuple[PrefixFile, bytes]:
    """Returns what the beginning of a file says, and its bytes. Raises DamagedPrefixError."""
    begin = file.read(len(_MAGIC) + _LENGTH_BYTES)
    size = int.from_bytes(begin[len(_MAGIC) :], "little")
    if not begin.startswith(_MAGIC) or size > _MOST_HEADER_BYTES:
        raise DamagedPrefixError("it is no saved text")
    header = file.read(size)
    try:
        said: dict[str, Any] = json.loads(header)
        num_tokens, length, shortest, state_bytes = (
            int(said[key]) for key in ("tokens", "length", "shortest", "state_bytes")
        )
        pending = tuple(int(token_id) for token_id in said["pending"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedPrefixError(str(error)) from error
    rest = path.stat().st_size - len(begin) - size
    expected = 4 * num_tokens + state_bytes + hashlib.sha256().digest_size
    if min(num_tokens, length, shortest, state_bytes) < 0 or rest != expected:
        raise DamagedPrefixError("it has another size than it says")
    tokens = file.read(4 * num_tokens)
    token_ids = np.frombuffer(tokens, "<i4").tolist()
    facts = length, shortest, pending, state_bytes
    return PrefixFile(path, owner_in(path), token_ids, *facts), begin + header + tokens


def used(file: PrefixFile) -> None:
    """Note that a file was used now."""
    with contextlib.suppress(OSError):
        file.path.touch()


def make_room(root: Path, most_bytes: int, num_bytes: int) -> list[Path]:
    """Delete files below `root` until so many bytes more are within the most; returns these.

    Whoever has the most bytes loses the file that was used longest ago. Raises OSError.
    """
    files = []
    for path in root.glob(f"*/*{_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            info = path.stat()
            files.append((info.st_mtime, info.st_size, path))
    held = dict[str, int]()
    for _, size, path in files:
        held[owner_in(path)] = held.get(owner_in(path), 0) + size
    gone = []
    while files and sum(held.values()) + num_bytes > most_bytes:
        oldest = min(files, key=lambda item: (-held[owner_in(item[2])], item[0]))
        files.remove(oldest)
        _, size, path = oldest
        held[owner_in(path)] -= size
        path.unlink(missing_ok=True)
        gone.append(path)
    return gone


def delete_others(root: Path, mesh: str, owners: Collection[str]) -> list[Path]:
    """Delete the files below `root` that are of a mesh and of none of these owners; returns these.

    mesh, owners: what the names of files begin with. Raises OSError.
    """
    gone = []
    for path in root.glob(f"*/{mesh}*{_SUFFIX}"):
        if not path.name.startswith(tuple(owners)):
            path.unlink(missing_ok=True)
            gone.append(path)
    return gone


def delete_unused(root: Path, age_s: float) -> None:
    """Delete the files below `root` that nobody has used for so many seconds. Raises OSError."""
    for path in root.glob(f"*/*{_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > age_s:
                path.unlink()
