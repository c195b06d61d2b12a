"""The coordinator's heartbeats over one connection. Pure."""

import math
from collections import deque
from typing import Final

from airdraft.mesh.messages import Ping, Pong
from airdraft.mesh.rates import MIN_PROBE_BYTES, RateEstimate

_RTT_WEIGHT: Final = 1 / 8  # weight of a new sample, as in RFC 6298
# Number of samples whose minimum is the idle round trip. There must be many, because in a busy
# radio cell hardly any Ping finds the air free.
_NUM_RECENT: Final = 64
_MAX_PINGS_UNDERWAY: Final = 16


class HeartbeatState:
    """Decides when to send a Ping, and measures round trips.

    rtt_s: smoothed round trip, None before the first Pong. rate: bit/s in this side's sending
    direction. interval_s: silence in either direction after which a Ping is sent. period_s: longest
    time between two Pings while other messages prove both sides alive.
    """

    def __init__(self, interval_s: float) -> None:
        self.rtt_s: float | None = None
        self.interval_s = interval_s
        self.period_s = interval_s
        self._next_seq = 0
        self._pinged_at: float | None = None
        self._last_heard_at: float | None = None
        self._last_said_at = -math.inf
        self._underway: deque[tuple[int, float]] = deque(maxlen=_MAX_PINGS_UNDERWAY)
        self.rate = RateEstimate()
        # The seq of the Ping that follows a large message, and the bytes of that message.
        self._probe: tuple[int, int] | None = None
        self._num_samples = 0
        self._recent: deque[float] = deque(maxlen=_NUM_RECENT)

    @property
    def clear_rtt_s(self) -> float | None:
        """Round trip of an idle link: the least of the last samples; None before the first.

        On a narrow link Pings wait behind other messages. A caller that adds the airtime of
        messages itself would count that time twice with rtt_s.
        """
        return min(self._recent, default=None)

    def due(self, now: float) -> Ping | None:
        """Returns the Ping to send now, if any."""
        if self._last_heard_at is None:
            self._last_heard_at = now
        if self._pinged_at is not None:
            quiet_since = max(self._pinged_at, min(self._last_heard_at, self._last_said_at))
            due_at = min(quiet_since + self.interval_s, self._pinged_at + self.period_s)
            if now < due_at:
                return None
        self._pinged_at = now
        return self.probe(now)

    def sent(self, num_bytes: int, now: float) -> Ping | None:
        """Note a sent message; return a Ping to send right after it if that measures the rate."""
        if num_bytes < MIN_PROBE_BYTES or self.rtt_s is None or self._probe is not None:
            return None
        ping = self.probe(now)
        self._probe = ping.seq, num_bytes
        return ping

    def probe(self, now: float) -> Ping:
        """Returns a Ping; sending an extra one shows whether the connection still exists."""
        ping = Ping(seq=self._next_seq, progress=0)
        self._next_seq += 1
        self._underway.append((ping.seq, now))
        return ping

    def on_pong(self, pong: Pong, now: float) -> None:
        """Take a round trip sample from a Pong; a repeated or unknown seq gives none."""
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
                # The first samples, which are long during startup, lose their weight soon.
                self._num_samples += 1
                weight = max(_RTT_WEIGHT, 1.0 / self._num_samples)
                self.rtt_s = before_s + weight * (sample_s - before_s)
                return

    def forget_pings(self) -> None:
        """Take no samples from Pings under way: this side stood still, and read Pongs late."""
        self._underway.clear()

    def said(self, now: float) -> None:
        """Note that this side sent a message other than a Ping, which proves it alive as well."""
        self._last_said_at = now

    def on_any(self, now: float) -> None:
        """Note a received message, which proves the other side alive."""
        self._last_heard_at = now if self._last_heard_at is None else max(self._last_heard_at, now)
