"""What is known of one target at the coordinator: its streams, their draft nodes and its plan.

The other modules have the functions that read and change it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from nodes.scheduler.comparison import Comparisons, Speculation
from nodes.scheduler.costs import ObservedSpeed, TargetCosts
from nodes.scheduler.drafts import Drafts
from nodes.scheduler.planning import MODES, OPEN_FLOW_PLAN, Hold, Mode, PlanResult
from nodes.scheduler.silences import Awaited, Silences
from nodes.scheduler.stream import Stream
from nodes.telemetry.counts import Counts
from nodes.worker.stream import StreamId, cells_soon
from policies.acceptance import AcceptanceEstimate
from policies.plan import Link, Plan

# Assumed before a pass was seen. By the time of a pass without guesses streams would choose the
# quickest draft node first: in a simulated cell of 200 kbit/s that cost 4 % of all tokens.
_UNSEEN_PASS_S: Final = 0.05


@dataclass(slots=True, eq=False)
class SchedulerState:
    """The streams of one target, and what was learnt of it.

    drafts: all draft nodes of the mesh, shared by the schedulers of all targets. usable: names of
    those that may draft for this target. inside: the draft model in the target's process, "" for
    none. alphas: by draft node, how often its guesses are right here. link: the target's link.
    speculation: whether draft nodes guess now. holds: by stream, what it waits for under the plan
    in force. last_result: the last plan that was made, whether it was put in force or not. unsent:
    by draft node, the streams of which it has not yet been sent all tokens. pass_s: the predicted
    seconds of the last pass without prompts. predicted_s: those of the last pass; 0.0 if it read
    too much of prompts to be predicted. num_stale: messages that came too late. is_plan_due: the
    caller should make a plan with begin_plan() and take_plan().
    """

    target: TargetCosts
    drafts: Drafts
    token_bits: int = 32
    name: str = ""
    counts: Counts = field(default_factory=Counts)
    mode: Mode = MODES["open"]
    looks_up: bool = False
    observed: ObservedSpeed = field(default_factory=ObservedSpeed)
    link: Link = field(default_factory=Link)
    streams: dict[StreamId, Stream] = field(default_factory=dict)
    usable: set[str] = field(default_factory=set)
    no_draft: str = "there is no draft node"
    inside: str = ""
    alphas: dict[str, AcceptanceEstimate] = field(default_factory=dict)
    unsent: dict[str, dict[StreamId, None]] = field(default_factory=dict)
    speculation: Speculation = Speculation.ON
    comparisons: Comparisons = field(default_factory=Comparisons)
    pass_s: float = _UNSEEN_PASS_S
    predicted_s: float = 0.0
    num_stale: int = 0
    plan: Plan = OPEN_FLOW_PLAN
    holds: dict[int, Hold] = field(default_factory=dict)
    last_result: PlanResult | None = None
    is_grouped: bool = False
    plan_at: float = 0.0
    is_plan_due: bool = False
    silences: Silences[Awaited] = field(default_factory=Silences)

    @property
    def admitted_cells(self) -> int:
        """The cells that admission counts for all streams, with room for each to grow."""
        return sum(cells_soon(len(s.token_ids), s.tokens_left) for s in self.streams.values())

    @property
    def used_cells(self) -> int:
        """The cells that the tokens of all streams take now, including parked ones."""
        return sum(len(stream.token_ids) for stream in self.streams.values())


def find_current(state: SchedulerState, stream_id: StreamId, generation: int) -> Stream | None:
    """Returns the stream that a message of the target is about, or counts the message as stale."""
    stream = state.streams.get(stream_id)
    if stream is None or stream.spec.generation != generation:
        state.num_stale += 1
        return None
    return stream
