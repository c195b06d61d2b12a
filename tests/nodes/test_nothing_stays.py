"""When all requests are over, no state refers to any of them, however they ended."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import FunctionType, ModuleType

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from nodes.coordinator.requests.request import Choice, Request
from nodes.draft.followed import Followed
from nodes.scheduler.planning import Wait
from nodes.scheduler.stream import Figures, Follow, NodeBackoff, Stream
from nodes.target.composing import Chosen, Hold
from nodes.target.stream import GuessBuffer, TargetStream
from nodes.worker.stream import StreamSpec
from tests.nodes.cluster_case import ClusterCase
from tests.nodes.pure_cluster import PureCluster
from tests.nodes.test_law1 import NUM_CASES, cluster_cases

# What is made for a request and is of no use after it.
OF_REQUESTS = (
    *(Request, Choice, StreamSpec, Stream, Follow, Figures, NodeBackoff, Wait),
    *(TargetStream, GuessBuffer, Hold, Chosen, Followed),
)


def reachable(*roots: object) -> Iterator[object]:
    """Everything that these refer to, but for code."""
    seen = {id(root) for root in roots}
    left = list(roots)
    while left:
        item = left.pop()
        yield item
        if isinstance(item, type | ModuleType):
            continue
        # Its module's globals are everybody's.
        found = item.__closure__ or () if isinstance(item, FunctionType) else gc.get_referents(item)
        for other in found:
            if id(other) not in seen:
                seen.add(id(other))
                left.append(other)


def test_what_refers_to_a_request_is_found() -> None:
    spec = object.__new__(StreamSpec)
    assert any(item is spec for item in reachable({"a": [(lambda: spec)]}))


@pytest.mark.slow
@pytest.mark.timeout(max(300, NUM_CASES // 2))
@settings(
    max_examples=NUM_CASES // 10,
    suppress_health_check=list(HealthCheck),
    database=None,
    # To find a smaller one of what fails takes minutes.
    phases=(Phase.generate,),
)
@given(case=cluster_cases())
def test_nothing_of_a_request_stays(case: ClusterCase) -> None:
    cluster = PureCluster(case)
    cluster.run()
    # Who has lost the coordinator forgets all when it is welcomed anew.
    nodes = [node.engine for node in cluster.nodes if node.peer and node.is_in]
    engines = [node.engine for node in nodes if node is not None]
    left = {
        type(item).__name__
        for item in reachable(cluster.state, *engines)
        if isinstance(item, OF_REQUESTS)
    }
    assert left == set()
    state = cluster.state
    assert not any(node.followed or node.num_unread for node in state._drafts)
    for scheduler in state.schedulers:
        assert scheduler.ended == scheduler.waits == {}
    assert state._serving.ledger._ids_of_client == {}
    tokenizing = state._serving.ledger.tokenizing
    assert not any(tokenizing._queues.values())
    assert tokenizing._number_of == {}
    holdings = state._serving.ledger.holdings
    assert holdings._of_request == {} == +holdings._of_connection == +holdings._of_tenant
