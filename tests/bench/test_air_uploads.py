"""Guesses and an upload on one emulated cell: the upload gives way, in virtual time."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bench.emulate.cell import DOWN, UP, Cell, Direction, Station
from bench.emulate.medium import Medium
from bench.emulate.proxy import HEADER_BYTES, SEGMENT_BYTES
from bench.live.light_nodes import LightDraft, LightTarget, light_profile
from mesh.codec import encode, encode_struct
from mesh.messages import PROTOCOL_VERSION, Hello, Ping, Welcome
from nodes.client.upload import Upload
from nodes.coordinator.requests.uploads import PIECE_S
from nodes.coordinator.sends import Send
from nodes.coordinator.state import CoordinatorState
from nodes.messages import GuessNotice, LinkFields, UploadGrant, UploadPiece
from nodes.scheduler.planning import MODES
from nodes.worker.profile import decode_profile
from tests.nodes.builders import make_submit

RATE_BPS, FRAME_S = 400e3, 0.0005
# What ZeroMQ and CURVE add to a message.
ZMTP_BYTES = 70
AIR = LinkFields("cell-a", RATE_BPS, FRAME_S)
PASS_S = {"target": 0.04, "draft": 0.01}
CLUSTER, EPOCH = "c", 1
# 12 kB: a quarter of a second of the cell.
LONG = tuple(k % 50 + 1 for k in range(6000))


class AirWorld:
    """A coordinator, its target beside it, a draft node and a client on one cell."""

    def __init__(self) -> None:
        # Both are behind one radio, whose queue keeps the order.
        radio = Station(name="radio", rate_bps=RATE_BPS, queue_bytes=1 << 20)
        self.medium = Medium(Cell(stations=(radio,), shares=(1.0,), frame_s=FRAME_S))
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        welcome = Welcome("", CLUSTER, EPOCH, 1e9, 2e9, pads=False)
        self.state = CoordinatorState(MODES["open"], welcome)
        # When guesses came to the coordinator.
        self.guessed_at: list[float] = []
        self.uploaded_at = math.inf
        self.sender: Upload | None = None
        self._nodes: dict[str, LightTarget | LightDraft] = {
            "target": LightTarget(),
            "draft": LightDraft(),
        }
        self._busy: set[str] = set()
        for name, pass_s in PASS_S.items():
            profile = light_profile(name, pass_s)
            if name == "draft":
                profile = encode_struct(replace(decode_profile(profile), link=AIR))
            self.hear(name, Hello(name, name, 1, PROTOCOL_VERSION, profile))
        for name in ("client", "user"):
            self.hear(name, Hello(name, "client", 1, PROTOCOL_VERSION, b""))

    # -- what happens ------------------------------------------------------------------------

    def run(self, until_s: float) -> None:
        while True:
            deadline = self.state.next_deadline()
            wakes_s = math.inf if deadline is None else max(deadline, self.now)
            event_s = self._events[0][0] if self._events else math.inf
            next_s = min(event_s, self.medium.next_event_s(), wakes_s)
            if next_s > until_s:
                return
            self.now = next_s
            for departure in self.medium.advance(next_s):
                if departure.payload is not None:
                    departure.payload()
            if event_s <= next_s:
                heapq.heappop(self._events)[2]()
            if wakes_s <= next_s:
                self.carry_out(self.state.tick(self.now))

    def at(self, time_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), action))

    def over(self, way: Direction, message: Any, arrived: Callable[[], None]) -> None:
        """Bring a message over the cell, in segments."""
        left = ZMTP_BYTES + sum(map(len, encode(message, cluster=CLUSTER, epoch=EPOCH)))
        while left > 0:
            size = min(left, SEGMENT_BYTES)
            left -= size
            payload = arrived if left == 0 else None
            assert self.medium.offer("radio", way, HEADER_BYTES + size, payload, self.now)

    def hear(self, peer: str, message: Any) -> None:
        if isinstance(message, GuessNotice):
            self.guessed_at.append(self.now)
        self.carry_out(self.state.on_message(peer.encode(), CLUSTER, EPOCH, message, 100, self.now))

    def carry_out(self, sends: list[Send]) -> None:
        for send in sends:
            peer, message = send.peer.decode(), send.message
            if isinstance(message, Welcome | Ping):
                continue
            if peer == "target":
                self.at(self.now, lambda m=message: self.to_node("target", m))
            elif peer == "draft":
                self.over(DOWN, message, lambda m=message: self.to_node("draft", m))
            elif peer == "client" and isinstance(message, UploadGrant):
                self.over(DOWN, message, lambda m=message: self.granted(m))

    # -- the nodes -----------------------------------------------------------------------------

    def to_node(self, name: str, message: Any) -> None:
        for answer in self._nodes[name].hear(message):
            self.from_node(name, answer)
        self.go_on(name)

    def from_node(self, name: str, message: Any) -> None:
        if name == "draft":
            self.over(UP, message, lambda: self.hear("draft", message))
        else:
            self.at(self.now, lambda: self.hear(name, message))

    def go_on(self, name: str) -> None:
        if name not in self._busy and self._nodes[name].has_work:
            self._busy.add(name)
            self.at(self.now + PASS_S[name], lambda: self.pass_done(name))

    def pass_done(self, name: str) -> None:
        self._busy.remove(name)
        self.from_node(name, self._nodes[name].run_pass(PASS_S[name]))
        self.go_on(name)

    # -- the client ----------------------------------------------------------------------------

    def offer(self, message: Any) -> None:
        self.sender = Upload(1, encode(message, cluster=CLUSTER, epoch=EPOCH))
        offer = self.sender.offer(5, AIR)
        self.over(UP, offer, lambda: self.hear("client", offer))

    def granted(self, grant: UploadGrant) -> None:
        if grant.num_bytes:
            self.at(self.now + grant.delay_us * 1e-6, lambda: self.send(grant.num_bytes))

    def send(self, num_bytes: int) -> None:
        assert self.sender is not None
        piece = self.sender.piece(num_bytes)
        is_last = self.sender.is_over
        self.over(UP, piece, lambda: self.sent(piece, is_last))

    def sent(self, piece: UploadPiece, is_last: bool) -> None:
        if is_last:
            self.uploaded_at = self.now
        else:
            self.hear("client", piece)

    def send_whole(self, message: Any) -> None:
        def arrived() -> None:
            self.uploaded_at = self.now

        self.over(UP, message, arrived)


def guesses(begin: Callable[[AirWorld], None] | None) -> tuple[list[float], float]:
    """Seconds between messages with guesses of one stream in the second after what begins, and
    when that ends."""
    world = AirWorld()
    world.hear("user", make_submit(1, max_tokens=4000, ignore_eog=True))
    world.run(1.0)
    if begin is not None:
        begin(world)
    world.run(2.0)
    times = [at for at in world.guessed_at if 0.9 < at < 2.0]
    return [b - a for a, b in itertools.pairwise(times)], world.uploaded_at


def test_guesses_are_not_delayed_by_an_upload_that_is_granted() -> None:
    alone, _ = guesses(None)
    granted, ended_at = guesses(lambda world: world.offer(make_submit(1, prompt_token_ids=LONG)))
    whole, whole_at = guesses(lambda w: w.send_whole(make_submit(1, prompt_token_ids=LONG)))
    assert len(alone) >= 8
    # They go on meanwhile. Two pieces at most are on their way at a time: a commit may have to wait
    # for them, and the guesses after it again.
    assert math.isfinite(ended_at)
    assert ended_at < 2.0
    assert max(granted) <= max(alone) + 4 * PIECE_S
    # An upload that is sent when its client likes holds guesses up for all of it.
    assert math.isfinite(whole_at)
    assert max(whole) > max(alone) + 8 * PIECE_S
    assert len(whole) < len(granted)
