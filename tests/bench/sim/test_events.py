"""Virtual time and links."""

from __future__ import annotations

from functools import partial

import pytest

from bench.sim.devices import Clock, Medium
from policies.plan import Link


def test_messages_on_one_medium_go_one_after_another() -> None:
    clock, medium = Clock(), Medium()
    arrived: list[tuple[str, float]] = []
    near = Link(rate_bps=2000.0, rtt_s=0.0, frame_s=0.1)
    far = Link(rate_bps=4000.0, rtt_s=4.0, frame_s=0.2)
    for name, link, bits in (("a", far, 2776), ("b", near, 776), ("c", near, 2776)):
        note = partial(lambda name: arrived.append((name, clock.now)), name)
        clock.at(1.0, partial(medium.send, clock, link, bits, note))
    clock.run(100.0)
    # With 1224 bits of headers: a takes 1.2 s, b 1.1 s and c 2.1 s of the medium.
    assert [name for name, _ in arrived] == ["b", "a", "c"]
    assert [at for _, at in arrived] == pytest.approx([3.3, 4.2, 5.4])


def test_things_happen_in_order_of_time_and_then_as_they_were_set() -> None:
    clock = Clock()
    seen: list[tuple[str, float]] = []
    for name, time_s in (("c", 2.0), ("a", 1.0), ("b", 1.0), ("never", 3.5)):
        clock.at(time_s, partial(lambda name: seen.append((name, clock.now)), name))
    clock.at(2.0, lambda: clock.after(0.5, lambda: seen.append(("d", clock.now))))
    clock.run(3.0)
    assert seen == [("a", 1.0), ("b", 1.0), ("c", 2.0), ("d", 2.5)]
    assert clock.now == 3.0
