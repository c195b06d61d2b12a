"""What passes of the target take: as calibrated, and as seen since."""

from __future__ import annotations

from typing import Final

from nodes.worker.stream import PROMPT_PIECE_TOKENS
from policies.latency import Load, NodeCosts, TableRefit

# Decoding goes on beside any number of prompts.
_MAX_PREFILL_SHARE: Final = 0.8


class TargetCosts:
    """Costs of one target, refitted from its passes, and the share of its time prompts take."""

    def __init__(self, calibrated: NodeCosts) -> None:
        self._calibrated = calibrated.decode
        self._prefill = calibrated.prefill
        self._decode = TableRefit(calibrated.decode)
        self._prompts = Load()

    def now(self, own_cells: float = 0.0) -> NodeCosts:
        """Costs by what is known by now, of streams that have so many cells each."""
        return NodeCosts(self._decode.table.with_own(own_cells), self._prefill)

    def prefill_share(self, now: float) -> float:
        return min(_MAX_PREFILL_SHARE, self._prompts.share(now))

    def read_beside(self, num_tokens: int, num_decoded: int, own_cells: float, now: float) -> None:
        """Note that a pass which decoded read so many tokens of prompts, too."""
        decode = self._decode.table.with_own(own_cells)
        piece_s = decode.at(num_decoded + num_tokens) - decode.at(num_decoded)
        self._prompts.add(max(0.0, piece_s), now)

    def reading_s(self, num_tokens: int, num_others: int) -> float:
        """Seconds until a text has been read, beside passes of so many other streams."""
        if num_others == 0:
            size = self._prefill.sizes[-1]
            return num_tokens / size * self._prefill.at(size)
        decode = self._decode.table.with_own(num_tokens / 2)
        return num_tokens / PROMPT_PIECE_TOKENS * decode.at(num_others + PROMPT_PIECE_TOKENS)

    def expected_s(self, num_tokens: int, used_cells: int, own_cells: float, now: float) -> float:
        """Seconds of a pass that decodes num_tokens, with the pieces of prompts it may hold."""
        seconds = self._decode.table.at(num_tokens, used_cells, own_cells)
        return seconds / (1.0 - self.prefill_share(now))

    def pass_s(self, num_tokens: int, used_cells: int, own_cells: float) -> float:
        """Seconds of a pass of so many tokens, those of prompts included."""
        return self._decode.table.at(num_tokens, used_cells, own_cells)

    def calibrated_s(self, num_tokens: int, used_cells: int, own_cells: float) -> float:
        """The same by calibration alone."""
        return self._calibrated.at(num_tokens, used_cells, own_cells)

    def pass_seen(self, num_tokens: int, seconds: float, used_cells: int, own_cells: float) -> None:
        """Learn from a pass that held no piece of a prompt."""
        self._decode.observe(num_tokens, seconds, used_cells, own_cells)
