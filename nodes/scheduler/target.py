"""What passes of the target take: as calibrated, and as seen since."""

from __future__ import annotations

from nodes.stream import PROMPT_PIECE_TOKENS
from policies.latency import Load, NodeCosts, TableRefit

# Decoding goes on beside any number of prompts.
_MAX_PREFILL_SHARE = 0.8


class TargetCosts:
    """Costs of one target, refitted from its passes, and the share of its time prompts take."""

    def __init__(self, calibrated: NodeCosts) -> None:
        self._prefill = calibrated.prefill
        self._decode = TableRefit(calibrated.decode)
        self._prompts = Load()

    def now(self) -> NodeCosts:
        """Costs by what is known by now."""
        return NodeCosts(self._decode.table, self._prefill)

    def prefill_share(self, now: float) -> float:
        return min(_MAX_PREFILL_SHARE, self._prompts.share(now))

    def prompt_read(self, num_tokens: int, num_others: int, now: float) -> None:
        """Note what a prompt took: its pieces went along with passes of num_others streams."""
        decode, others = self._decode.table, max(1, num_others)
        piece_s = decode.at(others + PROMPT_PIECE_TOKENS) - decode.at(others)
        self._prompts.add(num_tokens / PROMPT_PIECE_TOKENS * max(0.0, piece_s), now)

    def predicted_s(self, num_tokens: int, used_cells: int, now: float) -> float:
        """Seconds of a pass that decodes num_tokens, with the pieces of prompts it may hold."""
        return self._decode.table.at(num_tokens, used_cells) / (1.0 - self.prefill_share(now))

    def pass_seen(self, num_tokens: int, seconds: float, used_cells: int) -> None:
        """Learn from a pass that held no piece of a prompt."""
        self._decode.observe(num_tokens, seconds, used_cells)
