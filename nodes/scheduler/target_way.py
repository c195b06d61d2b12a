"""The way to one target, where that is on a medium: what messages take of it, and their turns."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.grants import Air
from nodes.scheduler.air import Reservation
from policies.latency import Load
from policies.plan import ENTRY_BITS, HEADER_BITS, TEXT_BITS, Link


@dataclass(slots=True)
class TargetWay:
    """link: as far as it is known by now. told: seconds of its medium that texts take.

    busy_until: when the target is through with what it was asked for, as predicted.
    """

    air: Air = field(default_factory=Air)
    token_bits: int = 32
    link: Link = field(default_factory=Link)
    told: Load = field(default_factory=Load)
    busy_until: float = 0.0

    def text_s(self, num_tokens: int) -> float:
        """Predicted seconds on the air of a text that the target is told."""
        return self.link.airtime_s(HEADER_BITS + ENTRY_BITS + num_tokens * self.token_bits, 1)

    def text_told(self, num_tokens: int, now: float) -> None:
        """A text is on its way."""
        if not self.link.is_free:
            self.told.add(self.text_s(num_tokens), now)

    def verify_sent(
        self, num_streams: int, num_guesses: int, pass_s: float, now: float
    ) -> Reservation:
        """Keep the medium for a VerifyRequest, and for the answer after a pass of so many seconds,
        behind those of the rounds before it; that of the answer ends with it."""
        medium = self.air[self.link.medium]
        entries_bits = HEADER_BITS + num_streams * ENTRY_BITS
        request_s = self.link.airtime_s(entries_bits + num_guesses * self.token_bits, 1)
        there = medium.reserve(now, now, request_s).end + self.link.rtt_s / 2
        # No more than one pass is waited for: what is predicted too long must not add up.
        self.busy_until = min(max(there, self.busy_until), there + pass_s) + pass_s
        # It may commit all guesses and a token more of each stream.
        num_tokens = num_streams + num_guesses
        answer_bits = entries_bits + num_tokens * (self.token_bits + TEXT_BITS)
        answer_s = self.link.airtime_s(answer_bits, 1)
        return Reservation(medium, medium.reserve(now, self.busy_until, answer_s))
