"""What passes of the target take: as calibrated, and as seen since."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median

from nodes.stream import PROMPT_PIECE_TOKENS
from policies.latency import Load, NodeCosts, TableRefit

# Decoding goes on beside any number of prompts.
_MAX_PREFILL_SHARE = 0.8
# Texts by which the next one is judged: either all of it is new, or nearly nothing.
_NUM_TEXTS = 9


class TargetCosts:
    """Costs of one target, refitted from its passes, and the share of its time prompts take."""

    def __init__(self, calibrated: NodeCosts) -> None:
        self._prefill = calibrated.prefill
        self._decode = TableRefit(calibrated.decode)
        self._prompts = Load()
        # Of the last texts, the share that its memory of earlier ones lacked.
        self._shares_read: deque[float] = deque(maxlen=_NUM_TEXTS)

    def now(self, own_cells: float = 0.0) -> NodeCosts:
        """Costs by what is known by now, of streams that have so many cells each."""
        return NodeCosts(self._decode.table.with_own(own_cells), self._prefill)

    def extra_s(self, num_cells: float) -> float:
        """Seconds that so many cells of its own add to each token of a stream."""
        return self._decode.table.cells_s(0, num_cells)

    def prefill_share(self, now: float) -> float:
        return min(_MAX_PREFILL_SHARE, self._prompts.share(now))

    def prompt_read(self, num_tokens: int, length: int, num_others: int, now: float) -> None:
        """Note what the last num_tokens of a text took to read: their pieces went along with
        passes of num_others streams."""
        # A piece attends to what is before it: half of these tokens, on average, and all others.
        own_cells = length - num_tokens / 2
        piece_s = self._piece_s(PROMPT_PIECE_TOKENS, max(1, num_others), own_cells)
        self._prompts.add(num_tokens / PROMPT_PIECE_TOKENS * piece_s, now)
        self._shares_read.append(num_tokens / max(1, length))

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

    def longest_s(self, num_tokens: int, used_cells: int, own_cells: float) -> float:
        """Seconds until a pass of so many tokens is over that holds a piece of a prompt, too, and
        waits for one that reads as much as fits."""
        pass_s = self.pass_s(num_tokens + PROMPT_PIECE_TOKENS, used_cells, own_cells)
        return pass_s + self._prefill.at(self._prefill.sizes[-1])

    def prompts_s(self, lengths: Sequence[int], num_others: int, *, is_in_pieces: bool) -> float:
        """Seconds that texts which wait to be read add to a pass of so many other tokens.

        Of each as much is to be read as of those before: the rest it has in its memory.
        is_in_pieces: one of them is being read in pieces, so that all of it is.
        """
        if not lengths:
            return 0.0
        share = 1.0 if is_in_pieces or not self._shares_read else median(self._shares_read)
        num_tokens = min(PROMPT_PIECE_TOKENS, math.ceil(share * sum(lengths)))
        # A piece is as often near the end of what there is to read as near its beginning.
        own_cells = sum(lengths) / len(lengths) * (1.0 - share / 2)
        return self._piece_s(num_tokens, num_others, own_cells)

    def _piece_s(self, num_tokens: int, num_others: int, own_cells: float) -> float:
        """Seconds that a piece of a prompt adds to a pass of so many other tokens."""
        decode = self._decode.table.with_own(own_cells)
        return max(0.0, decode.at(num_others + num_tokens) - decode.at(num_others))

    def pass_seen(self, num_tokens: int, seconds: float, used_cells: int, own_cells: float) -> None:
        """Learn from a pass that held no piece of a prompt."""
        self._decode.observe(num_tokens, seconds, used_cells, own_cells)
