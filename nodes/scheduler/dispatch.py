"""Which streams go when: leases, batches that start, rounds on their way to the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mesh.grants import Air
from nodes.messages import DraftRequest, GuessEntry, LeaseEntry, LeaseRequest, VerifyRequest
from nodes.scheduler.air import Asked, Way, shared_ways, ways_in_turn
from nodes.scheduler.cycle import Circulating, CycleState
from nodes.scheduler.drafting import trials
from nodes.scheduler.drafting.drafts import DraftPool
from nodes.scheduler.instructions import Instruction, ToDraft, ToTarget
from nodes.scheduler.leases import Leases, is_weighed
from nodes.scheduler.rounds import Round, RoundIds, Share
from nodes.scheduler.stream import Drafting, Idle, Leased, Stream, Verifying
from nodes.scheduler.texts import Texts
from nodes.scheduler.watching.watch import Watch
from nodes.stream import StreamId
from policies.plan import MAX_FREE_GAMMA


class Dispatcher:
    """The rounds of one target. It shares streams, draft nodes and plan with the scheduler."""

    def __init__(
        self,
        streams: Mapping[StreamId, Stream],
        drafts: DraftPool,
        cycle: CycleState,
        air: Air,
        watch: Watch,
        round_ids: RoundIds,
        prompts_s: Callable[[int], float],
    ) -> None:
        """prompts_s: seconds that prompts add now to a pass of so many other tokens."""
        self._prompts_s = prompts_s
        self.leases = Leases(streams, prompts_s)
        self._watch = watch
        self._streams = streams
        self._drafts = drafts
        self._cycle = cycle
        self._air = air
        self.rounds: dict[int, Round] = {}
        self._round_ids = round_ids
        self._texts = Texts(drafts, cycle, air, round_ids)

    def start(self, now: float) -> list[Instruction]:
        """Renew leases of plain streams, start the batches that may go."""
        leases: list[LeaseEntry] = []
        plain = [s for k in self._cycle.plain if (s := self._streams.get(StreamId(k))) is not None]
        for stream in plain:
            stream.has_no_match = False
        leases += self.leases.extend_all(plain)
        rounds: list[Instruction] = []
        behind: list[Stream] = []
        num_started = 0
        # Least recently started first: where only one may go at a time, all get their turn.
        for batch in sorted(self._cycle.batches, key=lambda batch: batch.round_id or 0):
            members = [s for k in batch.gammas if (s := self._streams.get(StreamId(k))) is not None]
            keep_step = self.leases.keep_step(members)
            found = self._look_up(batch, self.leases.toll_of_rounds(members, keep_step=keep_step))
            waits = keep_step and self.leases.lasting(members) > 0
            drafted = []
            for stream in self._ready_members(batch, now):
                gamma = min(batch.gammas[stream.spec.stream_id], stream.tokens_left - 1)
                if is_weighed(stream):
                    gamma = 0 if waits else len(found.get(stream.spec.stream_id, ()))
                if gamma > 0:
                    drafted.append((stream, gamma))
            some_go = any(found.values())
            some_drafted = not num_started and any(not is_weighed(s) for s, _ in drafted)
            num_leased, low, beside = self.leases.between_matches(
                members, keep_step=keep_step, some_go=some_go, some_drafted=some_drafted
            )
            for member in members:
                if member.is_away:
                    behind += [member] if member.is_behind else []
                    continue
                member.has_no_match = is_weighed(member) and not found.get(member.spec.stream_id)
                if member.has_no_match or (waits and is_weighed(member)):
                    # Until there is something to guess the target need not wait for rounds; and
                    # who has guesses goes on as long as those that are waited for.
                    if num_leased:
                        leases += member.extend_lease(num_leased, low, beside_rounds=beside)
                    continue
                # Who cannot guess any more, or not yet, or wants but one token, goes plainly.
                if _waits(member):
                    self._texts.note_waiting(member, now)
                    leases += self.leases.extend(member, shall_guess=True)
                    behind += [member] if member.is_behind else []
            if drafted and num_started:
                # Batches that start together are drafted and verified together from then on.
                batch.not_before = now + num_started * self._cycle.phase_s
            elif drafted:
                batch.round_id = self._round_ids.next
                batch.not_before = now + self._cycle.plan.min_cycle_s
                # What is weighed has rounds only where they pay: no lap like those of the plan.
                is_whole = len(drafted) == len(batch.gammas) and not any(
                    is_weighed(stream) for stream, _ in drafted
                )
                rounds += self._draft_round(drafted, batch, now, is_whole, keep_step, found)
            num_started += bool(drafted)
        behind += [stream for stream in plain if self._texts.is_being_told(stream)]
        rounds += self._texts.catch_up(behind, now)
        tried = trials.begin(plain, self._drafts, self._round_ids.next)
        self._round_ids.next += bool(tried)
        self._watch.trials_started(tried, now)
        rounds += tried
        return [ToTarget(LeaseRequest(tuple(leases))), *rounds] if leases else rounds

    def num_waiting(self) -> int:
        """Streams of the plan's batches that cannot guess, not yet or not any more."""
        planned = (s for batch in self._cycle.batches for s in batch.gammas)
        return sum(s in self._streams and _waits(self._streams[s]) for s in planned)

    def _look_up(
        self, batch: Circulating, toll: tuple[float, float]
    ) -> dict[StreamId, tuple[int, ...]]:
        """Guesses of lookup for those of a batch that it serves and that are not in a round.

        toll: as Leases.toll_of_rounds says.
        """
        lookup = self._drafts.lookup
        asked: dict[StreamId, tuple[int, ...]] = {}
        if lookup is None:
            return asked
        free = {}
        for member_id, gamma in batch.gammas.items():
            stream = self._streams.get(member_id)
            if stream is None or not stream.is_by_lookup:
                continue
            if not isinstance(stream.phase, Idle | Leased):
                continue
            weighed = is_weighed(stream)
            if weighed and self._cycle.plan.is_cheapest:
                # The plan's cap is for guesses as likely as they are on average: of these it is
                # known how likely they are.
                gamma, stop = MAX_FREE_GAMMA, 0.0
            else:
                stop = batch.stops.get(member_id, 0.0)
            found = lookup.propose(member_id, min(gamma, stream.tokens_left - 1), stop)
            if weighed:
                free[member_id] = found
            else:
                # What a client asked for is guessed whatever it costs.
                asked[member_id] = found.token_ids
        return asked | lookup.worth_sending(free, *toll)

    def _ready_members(self, batch: Circulating, now: float) -> Sequence[Stream]:
        """Who of a batch starts now: all that are back, or nobody yet.

        Streams that run out a lease are left behind. Members still in rounds of an older plan are
        waited for, unless the target would idle.
        """
        if batch.round_id in self.rounds or now < batch.not_before:
            return []
        if not self._cycle.plan.overlap and self.rounds:
            return []
        members = [self._streams[s] for s in batch.gammas if s in self._streams]
        is_away = any(stream.is_away for stream in members)
        if is_away and any(current.is_verifying for current in self.rounds.values()):
            return []
        return [
            stream
            for stream in members
            if isinstance(stream.phase, Idle) and stream.can_guess and not stream.is_behind
        ]

    def _draft_round(
        self,
        drafted: list[tuple[Stream, int]],
        batch: Circulating,
        now: float,
        is_whole: bool,
        keeps_step: bool,
        found: Mapping[StreamId, tuple[int, ...]],
    ) -> list[Instruction]:
        round_id = self._round_ids.take()
        by_node: dict[str, list[tuple[Stream, int]]] = {}
        guesses: dict[StreamId, tuple[int, ...]] = {}
        for stream, gamma in drafted:
            assert stream.draft is not None
            stream.phase = Drafting(round_id)
            stream.plain_reason = ""
            stream.drop_trial()
            if stream.is_by_lookup:
                guesses[stream.spec.stream_id] = found.get(stream.spec.stream_id, ())
                continue
            by_node.setdefault(stream.draft.node, []).append((stream, gamma))
        out: list[Instruction] = []
        shares = {}
        asked_of: list[Asked] = []
        # In the plan's order of turns.
        for name in sorted(by_node, key=batch.turn_of):
            entries = []
            new_token_ids: list[int] = []
            num_first = 0
            for stream, gamma in by_node[name]:
                num_first += stream.catch_up()
                stop = batch.stops.get(stream.spec.stream_id, 0.0)
                entries.append(stream.draft_entry(gamma, new_token_ids, stop))
            gammas = [gamma for _, gamma in by_node[name]]
            made = tuple(entries), tuple(new_token_ids)
            asked_of.append(Asked(self._drafts[name], *made, gammas, num_first))
        for asked_one, way in zip(asked_of, self._ways(asked_of, now), strict=True):
            node = asked_one.node
            times = asked_one.draft_s, asked_one.link_s + way.waits_s
            entries_, new_ids = asked_one.entries, asked_one.new_token_ids
            held_us, rate_bps = round(way.held_s * 1e6), way.rate_bps
            message = DraftRequest(round_id, entries_, new_ids, batch.ahead, held_us, rate_bps)
            out.append(ToDraft(node.name, message))
            node.num_waiting += 1
            ids = tuple(stream.spec.stream_id for stream, _ in by_node[node.name])
            shares[node.name] = Share(
                node,
                *times,
                node.num_waiting,
                ids,
                asked_one.num_first,
                node.pace.speed.factor,
                node.pace.detour_s,
                way.reserved,
            )
            for other in self.rounds.values():
                other.share_node(node.name, node.num_waiting)
        members_of_round = [stream.spec.stream_id for stream, _ in drafted]
        cycle = self._cycle
        laps_s = (cycle.cycle_s, cycle.lap_s(self._prompts_s)) if is_whole else (0.0, 0.0)
        asked = {stream.spec.stream_id: gamma for stream, gamma in drafted}
        current = Round(
            round_id,
            members_of_round,
            shares,
            now,
            *laps_s,
            asked,
            guesses,
            batch.ahead,
            keeps_step,
        )
        self.rounds[round_id] = current
        self._watch.round_started(current, self._cycle.batches, now)
        return out + self.verify_if_complete(current, now)

    def _ways(self, asked: Sequence[Asked], now: float) -> list[Way]:
        """How the answers of a round come back, each in its turn or with its share."""
        shared = [a for a in asked if a.node.link.medium and a.node.link.shares]
        alone = [a for a in asked if not (a.node.link.medium and a.node.link.shares)]
        ways = shared_ways(self._air, shared, now)
        turns = ways_in_turn(self._air, alone, now)
        ways.update({a.node.name: way for a, way in zip(alone, turns, strict=True)})
        return [ways[a.node.name] for a in asked]

    def leave(self, stream: Stream, now: float) -> list[Instruction]:
        phase = stream.phase
        if not isinstance(phase, Drafting | Verifying):
            return []
        current = self.rounds.get(phase.round_id)
        if current is None:
            return []
        current.stream_ids.remove(stream.spec.stream_id)
        if not current.stream_ids:
            current.ended()
            del self.rounds[phase.round_id]
            return []
        if current.is_verifying:
            return []
        # A draft node that drafts for no other stream of the round is not waited for.
        for name, share in list(current.shares.items()):
            if not set(share.stream_ids) & set(current.stream_ids):
                current.drop_share(name)
        return self.verify_if_complete(current, now)

    def verify_if_complete(self, current: Round, now: float) -> list[Instruction]:
        if current.shares or current.is_verifying:
            return []
        current.is_verifying = True
        entries = []
        draft_token_ids: list[int] = []
        for stream_id in current.stream_ids:
            stream = self._streams[stream_id]
            # Whoever has no guesses takes a plain step in the same pass.
            guesses = current.guesses.get(stream_id, ())
            draft_token_ids += guesses
            stream.phase = Verifying(current.round_id)
            entries.append(
                GuessEntry(stream_id, stream.spec.generation, len(stream.token_ids), len(guesses))
            )
        request = VerifyRequest(current.round_id, tuple(entries), tuple(draft_token_ids))
        self._watch.verify_sent(request, now)
        way = self._drafts.way
        if way.link.medium:
            size = len(entries), len(draft_token_ids)
            pass_s = self._watch.predicted_pass_s(request)
            current.answer = way.verify_sent(*size, pass_s, now)
        return [ToTarget(request)]

    def next_deadline(self) -> float | None:
        """When `tick` must be called at the latest."""
        pending = [r.deadline for r in self.rounds.values() if r.shares]
        pending += [
            batch.not_before
            for batch in self._cycle.batches
            if batch.not_before and batch.round_id not in self.rounds
        ]
        return min(pending, default=None)


def _waits(stream: Stream) -> bool:
    """Whether a stream that shall guess cannot, not yet or not any more."""
    return stream.is_behind or not stream.can_guess or stream.tokens_left <= 1
