"""What is known of one target at the coordinator: its streams, draft nodes, costs and plan. Pure.

The other modules have the functions that read and change it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from airdraft.nodes.messages import CommitReply
from airdraft.nodes.scheduler.comparison import Comparisons, Speculation
from airdraft.nodes.scheduler.drafts import Drafts
from airdraft.nodes.scheduler.planning import MODES, OPEN_FLOW_PLAN, Hold, Mode, PlanResult
from airdraft.nodes.scheduler.silences import Awaited, Silences
from airdraft.nodes.scheduler.stream import Stream
from airdraft.nodes.telemetry.counts import Counts
from airdraft.nodes.worker.stream import PROMPT_PIECE_TOKENS, StreamId, cells_soon
from airdraft.policies.acceptance import AcceptanceEstimate
from airdraft.policies.latency import MAX_RATIO, PASS_RATE, Load, NodeCosts, TableRefit
from airdraft.policies.plan import Link, Plan

# Assumed before a pass was seen. By the time of a pass without guesses streams would choose the
# quickest draft node first: in a simulated cell of 200 kbit/s that cost 4 % of all tokens.
_UNSEEN_PASS_S: Final = 0.05
# The share of prompts is capped, because decoding goes on beside any number of them.
_MAX_PREFILL_SHARE: Final = 0.8
# So long a target's observed speed counts without a further pass.
_SEEN_FOR_S: Final = 60.0


class TargetCosts:
    """Costs of one target, and the share of its time spent on prompts.

    calibrated: seconds of a pass by its tokens, of prompts as well, as the target declared them;
    decode: the same, refitted from passes that read no prompts.
    """

    def __init__(self, calibrated: NodeCosts) -> None:
        self.calibrated = calibrated.decode
        self._prefill = calibrated.prefill
        self._prompts = Load()
        self.forget()

    def forget(self) -> None:
        """Forget what passes have taken since the calibration."""
        self.decode = TableRefit(self.calibrated)

    def now(self, own_cells: float = 0.0) -> NodeCosts:
        """Returns the present costs for streams that have own_cells cells each."""
        return NodeCosts(self.decode.table.with_own(own_cells), self._prefill)

    def prefill_share(self, now: float) -> float:
        return min(_MAX_PREFILL_SHARE, self._prompts.share(now))

    def read_beside(self, num_tokens: int, num_decoded: int, own_cells: float, now: float) -> None:
        """Record that a pass of num_decoded tokens also read num_tokens tokens of prompts."""
        decode = self.decode.table.with_own(own_cells)
        piece_s = decode.at(num_decoded + num_tokens) - decode.at(num_decoded)
        self._prompts.add(max(0.0, piece_s), now)

    def reading_s(self, num_tokens: int, num_others: int) -> float:
        """Returns the seconds that reading a text takes beside num_others decoding streams."""
        if num_others == 0:
            size = self._prefill.sizes[-1]
            return num_tokens / size * self._prefill.at(size)
        decode = self.decode.table.with_own(num_tokens / 2)
        return num_tokens / PROMPT_PIECE_TOKENS * decode.at(num_others + PROMPT_PIECE_TOKENS)

    def expected_s(self, num_tokens: int, used_cells: int, own_cells: float, now: float) -> float:
        """Returns the mean seconds of a pass that decodes num_tokens, prompt pieces included."""
        seconds = self.decode.table.at(num_tokens, used_cells, own_cells)
        return seconds / (1.0 - self.prefill_share(now))


class ObservedSpeed:
    """How long passes of a target take by the coordinator's own clock, to the predicted times.

    Targets are compared by this, because whatever they report of themselves may be wrong.
    num_passes: those that were observed. ratio: the mean of observed / predicted times.
    """

    def __init__(self) -> None:
        self.num_passes = 0
        self.ratio = 1.0
        self._last: tuple[float, frozenset[int]] = (0.0, frozenset())

    def is_old(self, now: float) -> bool:
        """Whether the target has had no pass for a minute."""
        return now - self._last[0] > _SEEN_FOR_S

    def passed(self, reply: CommitReply, predicted_s: float, now: float) -> None:
        """Note a pass. Its time is known where a stream decoded in the one before as well."""
        at, before = self._last
        self._last = now, frozenset(entry.stream_id for entry in reply.entries)
        if predicted_s <= 0.0 or reply.num_read_tokens or before.isdisjoint(self._last[1]):
            return
        self.num_passes += 1
        rate = max(PASS_RATE, 1.0 / self.num_passes)
        # A stall of the coordinator or of the link says nothing of the target.
        most = MAX_RATIO * self.ratio if rate == PASS_RATE else math.inf
        found = (now - at) / (predicted_s + reply.turn_s)
        self.ratio += rate * (min(most, found) - self.ratio)


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
