"""The costs of a target's passes, by its calibration and as they were observed since. Pure."""

from __future__ import annotations

import math
from typing import Final

from nodes.messages import CommitReply
from nodes.worker.stream import PROMPT_PIECE_TOKENS
from policies.latency import MAX_RATIO, PASS_RATE, Load, NodeCosts, TableRefit

# The share of prompts is capped, because decoding goes on beside any number of them.
_MAX_PREFILL_SHARE: Final = 0.8
# So long a target's observed speed counts without a further pass.
_SEEN_FOR_S: Final = 60.0


class TargetCosts:
    """Costs of one target, and the share of its time spent on prompts.

    calibrated: seconds of a pass by its tokens, of prompts as well, as the target declared them;
    decode: the same, refitted from passes that read no prompts.
    """

    def __init__(self, calibrated: NodeCosts) -> None:
        self.calibrated = calibrated.decode
        self._prefill = calibrated.prefill
        self._prompts = Load()
        self.forget()

    def forget(self) -> None:
        """Forget what passes have taken since the calibration."""
        self.decode = TableRefit(self.calibrated)

    def now(self, own_cells: float = 0.0) -> NodeCosts:
        """Returns the present costs for streams that have own_cells cells each."""
        return NodeCosts(self.decode.table.with_own(own_cells), self._prefill)

    def prefill_share(self, now: float) -> float:
        return min(_MAX_PREFILL_SHARE, self._prompts.share(now))

    def read_beside(self, num_tokens: int, num_decoded: int, own_cells: float, now: float) -> None:
        """Record that a pass of num_decoded tokens also read num_tokens tokens of prompts."""
        decode = self.decode.table.with_own(own_cells)
        piece_s = decode.at(num_decoded + num_tokens) - decode.at(num_decoded)
        self._prompts.add(max(0.0, piece_s), now)

    def reading_s(self, num_tokens: int, num_others: int) -> float:
        """Returns the seconds that reading a text takes beside num_others decoding streams."""
        if num_others == 0:
            size = self._prefill.sizes[-1]
            return num_tokens / size * self._prefill.at(size)
        decode = self.decode.table.with_own(num_tokens / 2)
        return num_tokens / PROMPT_PIECE_TOKENS * decode.at(num_others + PROMPT_PIECE_TOKENS)

    def expected_s(self, num_tokens: int, used_cells: int, own_cells: float, now: float) -> float:
        """Returns the mean seconds of a pass that decodes num_tokens, prompt pieces included."""
        seconds = self.decode.table.at(num_tokens, used_cells, own_cells)
        return seconds / (1.0 - self.prefill_share(now))


class ObservedSpeed:
    """How long passes of a target take by the coordinator's own clock, to the predicted times.

    Targets are compared by this, because whatever they report of themselves may be wrong.
    num_passes: those that were observed. ratio: the mean of observed / predicted times.
    """

    def __init__(self) -> None:
        self.num_passes = 0
        self.ratio = 1.0
        self._last: tuple[float, frozenset[int]] = (0.0, frozenset())

    def is_old(self, now: float) -> bool:
        """Whether the target has had no pass for a minute."""
        return now - self._last[0] > _SEEN_FOR_S

    def passed(self, reply: CommitReply, predicted_s: float, now: float) -> None:
        """Note a pass. Its time is known where a stream decoded in the one before as well."""
        at, before = self._last
        self._last = now, frozenset(entry.stream_id for entry in reply.entries)
        if predicted_s <= 0.0 or reply.num_read_tokens or before.isdisjoint(self._last[1]):
            return
        self.num_passes += 1
        rate = max(PASS_RATE, 1.0 / self.num_passes)
        # A stall of the coordinator or of the link says nothing of the target.
        most = MAX_RATIO * self.ratio if rate == PASS_RATE else math.inf
        found = (now - at) / (predicted_s + reply.turn_s)
        self.ratio += rate * (min(most, found) - self.ratio)
