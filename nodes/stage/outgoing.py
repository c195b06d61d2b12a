"""The files of parts that a target sends to stages that lack them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from airdraft.nodes.engine.llama_abi import hash_file
from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.messages.stages import StageFileReply, StageFileRequest
from airdraft.nodes.stage.parts import Part, ReportProgress


class PartFiles:
    """Cuts parts when they are asked for, and deletes what it cut when it is closed.

    cut: returns the file of a part and whether it was made for that. Methods block on files, and
    run in one thread at a time.
    """

    def __init__(
        self, cut: Callable[[Part], tuple[Path, bool]] | None, progress: ReportProgress
    ) -> None:
        """cut: None if this machine has not got the whole model."""
        self._cut, self._progress = cut, progress
        self._found: dict[Part, tuple[Path, int, str]] = {}
        self._made: list[Path] = []

    def piece(self, part: Part, request: StageFileRequest) -> StageFileReply:
        """Raises EngineError."""
        path, total, sha256 = self._file(part)
        if not request.size:
            return StageFileReply(0, total, b"", sha256)
        try:
            with path.open("rb") as file:
                file.seek(request.at)
                data = file.read(request.size)
        except OSError as error:
            raise EngineError(f"{path} cannot be read: {error.strerror}") from error
        self._progress(f"sending {part.file}", min(request.at + len(data), total), total)
        return StageFileReply(request.at, total, data)

    def _file(self, part: Part) -> tuple[Path, int, str]:
        if part not in self._found:
            if self._cut is None:
                raise EngineError(f"this machine has no {part.file}, nor the whole model")
            path, is_new = self._cut(part)
            if is_new:
                self._made.append(path)
            try:
                self._found[part] = path, path.stat().st_size, hash_file(path)
            except OSError as error:
                raise EngineError(f"{path} cannot be read: {error.strerror}") from error
        return self._found[part]

    def close(self) -> None:
        """Delete the parts that were cut for sending; they are cut again if that is necessary."""
        for path in self._made:
            path.unlink(missing_ok=True)
        self._found.clear()
        self._made.clear()
