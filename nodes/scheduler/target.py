"""Predicted seconds of the target's passes, by its calibration and by the passes seen since."""

from __future__ import annotations

from typing import Final

from nodes.worker.stream import PROMPT_PIECE_TOKENS
from policies.latency import Load, NodeCosts, TableRefit

# The share of prompts is capped, because decoding goes on beside any number of them.
_MAX_PREFILL_SHARE: Final = 0.8


class TargetCosts:
    """Costs of one target, refitted from its passes, and the share of its time spent on prompts."""

    def __init__(self, calibrated: NodeCosts) -> None:
        self._calibrated = calibrated.decode
        self._prefill = calibrated.prefill
        self._decode = TableRefit(calibrated.decode)
        self._prompts = Load()

    def now(self, own_cells: float = 0.0) -> NodeCosts:
        """Returns the present costs for streams that have own_cells cells each."""
        return NodeCosts(self._decode.table.with_own(own_cells), self._prefill)

    def prefill_share(self, now: float) -> float:
        return min(_MAX_PREFILL_SHARE, self._prompts.share(now))

    def read_beside(self, num_tokens: int, num_decoded: int, own_cells: float, now: float) -> None:
        """Record that a pass of num_decoded tokens also read num_tokens tokens of prompts."""
        decode = self._decode.table.with_own(own_cells)
        piece_s = decode.at(num_decoded + num_tokens) - decode.at(num_decoded)
        self._prompts.add(max(0.0, piece_s), now)

    def reading_s(self, num_tokens: int, num_others: int) -> float:
        """Returns the seconds that reading a text takes beside num_others decoding streams."""
        if num_others == 0:
            size = self._prefill.sizes[-1]
            return num_tokens / size * self._prefill.at(size)
        decode = self._decode.table.with_own(num_tokens / 2)
        return num_tokens / PROMPT_PIECE_TOKENS * decode.at(num_others + PROMPT_PIECE_TOKENS)

    def expected_s(self, num_tokens: int, used_cells: int, own_cells: float, now: float) -> float:
        """Returns the mean seconds of a pass that decodes num_tokens, prompt pieces included."""
        seconds = self._decode.table.at(num_tokens, used_cells, own_cells)
        return seconds / (1.0 - self.prefill_share(now))

    def pass_s(self, num_tokens: int, used_cells: int, own_cells: float) -> float:
        """Returns the seconds of a pass of num_tokens tokens, where prompt tokens count as well."""
        return self._decode.table.at(num_tokens, used_cells, own_cells)

    def calibrated_s(self, num_tokens: int, used_cells: int, own_cells: float) -> float:
        """Returns the same as pass_s() from the calibration alone."""
        return self._calibrated.at(num_tokens, used_cells, own_cells)

    def pass_seen(self, num_tokens: int, seconds: float, used_cells: int, own_cells: float) -> None:
        """Learn from a pass that read no piece of a prompt."""
        self._decode.observe(num_tokens, seconds, used_cells, own_cells)
