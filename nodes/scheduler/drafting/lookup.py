"""Prompt lookup in the coordinator: guesses that cost no draft node and no air.

Every stream's text is indexed, and what the lookup would have guessed is compared with what is
committed, whoever drafts for the stream: so its acceptance is known before it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nodes.draft.outlook import Outlook
from nodes.engine.ngram import NgramIndex
from nodes.scheduler.drafting.tolls import Found, Tolls
from nodes.stream import StreamId, StreamSpec
from nodes.target.lookup import lookup_calibration
from policies.acceptance import AcceptanceEstimate
from policies.confidence import Calibration
from policies.latency import CostTable, NodeCosts
from policies.plan import MAX_FREE_GAMMA

LOOKUP = "prompt lookup"
# A proposal takes some microseconds; the policies are told so.
LOOKUP_COSTS = NodeCosts(CostTable((1,), (2e-6,)), CostTable((1,), (2e-6,)))
# Promised to streams. An indexed token takes some 350 bytes of the coordinator's memory.
_MAX_TOKENS = 1 << 16
_MAX_PROMPT_TOKENS = 1 << 14
# Of what is guessed on trial, until the stream is served by lookup: then it is the plan's.
_TRIAL_STOP = 0.4


@dataclass(slots=True)
class _Text:
    calibration: Calibration
    weight: float = 1.0
    index: NgramIndex = field(default_factory=NgramIndex)
    # Of rounds as they would have gone. Texts copy in stretches, so it forgets faster than others.
    estimate: AcceptanceEstimate = field(
        default_factory=lambda: AcceptanceEstimate(0.6, 2.4, memory=0.93, counts_empty=True)
    )
    outlook: Outlook = field(default_factory=Outlook)
    reserved: int = 0
    stop: float = _TRIAL_STOP
    trial: tuple[int, ...] = ()
    num_right: int = 0
    # What was proposed last, and for what: it is asked for with every message.
    proposed: tuple[tuple[int, int, float], Found] | None = None

    def begin_trial(self, tolls: Tolls | None) -> None:
        self.outlook.begin(self.stop)
        found = self.guesses(MAX_FREE_GAMMA, self.outlook)
        count = len(found.gains) if tolls is None else tolls.if_all_did(found.gains)
        self.trial = found.token_ids[:count]
        self.num_right = 0

    def guesses(self, gamma: int, outlook: Outlook) -> Found:
        token_ids, gains, gain = [], [], 0.0
        for token_id, match in self.index.propose(gamma):
            if not outlook.takes(token_id, match, self.calibration):
                break
            token_ids.append(token_id)
            gain += outlook.chance
            gains.append(gain)
        return Found(tuple(token_ids), tuple(gains), self.weight)

    def commit(self, token_id: int, tolls: Tolls | None) -> None:
        """Take the next token of the text: what was guessed of it is right, wrong, or nothing."""
        self.index.extend((token_id,))
        if self.num_right < len(self.trial) and self.trial[self.num_right] == token_id:
            self.num_right += 1
            return
        # The target's own token ends a round.
        self.estimate.observe(len(self.trial), self.num_right, MAX_FREE_GAMMA)
        known = (*self.trial[: self.num_right], token_id)
        self.outlook.learn(self.calibration, known)
        self.begin_trial(tolls)


class Lookup:
    """Texts of the streams of one target, and guesses from them.

    tolls: by what is known of the target's passes now; None: whatever is likely is worth guessing.
    """

    def __init__(self) -> None:
        self.tolls: Tolls | None = None
        self._calibration = lookup_calibration()
        self._texts: dict[StreamId, _Text] = {}
        self._reserved = 0

    def open(self, spec: StreamSpec, weight: float = 1.0) -> None:
        """Index a stream's text, if there is room; its end, if it is very long."""
        token_ids = spec.token_ids[-_MAX_PROMPT_TOKENS:]
        reserved = len(token_ids) + spec.max_tokens
        if self._reserved + reserved > _MAX_TOKENS:
            return
        calibration = self._calibration.of(spec.sampling.temperature)
        text = _Text(calibration, weight, reserved=reserved)
        text.index.extend(token_ids)
        text.begin_trial(self.tolls)
        self._texts[spec.stream_id] = text
        self._reserved += reserved

    def commit(self, stream_id: StreamId, token_ids: Sequence[int]) -> None:
        text = self._texts.get(stream_id)
        if text is not None:
            for token_id in token_ids:
                text.commit(token_id, self.tolls)

    def close(self, stream_id: StreamId) -> None:
        text = self._texts.pop(stream_id, None)
        if text is not None:
            self._reserved -= text.reserved

    def holds(self, stream_id: StreamId) -> bool:
        return stream_id in self._texts

    def acceptance(self, stream_id: StreamId) -> AcceptanceEstimate:
        """What rounds of lookup earn for a stream it holds; goes on learning."""
        return self._texts[stream_id].estimate

    def propose(self, stream_id: StreamId, gamma: int, stop: float) -> Found:
        """At most gamma guesses, none that is less likely than `stop` to be accepted."""
        text = self._texts.get(stream_id)
        if text is None:
            return Found()
        # What is learnt from now on is what rounds with this stop earn.
        text.stop = stop
        wanted = len(text.index), gamma, stop
        if text.proposed is None or text.proposed[0] != wanted:
            text.proposed = wanted, text.guesses(gamma, Outlook(stop=stop))
        return text.proposed[1]

    def worth_sending(
        self, found: Mapping[StreamId, Found], waits_s: float = 0.0, num_passes: float = 1.0
    ) -> dict[StreamId, tuple[int, ...]]:
        """Of what was proposed for streams that decode together, what is worth a longer pass; the
        rest as in Tolls.best."""
        if self.tolls is None:
            return {stream_id: one.token_ids for stream_id, one in found.items()}
        counts = self.tolls.best(list(found.values()), waits_s, num_passes)
        return {
            stream_id: one.token_ids[:count]
            for (stream_id, one), count in zip(found.items(), counts, strict=True)
        }
