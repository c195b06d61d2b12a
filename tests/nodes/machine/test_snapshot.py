"""A snapshot tells any change, and nothing else."""

from __future__ import annotations

from collections import Counter, deque

from mesh.membership import MembershipState
from mesh.messages import PROTOCOL_VERSION, Hello
from tests.nodes.machine.snapshot import snapshot


def _membership() -> MembershipState:
    state = MembershipState(5.0, 60.0)
    state.on_hello(b"a", Hello("node", "target", 7, PROTOCOL_VERSION, b""), 1.0)
    return state


def test_what_was_made_alike_is_equal_until_something_changes() -> None:
    one, other = _membership(), _membership()
    assert snapshot(one, set()) == snapshot(other, set())
    one.on_message(b"a", 2.0)
    assert snapshot(one, set()) != snapshot(other, set())
    assert snapshot(one, {"last_seen"}) == snapshot(other, {"last_seen"})
    one.on_gone(b"a", 2.0)
    assert snapshot(one, {"last_seen"}) != snapshot(other, {"last_seen"})


def test_what_contains_itself_has_an_end() -> None:
    ring: deque[object] = deque([1, {2, 3}, Counter("ab")])
    ring.append(ring)
    assert snapshot(ring, set()) == [1, ["2", "3"], [("a", 1), ("b", 1)], "<0>"]
