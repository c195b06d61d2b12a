"""The sequences that a stage has of its target, and what passes do with them."""

from __future__ import annotations

import numpy as np

from airdraft.nodes.engine.protocol import EngineError, Rows, SavedPrefix
from airdraft.nodes.engine.split.stage import Piece, StageModel
from airdraft.nodes.messages.stages import (
    COPY,
    CUT,
    DROP,
    KEEP,
    RESTORE,
    ROOM,
    SAVE,
    StageCommand,
    StagePassRequest,
)


class Lent:
    """A loaded part in the use of one target at a time."""

    def __init__(self, model: StageModel, most_saved_bytes: int) -> None:
        """most_saved_bytes: what saved texts may take."""
        self.model, self._most_saved_bytes = model, most_saved_bytes
        self._saved: dict[int, SavedPrefix] = {}
        self._number = 0

    @property
    def told_saved_bytes(self) -> int:
        """What a target is told that its saved texts may take: it saves one before it drops others
        for it."""
        return self._most_saved_bytes // 2

    def clear(self) -> None:
        """Be ready for a target: nothing is left of the last one."""
        self._saved.clear()
        self._number = 0
        for seq_id in range(self.model.info.max_sequences):
            self.model.truncate(seq_id, 0)

    def close(self) -> None:
        self._saved.clear()
        self.model.close()

    def run(self, request: StagePassRequest) -> bytes:
        """Run the commands and the pass of a request; returns float32 of (tokens, width).

        Raises EngineError or KeyError; then what sequences have is not known.
        """
        self._number += 1
        if request.number != self._number:
            # Each pass has to be run once, and in its place.
            raise EngineError(f"pass {request.number} came in the place of {self._number}")
        for command in request.commands:
            self._do(command)
        rows = self._rows_of(request)
        pieces = [Piece(each.seq_id, each.start, each.count) for each in request.pieces]
        return self.model.run(pieces, rows).tobytes() if pieces else b""

    def _rows_of(self, request: StagePassRequest) -> Rows:
        count, width = sum(each.count for each in request.pieces), self.model.width
        if count > self.model.info.max_batch_tokens or len(request.rows) != 4 * count * width:
            raise EngineError(f"{len(request.rows)} bytes of rows for {count} tokens")
        rows: Rows = np.frombuffer(request.rows, np.float32).reshape(count, width)
        if not np.isfinite(rows).all():
            raise EngineError("rows with numbers that are not finite")
        return rows

    def _do(self, command: StageCommand) -> None:
        model = self.model
        if command.kind == CUT:
            model.truncate(command.seq_id, command.length)
        elif command.kind == KEEP:
            model.keep(command.seq_id)
        elif command.kind == ROOM:
            model.tidy(command.length)
        elif command.kind == COPY:
            model.copy_prefix(command.seq_id, command.other, command.length)
        elif command.kind == SAVE:
            saved = model.save(command.seq_id)
            used = sum(each.num_bytes for each in self._saved.values())
            if used + saved.num_bytes > self._most_saved_bytes:
                raise EngineError("this stage has no memory for more saved texts")
            self._saved[command.other] = saved
        elif command.kind == RESTORE:
            saved = self._saved[command.other]
            model.restore(command.seq_id, saved, saved.length)
        else:
            assert command.kind == DROP
            self._saved.pop(command.other, None)
