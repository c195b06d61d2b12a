"""Small observations worked out by hand, and random ones."""

from hypothesis import strategies as st

from policies.baselines import POLICIES
from policies.explain.timeline import timeline_of
from policies.latency import CostTable, NodeCosts
from policies.plan import (
    DraftView,
    Link,
    Observation,
    StreamView,
)
from policies.problem import problem_of


def flat(seconds):
    """A node on which any pass takes the same time."""
    table = CostTable((1, 1000), (seconds, seconds))
    return NodeCosts(table, table)


def line(first_s, slope_s):
    """A node on which every further token of a pass takes slope_s."""
    table = CostTable((1, 1001), (first_s, first_s + 1000 * slope_s))
    return NodeCosts(table, table)


def stream(number, alpha=0.8, gamma=2, draft="a", **more):
    return StreamView(number, alpha, 500, fixed_gamma=gamma, draft=draft, **more)


# A message takes 1 ms of the medium whatever its size, 10 ms there and back.
LINK = Link(rtt_s=0.010, frame_s=0.001)
NODE = DraftView("a", flat(0.010), LINK)
SHARED = Link(rtt_s=0.010, frame_s=0.001, medium="cell")


def played(observation, policy, num_cycles=2):
    plan = POLICIES[policy](observation)
    return plan, timeline_of(problem_of(observation), plan, num_cycles)


def in_ms(timeline):
    """Spans of each lane in ms: (batch, start, end)."""
    return {
        f"{lane.kind} {lane.name}".strip(): [
            (s.batch, round(1e3 * s.start_s, 6), round(1e3 * s.end_s, 6)) for s in lane.spans
        ]
        for lane in timeline.lanes
    }


def lone_price_s(gamma, alpha):
    """A stream alone on NODE and a target of line(0.040, 0.002): its round over what it earns."""
    if gamma == 0:
        return 0.040
    earned = sum(alpha**k for k in range(gamma + 1))
    return (0.010 * gamma + 0.012 + 0.040 + 0.002 * gamma) / earned


def free(number, alpha):
    return StreamView(number, alpha, 500, draft="a")


MS = st.integers(1, 60).map(lambda ms: ms * 1e-3)


@st.composite
def observations(draw, max_streams=8, max_nodes=3, rate_bps=20e3, own_media=False):
    num_nodes = draw(st.integers(1, max_nodes))
    nodes = [
        DraftView(
            f"n{j}",
            line(draw(MS), draw(MS) / 20),
            Link(
                rate_bps=rate_bps * draw(st.integers(1, 50)),
                rtt_s=draw(MS),
                medium="" if own_media else draw(st.sampled_from(["", "x", "y"])),
                frame_s=draw(MS) / 10,
            ),
        )
        for j in range(num_nodes)
    ]
    streams = [
        StreamView(
            number,
            draw(st.floats(0.05, 0.98)),
            draw(st.integers(1, 300)),
            fixed_gamma=draw(st.sampled_from([None, None, None, 0, 2, 12])),
            draft=draw(st.sampled_from([None, *(n.name for n in nodes), *(n.name for n in nodes)])),
            weight=draw(st.sampled_from([1.0, 1.0, 3.0])),
        )
        for number in range(1, draw(st.integers(1, max_streams)) + 1)
    ]
    return Observation(
        tuple(streams),
        line(draw(MS), draw(MS) / 20),
        tuple(nodes),
        prefill_share=draw(st.sampled_from([0.0, 0.3])),
    )


NAMES = st.sampled_from(list(POLICIES))
