"""Chains of guesses for other outcomes than the likeliest one.

While guesses are on their way, a draft model also says what would follow if one of them were wrong
and its next choice right, and sends that ahead. So a wrong guess often is the right one of another
chain, and the target's next pass has guesses (docs/design/guesses.md).

Branches share the cells of the chain that they leave. Each step extends the likeliest ones, as far
as it gets hardly longer by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from airdraft.nodes.draft.chances import Chances
from airdraft.nodes.draft.followed import Chain, Followed, Guess
from airdraft.nodes.engine.protocol import Sequences, Span
from airdraft.policies.guesses import WINDOW
from airdraft.policies.latency import CostColumns, CostTable

# No branch goes on with a lower chance to be used.
_LEAST_CHANCE: Final = 0.05
# A step with branches takes at most so many times as long as one of a single token.
_LONGER: Final = 1.25
# Of one stream: a target keeps eight chains.
_MOST_OF_STREAM: Final = 7


@dataclass(frozen=True, slots=True)
class End:
    """Where a branch goes on, or one may begin.

    chance: that the next token of it is reached. place: of the guess of the chain instead of which
    `choice`, a place among its other choices, begins a branch; None to extend the chain.
    """

    chance: float
    stream: Followed
    chain: Chain
    place: int | None = None
    choice: int = 0


class Branches:
    """The branches of all streams.

    costs: seconds of steps by their tokens; without, there are none. are_allowed: whether there may
    be any: where the link shares a medium with others, their bytes cost too much.
    """

    def __init__(self, model: Sequences, chances: Chances, costs: CostTable | None) -> None:
        info = model.info
        self._model, self._chances = model, chances
        self._columns = CostColumns(costs) if costs is not None else None
        num = info.num_branches if costs is not None else 0
        self._free = list(range(info.max_sequences, info.max_sequences + num))
        self.are_allowed = num > 0

    def forbid(self) -> None:
        """Begin and extend none from now on."""
        self.are_allowed = False

    def may_have(self, stream: Followed) -> bool:
        """Whether other choices are of use where a guess for a stream is made."""
        return self.are_allowed and not stream.has_rules

    def wanted(self, streams: Iterable[Followed], num_tokens: int) -> list[End]:
        """Returns what a step extends besides, the likeliest first.

        num_tokens: that the step runs in any case. For branches alone there is no step: on a memory
        that the target shares it cost four streams of chats 4 % of their tokens.
        """
        if not self.are_allowed or self._columns is None or not num_tokens:
            return []
        ends = [end for stream in streams for end in self._ends(stream)]
        ends.sort(key=lambda end: -end.chance)
        at = self._columns.of(self._model.num_threads).table.at
        most, limit = num_tokens, _LONGER * at(1)
        room = min(self._model.info.max_batch_tokens, self._model.free_cells())
        while most < min(room, num_tokens + len(ends)) and at(most + 1) <= limit:
            most += 1
        chosen, num_free = list[End](), len(self._free)
        for end in ends[: max(0, min(room, most) - num_tokens)]:
            num_free -= end.place is not None
            if num_free >= 0:
                chosen.append(end)
        return chosen

    def _ends(self, stream: Followed) -> Iterable[End]:
        """Yields what of a stream is likely enough."""
        if stream.is_behind:
            return
        info, is_full = self._model.info, len(stream.branches) >= _MOST_OF_STREAM
        others = self._chances.others_of(stream)
        for chain in (stream.chain, *stream.branches):
            path = 1.0
            for place, guess in enumerate(chain.guesses):
                if path < _LEAST_CHANCE:
                    break
                chances = others.chances(guess.chance) if guess.others and not is_full else ()
                for choice, chance in enumerate(chances[: len(guess.others)]):
                    _, is_taken = guess.others[choice]
                    end = End(path * chance, stream, chain, place, choice)
                    if end.chance >= _LEAST_CHANCE and not is_taken and not self._is_lost(end):
                        yield end
                path *= guess.chance
            if chain is stream.chain or path < _LEAST_CHANCE or len(chain.guesses) >= WINDOW:
                continue
            has_ended = chain.guesses[-1].token_id in info.eog_token_ids
            if stream.has_room(chain) and not (has_ended and stream.spec.ends_at_eog):
                yield End(path, stream, chain)

    def begin(self, ends: Sequence[End], num_tokens: int) -> list[tuple[Followed, Chain, Span]]:
        """Returns the branches that a step of num_tokens extends besides, with what it runs. Some
        of them are new.

        None are there any more if the pass would have dropped them.
        """
        self._model.make_room(num_tokens + len(ends))
        if any(self._is_lost(end) for end in ends):
            for stream in {id(end.stream): end.stream for end in ends}.values():
                self.release(stream.branches)
                stream.branches = []
            return []
        turns = []
        for end in ends:
            chain = end.chain if end.place is None else self._fork(end, end.place)
            ids = end.stream.uncached_of(chain)
            turns.append((end.stream, chain, Span(chain.seq_id, chain.cached, ids, 1)))
        return turns

    def _is_lost(self, end: End) -> bool:
        """Whether the engine no longer has what a chain had, or cannot copy what a branch needs."""
        seq_id, cached = end.chain.seq_id, end.chain.cached
        length = cached if end.place is None else self._start(end, end.place)
        has_all = self._model.length(seq_id) >= max(cached, length)
        return not has_all or length < self._model.shortest(seq_id)

    @staticmethod
    def _start(end: End, place: int) -> int:
        return len(end.stream.token_ids) + place

    def _fork(self, end: End, place: int) -> Chain:
        """Begin a branch with another choice."""
        stream, parent = end.stream, end.chain
        length = self._start(end, place)
        guess = parent.guesses[place]
        token_id, _ = guess.others[end.choice]
        guess.others[end.choice] = token_id, True
        others = self._chances.others_of(stream)
        first = Guess(token_id, others.chances(guess.chance)[end.choice], None)
        before = [replace(each, others=[]) for each in parent.guesses[:place]]
        branch = Chain(self._free.pop(), length, [*before, first])
        self._model.copy_prefix(parent.seq_id, branch.seq_id, length)
        stream.branches.append(branch)
        return branch

    def release(self, branches: Iterable[Chain]) -> None:
        """Take back the sequences of branches that are no more. What they have is dropped when one
        is used again, since the next branch may share a part of it."""
        self._free += [branch.seq_id for branch in branches]

    def inherit(self, stream: Followed, branch: Chain) -> None:
        """Give a stream's own sequence what a branch has, and take the branch back."""
        if self._model.length(branch.seq_id) >= branch.cached > stream.cached:
            self._model.copy_prefix(branch.seq_id, stream.seq_id, branch.cached)
            stream.chain.cached = branch.cached
        self.release([branch])

    def stepped(self, num_tokens: int, seconds: float) -> None:
        """Learn from the seconds of a step."""
        if self._columns is not None:
            self._columns.of(self._model.num_threads).observe(num_tokens, seconds)
