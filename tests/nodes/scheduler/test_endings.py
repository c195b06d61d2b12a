"""How long a stream may wait for progress before its target or its draft node is given up."""

from __future__ import annotations

import pytest

from airdraft.nodes.messages import CloseStreamNotice, OpenStreamRequest
from airdraft.nodes.scheduler.instructions import Instruction
from airdraft.nodes.scheduler.scheduler import Scheduler
from tests.nodes.scheduler.watched import admit, make_scheduler, ready, to_draft, to_target

SHORT, LONG = tuple(range(1, 11)), tuple(range(1, 1011))


def wait_for(scheduler: Scheduler, begin: int, kind: type) -> tuple[int, list[Instruction]]:
    """Ticks once a second after `begin` until a message of a kind goes out; returns when, and all
    that went out then."""
    for second in range(begin + 1, begin + 2000):
        out = scheduler.tick(float(second))
        if to_target(out, kind) or to_draft(out, kind):
            return second, out
    pytest.fail("nothing was done")


def reopened_at(prompt: tuple[int, ...]) -> list[int]:
    """When a stream whose target never says anything is opened anew, and once more."""
    scheduler = make_scheduler()
    admit(scheduler, prompt=prompt)
    ready(scheduler)
    scheduler.tick(0.0)
    first, _ = wait_for(scheduler, 0, OpenStreamRequest)
    second, _ = wait_for(scheduler, first, OpenStreamRequest)
    return [first, second]


def test_a_target_has_longer_for_a_longer_text_and_twice_as_long_after_each_attempt() -> None:
    first, second = reopened_at(SHORT)
    assert second - first == pytest.approx(2 * first, abs=4)
    assert reopened_at(LONG)[0] > first + 10


def given_up_at(prompt: tuple[int, ...]) -> int:
    """When a draft node that does not say that it has read a text is told to close it."""
    scheduler = make_scheduler("d")
    admit(scheduler, prompt=prompt)
    scheduler.tick(0.0)
    when, out = wait_for(scheduler, 0, CloseStreamNotice)
    assert [name for name, _ in to_draft(out, CloseStreamNotice)] == ["d"]
    return when


def test_a_draft_node_has_longer_for_a_longer_text() -> None:
    assert given_up_at(LONG) > given_up_at(SHORT) + 10
