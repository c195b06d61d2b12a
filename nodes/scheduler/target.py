"""What passes of the target take: as calibrated, and as seen since."""

from __future__ import annotations

from typing import Final

from nodes.stream import PROMPT_PIECE_TOKENS
from policies.latency import Load, NodeCosts, TableRefit

# Decoding goes on beside any number of prompts.
_MAX_PREFILL_SHARE: Final = 0.8


class TargetCosts:
    """Costs of one target, refitted from its passes, and the share of its time prompts take."""

    def __init__(self, calibrated: NodeCosts) -> None:
        self._prefill = calibrated.prefill
        self._decode = TableRefit(calibrated.decode)
        self._prompts = Load()

    def now(self, own_cells: float = 0.0) -> NodeCosts:
        """Costs by what is known by now, of streams that have so many cells each."""
        return NodeCosts(self._decode.table.with_own(own_cells), self._prefill)

    def prefill_share(self, now: float) -> float:
        return min(_MAX_PREFILL_SHARE, self._prompts.share(now))

    def prompt_read(self, num_tokens: int, length: int, num_others: int, now: float) -> None:
        """Note what the last num_tokens of a text took to read: their pieces went along with
        passes of num_others streams."""
        # A piece attends to what is before it: half of these tokens, on average, and all others.
        own_cells = length - num_tokens / 2
        piece_s = self._piece_s(PROMPT_PIECE_TOKENS, max(1, num_others), own_cells)
        self._prompts.add(num_tokens / PROMPT_PIECE_TOKENS * piece_s, now)

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

    def _piece_s(self, num_tokens: int, num_others: int, own_cells: float) -> float:
        """Seconds that a piece of a prompt adds to a pass of so many other tokens."""
        decode = self._decode.table.with_own(own_cells)
        return max(0.0, decode.at(num_others + num_tokens) - decode.at(num_others))

    def pass_seen(self, num_tokens: int, seconds: float, used_cells: int, own_cells: float) -> None:
        """Learn from a pass that held no piece of a prompt."""
        self._decode.observe(num_tokens, seconds, used_cells, own_cells)
