"""An observation as arrays, for the cycle planner, its exact reference and the baselines."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from airdraft.policies.acceptance import Floats, expected_token_matrix
from airdraft.policies.latency import CostTable, NodeCosts
from airdraft.policies.plan import (
    ENTRY_BITS,
    HEADER_BITS,
    MAX_AUTO_GAMMA,
    TEXT_BITS,
    DraftView,
    Link,
    Observation,
)

Ints = npt.NDArray[np.int64]
# After a round in which every guess was accepted, a draft node has to read two tokens.
CATCH_UP_TOKENS = 2
_ANY_TABLE = CostTable((1,), (1.0,))
# The answers of plain passes count with at most this share of the target's medium; with all of it
# nothing else could ever be sent.
_MOST_PLAIN_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class TargetAir:
    """Seconds of the target's medium for messages to the target and back; 0 for a free link.

    message_s: the two messages of a batch. stream_s, guess_s: each stream and each guess in them.
    answers_s: (n + 1,) the answer of a pass by its number of plain streams. medium: its index.
    """

    message_s: float
    stream_s: float
    guess_s: float
    answers_s: Floats
    medium: int

    def of(self, num_streams: Ints, num_guesses: Ints) -> Floats:
        """(...) seconds of batches; 0 for batches without streams."""
        way_s: Floats = np.asarray(num_streams > 0, dtype=np.float64) * self.message_s
        way_s = way_s + num_streams * self.stream_s + num_guesses * self.guess_s
        return way_s


@dataclass(frozen=True, slots=True)
class CycleProblem:
    """n streams in order of acceptance, J draft nodes, I media; seconds and bits.

    earned: (n, g + 1) expected tokens of a pass by gamma. least, most: (n,) bounds of gamma.
    nodes: (n,) index of the draft node, 0 where there is none (`most` is 0 then).
    target_s: (t + 1,) seconds of a pass by its tokens, including the share of prompts. draft_s:
    (J, t + 1) the same for each draft node. stream_air_s, token_air_s: (J,) seconds of the medium
    that a stream and a guess take. message_air_s: (J,) seconds of the messages around them. media:
    (J,) index of the medium.
    """

    stream_ids: tuple[int, ...]
    alphas: Floats
    weights: Floats
    earned: Floats
    least: Ints
    most: Ints
    nodes: Ints
    target_s: Floats
    draft_s: Floats
    rtt_s: Floats
    message_air_s: Floats
    stream_air_s: Floats
    token_air_s: Floats
    media: Ints
    node_names: tuple[str, ...]
    medium_names: tuple[str, ...]
    target_air: TargetAir

    @property
    def num_streams(self) -> int:
        return len(self.stream_ids)

    def plain_pass_s(self, num_plain: Ints | int) -> Floats:
        """(...) seconds of passes of num_plain plain streams alone.

        A pass is not shorter than the airtime of its answer, because answers follow one another.
        """
        longer: Floats = np.maximum(self.target_s[num_plain], self.target_air.answers_s[num_plain])
        return longer

    def stretch(self, num_plain: Ints | int) -> Floats:
        """(...) factor by which messages on the target's medium take longer beside the answers of
        passes of num_plain plain streams."""
        pass_s = np.maximum(self.plain_pass_s(num_plain), np.finfo(np.float64).tiny)
        share = np.minimum(_MOST_PLAIN_SHARE, self.target_air.answers_s[num_plain] / pass_s)
        longer: Floats = 1.0 / (1.0 - share)
        return longer

    def busiest_air_s(self, air_s: Floats, num_plain: Ints | int) -> Floats:
        """(...) seconds of the busiest medium; air_s: (I, ...) seconds of each for batches."""
        at_target_s = air_s[self.target_air.medium] * self.stretch(num_plain)
        busiest: Floats = np.maximum(air_s.max(axis=0), at_target_s)
        return busiest

    def message_s(self, num_streams: Ints, num_guesses: Ints) -> Floats:
        """(J, ...) seconds of the medium for the messages of each draft node, by the streams in
        them and their guesses, (J, ...)."""
        column = (-1, *(1,) * (num_streams.ndim - 1))
        air_s: Floats = (num_streams > 0) * self.message_air_s.reshape(column)
        air_s += num_streams * self.stream_air_s.reshape(column)
        air_s += num_guesses * self.token_air_s.reshape(column)
        return air_s

    @property
    def max_gamma(self) -> int:
        return int(self.earned.shape[1]) - 1

    def in_order(self, order: Ints) -> CycleProblem:
        """Returns the problem with its streams in another order; order: (n,) indices."""
        return replace(
            self,
            stream_ids=tuple(self.stream_ids[k] for k in order),
            alphas=self.alphas[order],
            weights=self.weights[order],
            earned=self.earned[order],
            least=self.least[order],
            most=self.most[order],
            nodes=self.nodes[order],
        )


def problem_of(observation: Observation) -> CycleProblem:
    """Returns an observation with target costs as arrays, streams in ascending acceptance."""
    assert observation.target is not None
    n = len(observation.streams)
    views = sorted(observation.streams, key=lambda view: (view.alpha, view.stream_id))
    alphas = np.array([view.alpha for view in views])
    index = {draft.name: j for j, draft in enumerate(observation.drafts)}
    # One node without streams stands in for none, so that no array is empty.
    drafts = observation.drafts or (DraftView("", NodeCosts(_ANY_TABLE, _ANY_TABLE)),)
    nodes = np.array([index.get(view.draft or "", -1) for view in views], dtype=np.int64)
    fixed = np.array([-1 if view.fixed_gamma is None else view.fixed_gamma for view in views])
    left = np.array([view.tokens_left for view in views])
    # The last token of a stream is always the target's own, so guesses are one fewer than tokens.
    most = np.minimum(np.where(fixed < 0, MAX_AUTO_GAMMA, fixed), np.maximum(0, left - 1))
    most[nodes < 0] = 0
    max_gamma = max(1, int(most.max(initial=0)))
    target_s = seconds_upto(observation.target.decode, n * (max_gamma + 1), observation.used_cells)
    token_bits, to_target = observation.token_bits, observation.target_link
    links = [draft.link for draft in drafts]
    media = [draft.link.medium or f"link of {draft.name}" for draft in drafts]
    at_target = to_target.medium or "the target's link"
    medium_names = tuple(dict.fromkeys(media if to_target.is_free else [*media, at_target]))
    return CycleProblem(
        stream_ids=tuple(view.stream_id for view in views),
        alphas=alphas,
        weights=np.array([view.weight for view in views]),
        earned=expected_token_matrix(alphas, max_gamma),
        least=np.where(fixed >= 0, most, 0),
        most=most,
        nodes=np.maximum(0, nodes),
        target_s=target_s / (1.0 - observation.prefill_share),
        draft_s=np.array(
            [seconds_upto(d.costs.decode, CATCH_UP_TOKENS * n, d.used_cells) for d in drafts]
        ),
        rtt_s=np.array([link.rtt_s for link in links]),
        message_air_s=np.array([link.airtime_s(2 * HEADER_BITS, 2) for link in links]),
        # At most gamma + 1 committed tokens are sent to a node, and gamma guesses come back.
        stream_air_s=np.array([link.airtime_s(2 * ENTRY_BITS + token_bits, 0) for link in links]),
        token_air_s=np.array([link.airtime_s(2 * token_bits, 0) for link in links]),
        media=np.array([medium_names.index(medium) for medium in media], dtype=np.int64),
        node_names=tuple(draft.name for draft in drafts),
        medium_names=medium_names,
        target_air=_target_air(
            to_target, token_bits, n, 0 if to_target.is_free else medium_names.index(at_target)
        ),
    )


def _target_air(link: Link, token_bits: int, n: int, medium: int) -> TargetAir:
    """Returns the airtime of messages that carry guesses to the target and tokens with text back.

    All guesses are assumed to come back as tokens, because acceptance is not considered here.
    """
    committed_bits = token_bits + TEXT_BITS
    each_s = link.airtime_s(ENTRY_BITS + committed_bits, 0)
    counts = np.arange(n + 1)
    return TargetAir(
        message_s=link.airtime_s(2 * HEADER_BITS, 2),
        stream_s=link.airtime_s(2 * ENTRY_BITS + committed_bits, 0),
        guess_s=link.airtime_s(token_bits + committed_bits, 0),
        answers_s=(counts > 0) * link.airtime_s(HEADER_BITS, 1) + counts * each_s,
        medium=medium,
    )


def seconds_upto(table: CostTable, num_tokens: int, used_cells: int = 0) -> Floats:
    """(num_tokens + 1,) seconds of passes of 0, 1, ... num_tokens tokens; 0 for the empty pass."""
    counts = np.arange(num_tokens + 1, dtype=np.float64)
    sizes, seconds = table.sizes, table.seconds
    out = np.interp(counts, sizes, seconds)
    if num_tokens > sizes[-1]:
        last = table.at(sizes[-1] + 1) - seconds[-1]
        out[sizes[-1] + 1 :] = seconds[-1] + last * (counts[sizes[-1] + 1 :] - sizes[-1])
    out += table.per_cell_s * used_cells * counts
    out[0] = 0.0
    # Measured tables are noisy, but a larger pass never takes less time.
    return np.maximum.accumulate(out)
