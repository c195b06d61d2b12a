"""What becomes of rounds: counts, predicted against observed times, records while somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from nodes.messages import CommitEntry, CommitReply, DraftRequest, VerifyRequest
from nodes.scheduler.cycle import Circulating
from nodes.scheduler.drafting.tries import Trial
from nodes.scheduler.instructions import Instruction, ToDraft
from nodes.scheduler.observe import pass_size
from nodes.scheduler.rounds import Round, Share
from nodes.scheduler.stream import Stream, Verifying
from nodes.scheduler.watching.counts import MOST_S, Counts
from nodes.scheduler.watching.recorder import Recorder
from nodes.scheduler.watching.stage_errors import Stage, StageErrors
from nodes.stream import StreamId
from policies.plan import Observation, Plan

PredictPass = Callable[[int, float], float]


class Watch:
    """Hooks of one scheduler. Without a recorder they cost next to nothing.

    predict_pass_s: seconds of a target pass by tokens and the cells of their own sequences.
    target, counts: whose scheduler it is, and what is counted of it.
    """

    def __init__(
        self, predict_pass_s: PredictPass, target: str = "", counts: Counts | None = None
    ) -> None:
        self.errors = StageErrors()
        self.counts = counts if counts is not None else Counts()
        self._target = target
        self._predict_pass_s = predict_pass_s
        self._recorder: Recorder | None = None
        self._last: tuple[Observation, Plan] | None = None

    def record(self, recorder: Recorder | None, now: float) -> None:
        """Tell a recorder from now on, of the plan in force first; None: nobody any more."""
        self._recorder = recorder
        if recorder is not None and self._last is not None:
            recorder.planned(*self._last, now)

    def planned(self, observation: Observation, plan: Plan, now: float) -> None:
        self._last = observation, plan
        if self._recorder is not None:
            self._recorder.planned(observation, plan, now)

    def round_started(self, current: Round, batches: Sequence[Circulating], now: float) -> None:
        number, stops = 0, dict[StreamId, float]()
        for k, batch in enumerate(batches):
            if batch.round_id == current.round_id:
                number, stops = k + 1, batch.stops
        gammas = tuple(current.asked.values())
        self.counts.round_started(current.round_id, number, gammas)
        if self._recorder is not None:
            self._recorder.round_started(current, number, stops, now)

    def drafted(
        self,
        current: Round,
        share: Share,
        made_s: float,
        draft_s: float,
        now: float,
        ahead: tuple[int, int] = (0, 0),
    ) -> None:
        """made_s: predicted for the guesses made; 0.0 where others' rounds were in the way. ahead:
        as in Recorder.drafted."""
        if draft_s > 0.0:
            # A node cannot have taken longer than it took to hear from it.
            draft_s = min(draft_s, now - current.started)
            self._observe("draft", draft_s, made_s)
            self._observe("link", now - current.started - draft_s, share.link_s)
        # As in traces: it was through half a round trip ago.
        end = max(current.started, now - share.node.link.rtt_s / 2)
        start = max(current.started, end - draft_s) if draft_s > 0.0 else current.started
        num_guesses = sum(len(current.guesses.get(s, ())) for s in share.stream_ids)
        self.counts.drafted(current.round_id, share.node.name, start, end, num_guesses)
        if self._recorder is not None:
            node, rtt_s = share.node, share.node.link.rtt_s
            times = draft_s, made_s, rtt_s, now
            self._recorder.drafted(current.round_id, node.name, *times, ahead)

    def given_up(self, current: Round, nodes: Iterable[str], now: float) -> None:
        names = tuple(nodes)
        self.counts.num_late += len(names)
        if self._recorder is not None:
            self._recorder.given_up(current.round_id, names, now)

    def predicted_pass_s(self, request: VerifyRequest) -> float:
        """Seconds of the pass that it asks for; 0.0 if that is not known."""
        return self._predict_pass_s(*pass_size(request.entries))

    def verify_sent(self, request: VerifyRequest, now: float) -> None:
        if self._recorder is not None:
            num_tokens, _ = pass_size(request.entries)
            predicted_s = self.predicted_pass_s(request)
            self._recorder.verify_sent(request.round, num_tokens, predicted_s, now)

    def committed(
        self,
        reply: CommitReply,
        predicted_s: float,
        streams: Mapping[StreamId, Stream],
        now: float,
    ) -> None:
        """Must come before streams are told, whose phases say what the pass was to them."""
        self._observe("pass", reply.pass_s, predicted_s)
        num_tokens, round_id = reply.num_read_tokens, 0
        for entry in reply.entries:
            num_tokens += entry.num_draft_tokens + 1
            if not round_id and (stream := streams.get(StreamId(entry.stream_id))) is not None:
                phase = stream.phase
                round_id = phase.round_id if isinstance(phase, Verifying) else 0
        self.counts.pass_done(self._target, reply.pass_s, round_id, num_tokens, now)
        if self._recorder is None:
            return
        entries: list[tuple[CommitEntry, int]] = []
        for entry in reply.entries:
            stream = streams.get(StreamId(entry.stream_id))
            # As in the journal: what does not follow it was not committed.
            if stream is not None and (stream.spec.generation, len(stream.token_ids)) == (
                entry.generation,
                entry.prefix_len,
            ):
                phase = stream.phase
                entries.append((entry, phase.round_id if isinstance(phase, Verifying) else 0))
        self._recorder.committed(reply.pass_s, predicted_s, entries, now, reply.num_read_tokens)

    def lap_done(self, current: Round, now: float) -> None:
        self._observe("lap", now - current.started, current.predicted_s)
        self.counts.lap_done(now - current.started)
        if self._recorder is not None:
            self._recorder.lap_done(current, now)

    def _observe(self, stage: Stage, observed_s: float, predicted_s: float) -> None:
        observed_s = min(observed_s, MOST_S)
        self.errors.observe(stage, observed_s, predicted_s)
        self.counts.ratios[stage].observe(observed_s, predicted_s)

    def trials_started(self, requests: Iterable[Instruction], now: float) -> None:
        if self._recorder is None:
            return
        for request in requests:
            if isinstance(request, ToDraft) and isinstance(request.message, DraftRequest):
                stream_ids = [entry.stream_id for entry in request.message.entries]
                self._recorder.trial_started(request.message.round, request.node, stream_ids, now)

    def trial_answered(
        self, round_id: int, node: str, draft_s: float, rtt_s: float, now: float
    ) -> None:
        if self._recorder is not None:
            self._recorder.drafted(round_id, node, draft_s, 0.0, rtt_s, now)

    def trial_decided(self, stream_id: StreamId, trial: Trial, num_right: int, now: float) -> None:
        if self._recorder is not None:
            num_guesses = len(trial.guesses or ())
            self._recorder.trial_decided(stream_id, num_guesses, num_right, now)
