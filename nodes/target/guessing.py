"""The guesses of a target's passes: who makes them, and which of them a pass takes."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from airdraft.nodes.engine.protocol import EngineError, Model, Span
from airdraft.nodes.messages import MAX_GAMMA, MAX_TOP_LOGPROBS
from airdraft.nodes.target.lookup import Lookup
from airdraft.nodes.target.proposals import Proposer
from airdraft.nodes.target.residents import Residents
from airdraft.nodes.target.stream import NOTHING, Chosen, TargetStream
from airdraft.nodes.target.turns import Turns
from airdraft.nodes.worker.stream import PROMPT_PIECE_TOKENS, StreamId, StreamSpec
from airdraft.policies.guesses import TIMES_AGAIN, Offer, composed, composed_equal
from airdraft.policies.latency import CostColumns, CostTable, TableRefit


class Guessing:
    """Chooses guesses by the costs of passes, which it corrects by their times.

    turns: guesses with a draft model of this process, or None.
    """

    def __init__(
        self, model: Model, residents: Residents, decode: CostTable, turns: Turns | None
    ) -> None:
        self._model = model
        self._residents = residents
        self._columns = CostColumns(decode)
        self._turns = turns
        self._proposers: list[Proposer] = [Lookup(), *([turns] if turns is not None else [])]
        # Streams that were open when the draft model was attached, and that it does not follow yet.
        self._unfollowed: dict[StreamId, TargetStream] = {}
        # Whether the last step was one of the draft model in this process.
        self._is_turn = False
        # Whether the next pass has guesses of that model; None if its streams want a fixed number.
        self._is_guessed: bool | None = None
        # Tokens, used cells and own cells of the last pass; None if it read prompts, because then
        # its time is not used for the table.
        self._last_pass: tuple[int, int, float] | None = None

    @property
    def _costs(self) -> TableRefit:
        return self._columns.of(self._model.num_threads)

    @property
    def turn_s(self) -> float:
        """Seconds of the draft's steps since the last pass."""
        return self._turns.turn_s if self._turns is not None else 0.0

    def open(self, spec: StreamSpec) -> None:
        with self._spared():
            for proposer in self._proposers:
                proposer.open(spec)

    def committed(self, stream_id: StreamId, token_ids: Sequence[int]) -> None:
        with self._spared():
            for proposer in self._proposers:
                proposer.committed(stream_id, token_ids)

    def attach(self, turns: Turns, streams: Iterable[TargetStream]) -> None:
        """Guess with a draft model from now on, also for the streams that are open."""
        self._turns = turns
        self._proposers.append(turns)
        self._unfollowed = {stream.spec.stream_id: stream for stream in streams}

    def _drop(self, turns: Turns, error: str = "") -> None:
        self._turns = None
        self._proposers.remove(turns)
        self._unfollowed.clear()
        turns.dropped(error)

    def ended(self, stream_id: StreamId) -> None:
        self._unfollowed.pop(stream_id, None)
        with self._spared():
            for proposer in self._proposers:
                proposer.ended(stream_id)

    def clear(self) -> None:
        with self._spared():
            for proposer in self._proposers:
                proposer.clear()

    @contextmanager
    def _spared(self) -> Iterator[None]:
        """Drop the draft model in this process if it fails. The target goes on without it."""
        try:
            yield
        except EngineError as error:
            # Of all proposers only this one has an engine, and it is the last.
            if self._turns is not None:
                self._drop(self._turns, str(error))

    def take_turn(self, decoding: Sequence[TargetStream]) -> bool:
        """Run a step of the draft model in this process if one pays before the pass of these
        streams; returns whether one has run."""
        if self._turns is None or not decoding:
            return False
        with self._spared(), self._turns.at_work:
            if self._unfollowed:
                # One before each pass, because a long text with rules takes some milliseconds.
                _, stream = self._unfollowed.popitem()
                self._turns.open(replace(stream.spec, token_ids=tuple(stream.token_ids)))
            self._is_turn = self._step(self._turns, decoding)
        return self._is_turn

    def _step(self, turns: Turns, decoding: Sequence[TargetStream]) -> bool:
        waiting, num_read = self._waiting()
        own_cells = sum(len(stream.token_ids) for stream in decoding) / len(decoding)
        others = [proposer for proposer in self._proposers if proposer is not turns]
        at = partial(self._costs.table.at, used_cells=self._used_cells, own_cells=own_cells)
        num_own, num_pending = len(decoding) + len(waiting), sum(map(self._pending, decoding))

        def pass_s(num_tokens: int) -> float:
            """Returns the seconds of a pass, with the tokens that it computes again."""
            if self._model.info.can_cut:
                return at(num_tokens)
            rows = max(1.0, self._times_again) * (num_tokens - num_own)
            return at(num_own + num_pending + rows)

        return turns.step(
            decoding,
            lambda stream: best_of(stream, others, MAX_GAMMA)[1],
            pass_s,
            num_others=len(waiting),
            most=self._room(self._model.info.max_batch_tokens - len(decoding) - num_read),
        )

    def choose(
        self, decoding: Sequence[TargetStream], budget: int, score_budget: int
    ) -> list[Chosen]:
        """Returns the guesses of each stream for the pass.

        They leave room for a piece of a waiting text, so that none waits for guesses to become
        fewer.
        """
        self._is_guessed = None
        if not any(stream.buffer or stream.spec.num_guesses for stream in decoding):
            return [NOTHING] * len(decoding)
        waiting, num_read = self._waiting()
        chosen = compose(
            decoding,
            waiting,
            self._costs.table,
            self._proposers,
            num_read=num_read,
            used_cells=self._used_cells,
            room=self._room(min(budget - num_read, score_budget // (MAX_TOP_LOGPROBS + 1))),
            pending=None if self._model.info.can_cut else list(map(self._pending, decoding)),
            times_again=self._times_again,
        )
        # A number that a client fixes, 0 too, says nothing of what guesses are worth.
        if all(stream.spec.num_guesses < 0 for stream in decoding):
            self._is_guessed = any(each.token_ids and each.source == "turns" for each in chosen)
        return chosen

    @property
    def _times_again(self) -> float:
        """How often a model with recurrent layers computes a pending token again."""
        return 0.0 if self._model.info.num_snapshots else TIMES_AGAIN

    def _pending(self, stream: TargetStream) -> int:
        """Returns how many tokens of a stream its next pass computes again."""
        return self._model.num_pending(stream.seq_id) if stream.seq_id is not None else 0

    def _waiting(self) -> tuple[list[TargetStream], int]:
        """Returns the streams whose texts are being read, and how much of them a pass reads."""
        waiting = [stream for stream in self._residents if self._residents.missing(stream)]
        return waiting, min(sum(map(self._residents.missing, waiting)), PROMPT_PIECE_TOKENS)

    def _room(self, most: int) -> int:
        """Returns how many guesses fit in a pass: they take free cells only, so that no stream is
        parked for them. A text whose last piece is read may also decode its first token."""
        return max(0, min(-self._residents.shortage(), most))

    @property
    def _used_cells(self) -> int:
        return self._model.info.num_cells - self._model.free_cells()

    def pass_s(self, num_tokens: int) -> float:
        """Returns the seconds of a pass of so many tokens, with all cells that are used now."""
        return self._costs.table.at(num_tokens, self._used_cells)

    def begin(self, spans: Sequence[Span], num_read: int) -> None:
        """Note what the next pass runs. num_read: tokens of prompts in it."""
        self._last_pass = None
        if not spans or num_read:
            return
        sizes = [len(span.token_ids) + self._model.num_pending(span.seq_id) for span in spans]
        if not self._model.info.can_cut:
            # They are made equally long.
            sizes = [max(sizes)] * len(sizes)
        own = sum(span.start * size for span, size in zip(spans, sizes, strict=True))
        self._last_pass = sum(sizes), self._used_cells, own / sum(sizes)

    def passed(self, seconds: float, committed: Mapping[StreamId, int]) -> bool:
        """Learn from the seconds of the last step; returns whether it was a pass.

        committed: tokens that the pass committed, by stream.
        """
        if self._turns is not None and self._is_turn:
            self._is_turn = False
            self._turns.stepped(seconds)
            return False
        tokens, plain_s, num = 0.0, 0.0, len(committed)
        if self._last_pass is not None:
            num_tokens, used_cells, own_cells = self._last_pass
            self._costs.observe(num_tokens, seconds, used_cells, own_cells)
            if num:
                plain_s = self._costs.table.at(num, used_cells, own_cells)
                tokens = sum(committed.values()) / num
        if self._turns is not None:
            self._turns.passed(seconds, tokens, plain_s, self._is_guessed)
            if self._turns.savings.is_low:
                self._drop(self._turns)
        return True


def compose(
    decoding: Sequence[TargetStream],
    reading: Sequence[TargetStream],
    costs: CostTable,
    proposers: Sequence[Proposer],
    *,
    num_read: int,
    used_cells: int,
    room: int,
    pending: Sequence[int] | None = None,
    times_again: float = 0.0,
) -> list[Chosen]:
    """Returns the guesses of each decoding stream for the pass.

    reading: streams whose texts are being read. A longer pass delays them like the others, so they
    count as if they had a token in it, too. num_read: tokens of prompts that the pass also reads.
    used_cells: used cells of the cache. room: most guesses that fit. pending: tokens of each
    decoding stream that the pass computes again, if the model takes guesses back in that way. A
    stream whose client fixed the number of guesses gets that many, if they are present.
    """
    chosen, offers = list[Chosen](), list[Offer]()
    num_given, given_gain = 0, 0.0
    again = pending or [0] * len(decoding)
    # So the weighted sum of seconds a token is minimised.
    weights = [stream.spec.weight / stream.tokens_a_pass for stream in decoding]
    own = [len(stream.token_ids) for stream in decoding]
    for stream, weight, num_pending in zip(decoding, weights, again, strict=True):
        most = min(MAX_GAMMA, stream.tokens_left - 1, room - num_given) if stream.may_guess else 0
        fixed = stream.spec.num_guesses
        if fixed >= 0:
            most = min(most, fixed)
        if num_pending >= MAX_GAMMA:
            # It is brought up to date first, so that pending tokens do not grow with each pass.
            most = 0
        best, likely = best_of(stream, proposers, max(0, most))
        chosen.append(best)
        if fixed >= 0:
            num_given += len(best.token_ids)
            given_gain += weight * sum(likely)
            likely = []
        offers.append(Offer(weight, likely, len(best.token_ids) if fixed >= 0 else 0, num_pending))
    # After those of the decoding streams, so that the first counts are for these.
    offers += [
        Offer(stream.spec.weight / stream.tokens_a_pass, [], num_pending=None) for stream in reading
    ]
    own_cells = sum(own) / max(1, len(own))
    choose = composed if pending is None else partial(composed_equal, times_again=times_again)
    counts = choose(
        offers,
        lambda num_tokens: costs.at(num_tokens, used_cells, own_cells),
        given_gain=given_gain,
        num_read=num_read,
        most=max(0, room - num_given),
    )
    return [
        best if stream.spec.num_guesses >= 0 else replace(best, token_ids=best.token_ids[:count])
        for stream, best, count in zip(decoding, chosen, counts[: len(decoding)], strict=True)
    ]


def best_of(
    stream: TargetStream, proposers: Sequence[Proposer], most: int
) -> tuple[Chosen, list[float]]:
    """Returns the guesses of a draft node or a proposer, whichever promise more accepted tokens.

    Second, for each guess the chance that it and all before it are right.
    """
    token_ids, chances = stream.buffer.after(len(stream.token_ids))
    num_offered = min(MAX_GAMMA, len(token_ids))
    best, source, likely = token_ids, NOTHING.source, _likely(chances[:most])
    first = max(chances[:1], default=0.0)
    for proposer in proposers:
        found = proposer.propose(stream.spec.stream_id, most)
        first = max([first, *found.chances[:1]])
        if sum(proposed := _likely(found.chances[:most])) > sum(likely):
            best, source, likely = found.token_ids, proposer.source, proposed
    return Chosen(tuple(best[:most]), source, num_offered, first), likely


def _likely(chances: Sequence[float]) -> list[float]:
    """Returns for each guess the chance that it and all before it are right."""
    return list(itertools.accumulate(chances, operator.mul))


def ready_at(stream: TargetStream) -> float:
    """Returns the time when a stream's wait ends; -inf if it waits for nothing (any longer)."""
    hold = stream.hold
    if hold is None:
        return -math.inf
    guesses, _ = stream.buffer.after(len(stream.token_ids))
    if len(guesses) >= min(hold.num_guesses, stream.tokens_left - 1):
        return -math.inf
    return stream.last_commit_at + hold.hold_us * 1e-6


def eligible_at(streams: Iterable[TargetStream]) -> dict[int, float]:
    """Returns for each group the time when the waits of all its members have ended."""
    found: dict[int, float] = {}
    for stream in streams:
        if stream.hold is not None:
            group = stream.hold.group
            found[group] = max(found.get(group, -math.inf), ready_at(stream))
    return found


def wait_s(decoding: Sequence[TargetStream], now: float) -> float:
    """Returns the seconds until the first group's wait ends; 0.0 if a stream is in no group."""
    if not all(stream.hold for stream in decoding):
        return 0.0
    return max(0.0, min(eligible_at(decoding).values(), default=now) - now)


def waiting_groups(decoding: Iterable[TargetStream], now: float) -> frozenset[int]:
    """Returns the groups that still wait for guesses."""
    return frozenset(group for group, at in eligible_at(decoding).items() if at > now)
