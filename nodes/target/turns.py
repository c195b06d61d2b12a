"""A draft model in the target's process, which guesses in turns with the target's passes.

Both models have all cores, one after the other. Before a pass the draft makes steps for some
streams, as long as a step promises more than its time costs (policies/turns.py). Costs come from
measured tables, and chances from compared guesses. So nothing has to be tried to find out whether
the draft pays, and where it does not it hardly costs anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Final

from airdraft.nodes.draft.followed import Followed
from airdraft.nodes.draft.state import DraftState
from airdraft.nodes.engine.masks import MaskService
from airdraft.nodes.messages import MAX_GAMMA
from airdraft.nodes.target.proposals import Proposal, Source
from airdraft.nodes.target.stream import TargetStream
from airdraft.nodes.worker.stream import StreamId, StreamSpec
from airdraft.policies.acceptance import AcceptanceEstimate
from airdraft.policies.latency import PASS_RATE, CostColumns, NodeCosts, TableRefit
from airdraft.policies.savings import Savings
from airdraft.policies.turns import Prices, Turn, net_of, repays, worthwhile

# Unread tokens that a step with a guess may read. More of them are read first, in pieces, if the
# answer is expected to be long enough for that.
_MOST_UNREAD: Final = 8
# What is known of a stream's guesses loses this share with each pass that compares none, so that a
# draft that was always wrong is asked again after some hundred passes.
_FORGOTTEN: Final = 0.002


class Turns:
    """Guesses of one draft model.

    draft: follows the streams. costs: those of its steps. at_work: a context for each of its steps.
    """

    source: ClassVar[Source] = "turns"

    def __init__(
        self,
        draft: DraftState,
        costs: NodeCosts,
        at_work: AbstractContextManager[None] | None = None,
        dropped: Callable[[str], None] = lambda _error: None,
        follow: Callable[[int, int], None] | None = None,
    ) -> None:
        """dropped: called once no more guesses are wanted, to free the model; it gets the model's
        error, or "" if the draft has had its trial and does not pay. follow: for a head, which
        reads rows of the target: called before a step with a stream's sequences in both models."""
        self._draft = draft
        self._follow = follow
        self._columns = CostColumns(costs.decode)
        self.at_work = at_work or nullcontext()
        self.dropped = dropped
        self.savings = Savings()
        size = costs.prefill.sizes[-1]
        self._read_s = costs.prefill.at(size) / size
        self._seen: dict[StreamId, AcceptanceEstimate] = {}
        # Tokens a second that passes gave of late, to those of plain decoding.
        self._gain = 1.0
        # The tokens of the step that has run last; 0 if it read texts.
        self._step_tokens = 0
        self._has_read = False
        # Seconds since the last pass, of steps with guesses and of all steps.
        self._guess_s = 0.0
        self.turn_s = 0.0

    @property
    def _costs(self) -> TableRefit:
        return self._columns.of(self._draft.num_threads)

    def compute_masks_by(self, service: MaskService) -> None:
        """Have the masks of streams that are yet to be opened computed by a service, so that a
        grammar whose masks take long delays nobody else."""
        self._draft.compute_masks_by(service)

    def open(self, spec: StreamSpec) -> None:
        if spec.num_guesses:
            self._draft.open(spec)
            self._seen[spec.stream_id] = AcceptanceEstimate()
            if (followed := self._draft.followed(spec.stream_id)) is not None:
                # Nobody waits for the notice that its text has been read.
                followed.announced = True

    def committed(self, stream_id: StreamId, token_ids: Sequence[int]) -> None:
        followed = self._draft.followed(stream_id)
        if followed is None:
            return
        seen, guesses = self._seen[stream_id], followed.guesses
        if guesses:
            num_right = followed.chain.num_right(token_ids)
            seen.observe(min(len(guesses), len(token_ids), num_right + 1), num_right)
        else:
            unknown = AcceptanceEstimate()
            seen.successes += _FORGOTTEN * (unknown.successes - seen.successes)
            seen.failures += _FORGOTTEN * (unknown.failures - seen.failures)
        known = followed.spec.generation, len(followed.token_ids)
        self._draft.committed(stream_id, *known, tuple(token_ids))
        if self._follow is not None:
            # The target's own rows are known now of what the head had to guess.
            self._draft.read_again(stream_id, known[1])

    def ended(self, stream_id: StreamId) -> None:
        followed = self._draft.followed(stream_id)
        if followed is not None:
            self._draft.close(stream_id, followed.spec.generation)
        self._seen.pop(stream_id, None)

    def clear(self) -> None:
        self._draft.forget_all()
        self._seen.clear()

    def propose(self, stream_id: StreamId, most: int) -> Proposal:
        followed = self._draft.followed(stream_id)
        if followed is None:
            return Proposal()
        guesses = followed.guesses[:most]
        return Proposal([each.token_id for each in guesses], [each.chance for each in guesses])

    # -- steps -------------------------------------------------------------------------------------

    def step(
        self,
        decoding: Sequence[TargetStream],
        known: Callable[[TargetStream], Sequence[float]],
        pass_s: Callable[[int], float],
        *,
        num_others: int,
        most: int,
    ) -> bool:
        """Run one step of the draft if it pays; returns whether one has run.

        decoding: the streams of the next pass. known: returns the chances of guesses that a stream
        has from elsewhere, each for all guesses up to it. pass_s: seconds of a pass by its tokens.
        num_others: streams that wait for the pass besides. most: most guesses that fit in it.
        """
        weights = [stream.spec.weight / stream.tokens_a_pass for stream in decoding]
        num_own = len(decoding) + num_others
        plain = num_own / len(weights) * sum(weights) / pass_s(num_own)
        prices = Prices(max(1.0, self._gain) * plain, pass_s, self._costs.table.at)
        waiting = self._draft.find_readers()
        guessing, turns, wanted = list[Followed](), list[Turn](), list[Followed]()
        num_guesses = 0
        for stream, weight in zip(decoding, weights, strict=True):
            followed = self._draft.followed(stream.spec.stream_id)
            if followed is None or not stream.may_guess:
                continue
            if self._follow is not None and stream.seq_id is not None:
                self._follow(followed.seq_id, stream.seq_id)
            num_guesses += len(followed.guesses)
            fixed, gain = stream.spec.num_guesses, math.inf
            if len(followed.guesses) >= (MAX_GAMMA if fixed < 0 else fixed):
                continue
            if fixed < 0:
                alpha = self._seen[stream.spec.stream_id].alpha
                gain = weight * followed.chance * alpha
            if followed.guesses:
                is_wanted = True
            else:
                others = [weight * chance for chance in known(stream)]
                is_wanted = fixed >= 0 or self._promises(
                    stream, followed, weight, others, prices, num_own
                )
            if is_wanted and followed.num_missing > _MOST_UNREAD:
                wanted.append(followed)
            elif is_wanted and self._draft.is_ready(followed):
                guessing.append(followed)
                turns.append(Turn(gain, len(followed.uncached)))
        self._step_tokens = 0
        reading = [each for each in waiting if any(each is other for other in wanted)]
        if reading and not self._has_read:
            # Nobody waits longer for the next pass than for a pass.
            self._has_read = True
            self._draft.advance([], reading, max(1, int(pass_s(num_own) / self._read_s)))
            return True
        chosen = worthwhile(turns, prices, num_own + num_guesses)[: max(0, most - num_guesses)]
        self._step_tokens = sum(turns[index].num_new for index in chosen)
        if chosen:
            self._draft.advance([guessing[index] for index in chosen], [], 0)
        return bool(chosen)

    def _promises(
        self,
        stream: TargetStream,
        followed: Followed,
        weight: float,
        others: Sequence[float],
        prices: Prices,
        num_own: int,
    ) -> bool:
        """Whether guesses of the draft promise more than others', and repay what it has to read."""
        alpha = self._seen[stream.spec.stream_id].alpha
        likely = (weight * alpha**place for place in range(1, MAX_GAMMA + 1))
        net, tokens = net_of(likely, prices, num_own, prices.step_s(num_own))
        if net <= net_of(others, prices, num_own)[0]:
            return False
        if followed.num_missing <= _MOST_UNREAD:
            return True
        cost = prices.rate * followed.num_missing * self._read_s
        passes_of = 1.0 + tokens / weight
        return repays(net, passes_of, stream.num_output, stream.tokens_left, cost)

    def stepped(self, seconds: float) -> None:
        """Note the seconds of the last step."""
        self.turn_s += seconds
        if self._step_tokens:
            self._guess_s += seconds
            self._costs.observe(self._step_tokens, seconds)
        self._draft.passed(seconds, 0.0)

    def passed(
        self, seconds: float, tokens_a_stream: float, plain_s: float, is_guessed: bool | None = None
    ) -> None:
        """Note a pass. tokens_a_stream: that it committed, on average; 0.0 if it read prompts,
        whose time says nothing of guesses. plain_s: seconds of the same pass without guesses.
        is_guessed: whether it had guesses of the draft; None if its streams did not leave that to
        this target.
        """
        if tokens_a_stream:
            if is_guessed is not None:
                self.savings.passed(
                    seconds, self.turn_s, tokens_a_stream, plain_s, is_guessed=is_guessed
                )
            gain = tokens_a_stream * plain_s / (seconds + self._guess_s)
            self._gain += PASS_RATE * (gain - self._gain)
        self._has_read, self._guess_s, self.turn_s = False, 0.0, 0.0
