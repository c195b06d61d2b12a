"""Application heartbeats of one connection, for either side; pure."""

import math
from collections import deque
from typing import Final

from mesh.messages import Ping, Pong
from mesh.rates import MIN_PROBE_BYTES, RateEstimate

_RTT_WEIGHT: Final = 1 / 8  # of a new sample, as in RFC 6298
# Of which the least is the way itself: on a busy radio cell hardly any Ping finds the air free.
_NUM_RECENT: Final = 64
_MAX_PINGS_UNDERWAY: Final = 16


class HeartbeatState:
    """When to send a Ping, when the other side counts as gone, how long a round trip takes.

    progress: finished pieces of work on this side; its owner increases it, every Ping tells it.
    rtt_s: smoothed round trip, None before the first Pong. rate: of what this side sends.
    interval_s: after so long a side that said nothing else says Ping, or Pong. period_s: between
    two Pings where both say other things all the time, which tell as well that they are alive.
    """

    def __init__(self, interval_s: float, timeout_s: float) -> None:
        self.progress = 0
        self.rtt_s: float | None = None
        self.interval_s = interval_s
        self.period_s = interval_s
        self._timeout_s = timeout_s
        self._next_seq = 0
        self._pinged_at: float | None = None
        self._last_heard_at: float | None = None
        self._last_said_at = -math.inf
        self._underway: deque[tuple[int, float]] = deque(maxlen=_MAX_PINGS_UNDERWAY)
        self.rate = RateEstimate()
        # The Ping that follows a large message, and the bytes of that.
        self._probe: tuple[int, int] | None = None
        self._num_samples = 0
        self._recent: deque[float] = deque(maxlen=_NUM_RECENT)

    @property
    def clear_rtt_s(self) -> float | None:
        """Round trip while nothing else is on the way: the least of the last samples.

        A narrow link makes Pings wait behind what else is sent; who reckons with the time of
        messages itself must not pay for them twice.
        """
        return min(self._recent, default=None)

    def due(self, now: float) -> Ping | None:
        """The Ping to send now. The first call starts the clock of expired()."""
        if self._last_heard_at is None:
            self._last_heard_at = now
        if self._pinged_at is not None:
            quiet_since = max(self._pinged_at, min(self._last_heard_at, self._last_said_at))
            due_at = min(quiet_since + self.interval_s, self._pinged_at + self.period_s)
            if now < due_at:
                return None
        self._pinged_at = now
        return self._ping(now)

    def sent(self, num_bytes: int, now: float) -> Ping | None:
        """A message went out: the Ping that is to follow it, if it tells the link's rate."""
        if num_bytes < MIN_PROBE_BYTES or self.rtt_s is None or self._probe is not None:
            return None
        ping = self._ping(now)
        self._probe = ping.seq, num_bytes
        return ping

    def probe(self, now: float) -> Ping:
        """A Ping out of turn: sending it shows whether the connection is there still."""
        return self._ping(now)

    def _ping(self, now: float) -> Ping:
        ping = Ping(seq=self._next_seq, progress=self.progress)
        self._next_seq += 1
        self._underway.append((ping.seq, now))
        return ping

    def on_pong(self, pong: Pong, now: float) -> None:
        """Take a round trip sample; a repeated or unknown seq gives none."""
        self.on_any(now)
        for seq, sent_at in self._underway:
            if seq == pong.seq:
                sample_s = now - sent_at
                self._underway.remove((seq, sent_at))
                if self._probe is not None and seq >= self._probe[0]:
                    probe, self._probe = self._probe, None
                    if seq == probe[0] and self.rtt_s is not None:
                        self.rate.observe(probe[1], sample_s, self.rtt_s)
                        return
                self._recent.append(sample_s)
                before_s = sample_s if self.rtt_s is None else self.rtt_s
                # The first ones, which wait for all that a start brings, are outweighed soon.
                self._num_samples += 1
                weight = max(_RTT_WEIGHT, 1.0 / self._num_samples)
                self.rtt_s = before_s + weight * (sample_s - before_s)
                return

    def said(self, now: float) -> None:
        """This side sent something other than a Ping, which proves it alive as well."""
        self._last_said_at = now

    def on_any(self, now: float) -> None:
        """Anything received proves the other side alive."""
        self._last_heard_at = now if self._last_heard_at is None else max(self._last_heard_at, now)

    def expired(self, now: float) -> bool:
        """Whether the other side has been silent for longer than the time-out."""
        return self._last_heard_at is not None and now - self._last_heard_at > self._timeout_s
