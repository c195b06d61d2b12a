"""What rounds have told of a draft node's speed and of the way to it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from policies.latency import Load, Speed

# A node that was slow when it was last heard of may have cooled down or be alone again: without
# rounds what is known of its speed is worth half as much after each such time. Rounds of a slow
# node are some seconds apart.
_SPEED_HALF_LIFE_S, _SPEED_HOLDS_S = 60.0, 10.0
# And what is known of its way: Pings tell of that, too.
_DETOUR_HALF_LIFE_S, _DETOUR_HOLDS_S = 2.0, 1.0
# A way that took much longer, or no time at all, tells no more than this many times the predicted.
_DETOUR_RATE, _MOST_DETOUR = 0.1, 3.0


@dataclass(slots=True)
class Pace:
    """Of a node, whichever target it drafts for: what the streams of one have found out, those of
    another need not. detour_s: what its way takes beyond the round trip of its link. told: seconds
    of its medium that texts take, which rounds cannot have."""

    speed: Speed = field(default_factory=Speed)
    detour_s: float = 0.0
    told: Load = field(default_factory=Load)
    _seen_at: float = -math.inf
    _forgot_at: float = -math.inf

    def seen(self, now: float) -> None:
        """Rounds tell of it."""
        self._seen_at = now

    def way_seen(
        self, seconds: float, predicted_s: float, rtt_s: float, detour_s: float | None = None
    ) -> None:
        """Learn from a round: all that it did not spend on guesses; predicted_s: of that. rtt_s: of
        the link, which no detour takes more than all of. detour_s: the one it was predicted with,
        if others were learnt from since."""
        then_s = self.detour_s if detour_s is None else detour_s
        found_s = then_s + min(seconds - predicted_s, _MOST_DETOUR * predicted_s)
        self.detour_s = max(-rtt_s, self.detour_s + _DETOUR_RATE * (found_s - self.detour_s))

    def forget(self, now: float) -> None:
        """What was learnt fades while the node makes no guesses."""
        since_s = now - max(self._seen_at, self._forgot_at)
        if not _DETOUR_HOLDS_S < since_s < math.inf:
            return
        self.detour_s *= 0.5 ** (since_s / _DETOUR_HALF_LIFE_S)
        if now - self._seen_at > _SPEED_HOLDS_S:
            self.speed.forget(1.0 - 0.5 ** (since_s / _SPEED_HALF_LIFE_S))
        self._forgot_at = now
