"""Small observations worked out by hand, and random ones."""

import functools
from dataclasses import replace

from hypothesis import strategies as st

from policies.baselines import POLICIES
from policies.explain.timeline import timeline_of
from policies.latency import CostTable, NodeCosts
from policies.plan import DraftView, Link, StreamView
from policies.problem import problem_of
from tests.policies.instances import observation


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


def numbered(seed, num_streams, own_media=False):
    """A random observation whose streams are numbered from 1."""
    seen = observation(seed, num_streams)
    views = tuple(replace(view, stream_id=k) for k, view in enumerate(seen.streams, 1))
    links = [replace(d.link, medium="" if own_media else d.link.medium) for d in seen.drafts]
    drafts = tuple(replace(d, link=link) for d, link in zip(seen.drafts, links, strict=True))
    return replace(seen, streams=views, drafts=drafts)


def observations(max_streams=8, **options):
    numbers = st.integers(0, 10**6), st.integers(1, max_streams)
    return st.builds(functools.partial(numbered, **options), *numbers)


NAMES = st.sampled_from(list(POLICIES))
