from collections.abc import AsyncIterator

import pytest

from airdraft.nodes.client.client import Event, RequestFailedError
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.doctor.finding import Level
from airdraft.nodes.doctor.hops import Hop, check_absent, check_hop, check_nodes, measure
from airdraft.nodes.messages import NodeFields, NodesReply

TARGET = NodeFields("target", "target", "big", True, False, 1, False, 2000)
DRAFT = NodeFields("d", "draft", "small", False, False, 0, False, 200_000)


class Fake:
    def __init__(self, code: str) -> None:
        self.code = code
        self.num_chars = 0

    async def nodes(self) -> NodesReply:
        return NodesReply(1, (TARGET,))

    async def generate(self, prompt: str, options: GenerateOptions) -> AsyncIterator[Event]:
        self.num_chars = len(prompt)
        if self.code:
            raise RequestFailedError(self.code, "no")
        return
        yield


async def test_a_hop_is_measured_with_what_is_refused() -> None:
    fake = Fake("bad_request")
    hop = await measure(fake)
    assert (hop.nodes, fake.num_chars) == ((TARGET,), 200_000)
    with pytest.raises(RequestFailedError):
        await measure(Fake("unavailable"))


def test_a_slow_hop_is_a_warning() -> None:
    rtt, rate = check_hop(Hop(0.01, 0.11, ()), "tcp://x:1")
    assert (rtt.level, rate.what) == (
        Level.OK,
        "sending 200 kB to it takes 100 ms more than a small message (16.0 Mbit/s)",
    )
    _, rate = check_hop(Hop(0.01, 0.009, ()), "tcp://x:1")
    assert rate.what.endswith("hardly longer than a small message")
    slow, _ = check_hop(Hop(0.3, 0.3, ()), "tcp://x:1")
    assert slow.level is Level.WARN


def test_nodes_as_the_coordinator_sees_them() -> None:
    fine, slow = check_nodes((TARGET, DRAFT))
    assert (fine.level, slow.level) == (Level.OK, Level.WARN)
    assert "round trip to the coordinator 2.0 ms" in fine.what
    (none,) = check_nodes((DRAFT,))
    assert (none.level, none.mend) == (Level.FAIL, "start one: airdraft target")
    draining = NodeFields("target", "target", "big", True, False, 1, True, 0)
    (finding,) = check_nodes((draining,))
    assert (finding.level, finding.mend) == (Level.NOTE, "airdraft nodes undrain target")


def test_an_absent_coordinator_is_a_note() -> None:
    assert check_absent("tcp://x:1").level is Level.NOTE
