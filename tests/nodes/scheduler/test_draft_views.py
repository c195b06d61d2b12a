"""What plans are told of draft nodes and of the media that these share."""

from __future__ import annotations

import pytest

from nodes.scheduler.drafting.draft_node import DraftNode
from nodes.scheduler.drafting.drafts import DraftPool
from nodes.scheduler.instructions import ToDraft
from nodes.scheduler.stream import Stream
from policies.plan import Link
from tests.nodes.builders import make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS


def test_rounds_have_what_texts_leave_of_a_medium() -> None:
    """A node's texts take the air of all nodes that share it, for as long as new ones come."""
    pool = DraftPool()
    for name, medium in (("a", "cell"), ("b", "cell"), ("c", "")):
        link = Link(20e3, medium=medium, frame_s=1e-3)
        pool.add(DraftNode(name, DRAFT_COSTS, link, num_streams=1))
    assert {view.link.rate_bps for view in pool.views(0.0)[0]} == {20e3}
    spec = make_spec(1, prompt=(5,) * 300)
    stream = Stream(spec, list(spec.token_ids), None)
    (opened,) = [told.node for told in pool.place(stream) if isinstance(told, ToDraft)]
    told_s = pool[opened].message_s(1, 300)
    assert told_s > 0.4
    links = {view.name: view.link for view in pool.views(10.0)[0]}
    sharing = {"a", "b"} if opened in ("a", "b") else {"c"}
    for name, link in links.items():
        # Of the last ten seconds or so.
        free = 1.0 - told_s / 10.0 if name in sharing else 1.0
        assert link.rate_bps == pytest.approx(20e3 * free)
        assert link.frame_s == pytest.approx(1e-3 / free)
    later = {view.name: view.link.rate_bps for view in pool.views(100.0)[0]}
    assert min(later.values()) > 0.999 * 20e3


def test_a_plan_knows_the_nodes_of_its_streams_only_and_what_others_leave_of_their_medium() -> None:
    """Of a pool of many nodes, which a plan would take as long as they are many."""
    pool = DraftPool()
    for name in ("a", "b", "c"):
        pool.add(DraftNode(name, DRAFT_COSTS, Link(20e3, medium="cell")))
    spec = make_spec(1, prompt=(5,) * 300)
    told = pool.place(Stream(spec, [5] * 300, None))
    (opened,) = [instruction.node for instruction in told if isinstance(instruction, ToDraft)]
    other = next(node for node in pool if node.name != opened)
    other.told_s = 1.0
    views, _ = pool.views(10.0)
    assert [view.name for view in views] == [opened]
    told_s = pool[opened].message_s(1, 300)
    assert views[0].link.rate_bps == pytest.approx(20e3 * (1.0 - (told_s + 1.0) / 10.0))
