"""A pure mesh of emulated nodes, and cases for it."""

from __future__ import annotations

from collections.abc import Sequence

from nodes.engine.protocol import Model, Tokenizer
from nodes.engine.recording import RecordedText, Recording
from nodes.engine.replay import ReplayConfig, ReplayModel, ReplayTokenizer
from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig
from nodes.target.events import Committed
from tests.engine.recordings import COSTS
from tests.nodes.pure_mesh import Case, DraftCase, PureMesh, StreamCase
from tests.nodes.reference import Reference


class ReplayMesh(PureMesh):
    """Notes of every round the place in its text, the guesses made, and those accepted."""

    def __init__(self, case: Case, recording: Recording) -> None:
        self.recording = recording
        self.texts = {text.prompt_ids: text for text in recording.texts}
        self.rounds: list[tuple[RecordedText, int, int, int]] = []
        super().__init__(case)

    def _replay(self, draft: str, case: DraftCase | ToyConfig) -> ReplayModel:
        config = ReplayConfig(
            name="emulated",
            recording=self.recording,
            costs=COSTS,
            draft=draft,
            num_cells=case.num_cells,
            max_sequences=case.max_sequences,
            max_batch_tokens=case.max_batch_tokens,
        )
        return ReplayModel(config, now=lambda: 0.0, sleep=lambda _seconds: None)

    def _target_engine(self) -> tuple[Model, Tokenizer]:
        return self._replay("", self.case.target), ReplayTokenizer(self.recording)

    def _draft_engine(self, case: DraftCase) -> Model:
        return self._replay(self.recording.drafts[case.agreement > 0.5].name, case)

    def _reference_of(self, case: StreamCase) -> Reference:
        end = self.recording.eog_ids[0]
        token_ids = [*self.texts[case.prompt].output_ids, *[end] * case.max_tokens]
        limit = case.max_tokens
        if not case.ignore_eog:
            limit = min(limit, token_ids.index(end))
        pieces = (self.recording.pieces[token_id] for token_id in token_ids[:limit])
        reason = "length" if limit == case.max_tokens else "stop"
        return Reference(tuple(token_ids[:limit]), b"".join(pieces), reason)

    def _target_says(self, events: Sequence[object]) -> None:
        for event in events:
            if isinstance(event, Committed) and event.num_draft_tokens:
                spec = self.specs[event.stream_id]
                place = event.prefix_len - spec.num_prompt_tokens
                text = self.texts[spec.token_ids]
                made, accepted = event.num_draft_tokens, event.num_accepted_tokens
                self.rounds.append((text, place, made, accepted))
        super()._target_says(events)


def num_accepted(text: RecordedText, draft: int, place: int, num_guesses: int) -> int:
    """What a recording says of a round that begins at a place of the output."""
    flags = text.accepted(draft)[place : place + num_guesses]
    return flags.index(False) if False in flags else len(flags)


def stream_case(text: RecordedText, **changes: object) -> StreamCase:
    values: dict[str, object] = {
        "prompt": text.prompt_ids,
        "max_tokens": len(text.output_ids),
        "sampling": Sampling(),
        "stops": (),
        "ignore_eog": False,
        "gamma": None,
        "is_cancelled": False,
    }
    return StreamCase(**(values | changes))  # type: ignore[arg-type]


def mesh_case(
    streams: Sequence[StreamCase], agreements: Sequence[float], **changes: object
) -> Case:
    drafts = [
        DraftCase(
            agreement=agreement,
            num_cells=1000,
            max_sequences=5,
            max_batch_tokens=64,
            starts_alive=True,
        )
        for agreement in agreements
    ]
    values: dict[str, object] = {
        "target": ToyConfig(num_vocab=2, num_cells=1000, max_sequences=5, max_batch_tokens=64),
        "drafts": tuple(drafts),
        "streams": tuple(streams),
        "num_churns": 0,
        "num_upset": 0,
        "has_wild_policy": False,
        "has_lookup": False,
        "pass_moves": 30,
        "moves": b"",
        "move_seed": 1,
    }
    return Case(**(values | changes))  # type: ignore[arg-type]
