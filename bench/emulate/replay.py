"""Emulated hardware: a model that answers from a recording with the delays of another device.

A TOML file names both:

    recording = "../recordings/smollm2-135m.json.z"
    draft = "smollm2-draft"       # a draft of the recording; its target if this is left out
    models = "../../profiles/models.toml"

    [costs]                       # as those of a node in a scenario
    device = "../../profiles/jetson-agx-orin.toml"
    model = "llama-3.1-8b"        # its times are emulated, whichever model was recorded
    used_cells = 4000             # the times are most exact with so many cells in use
    per_own_cell_s = 0            # is added for each token and cell of its own sequence

Measured times may take the place of device and model: [costs.decode] and [costs.prefill] with
`sizes`, `seconds` and `per_cell_s`. Paths are relative to the file.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from airdraft.nodes.config.settings import ConfigError, EngineSettings
from airdraft.nodes.config.sources import read_toml
from airdraft.nodes.engine.emulated import EmulatedModel
from airdraft.nodes.engine.load import Opened
from airdraft.nodes.engine.protocol import (
    EngineInfo,
    InvalidInputError,
    Logits,
    Message,
    ModelFileError,
    Span,
)
from airdraft.nodes.worker.engines import BRANCHES
from airdraft.policies.acceptance import CALIBRATION_KEY
from airdraft.policies.latency import NodeCosts
from airdraft.policies.scenario.costs import COST_KEYS, costs_of
from airdraft.policies.scenario.fields import ScenarioError, Table
from bench.emulate.recording import RecordedText, Recording, read_recording

# This logit is so far above the others that no sampling noise matters at any temperature.
_CERTAIN = 1e4
_LEAST_DOUBT = 1e-6
# That of a draft's second choice: above the zeros of all others, and below any first choice.
_OTHERS_LOGIT = 1e-4


class Script:
    """The answers of a recording's target (if draft is None) or of one of its drafts.

    The target gives the tokens of the texts, and an end token after the last one. A draft gives its
    recorded choices for a position, even after a wrong guess. Its true confidence there would only
    change the number of guesses that are rejected anyway.
    """

    def __init__(self, recording: Recording, draft: int | None) -> None:
        self.recording = recording
        self.draft = draft
        self._shortest = min(len(text.prompt_ids) for text in recording.texts)
        self._longest = max(len(text.prompt_ids) for text in recording.texts)
        self._texts = defaultdict[tuple[int, ...], list[RecordedText]](list)
        for text in recording.texts:
            self._texts[text.prompt_ids[: self._shortest]].append(text)
        self._end_id = recording.eog_ids[0]
        # A draft's guess after the last token; the target rejects it.
        others = (i for i in range(recording.num_vocab) if i not in recording.eog_ids)
        self._no_end_id = next(others, self._end_id)

    def read(self, token_ids: tuple[int, ...], span: Span) -> tuple[RecordedText | None, int]:
        """Returns the text of a sequence that ends with a span, and how many of its tokens from the
        beginning are the text's; None while the prompt is not complete.

        Raises InvalidInputError if the span's tokens are not those of a recorded text.
        """
        text = self._text_of(token_ids)
        if text is None:
            if span.num_outputs or len(token_ids) >= self._longest:
                raise InvalidInputError(f"sequence {span.seq_id} is not in {self._source()}")
            return None, len(token_ids)
        # The tokens up to the one that has the first output row, or all if there is none.
        num_fed = len(token_ids) - max(0, span.num_outputs - 1)
        if span.num_outputs and num_fed < len(text.prompt_ids):
            raise InvalidInputError(f"sequence {span.seq_id}: a recorded prompt has no logits")
        num_right = len(text.prompt_ids)
        begins = max(span.start, num_right)
        # Nearly always all tokens before the span are right, and need not be looked at one by one.
        if token_ids[:begins] == (text.prompt_ids + text.output_ids)[:begins]:
            num_right = begins
        while num_right < len(token_ids) and token_ids[num_right] == self._next(text, num_right):
            num_right += 1
        # Of a target only guesses, which come after the last committed token, may be wrong; a draft
        # may go on from guesses of its own.
        num_good, wanted, hint = num_right, num_fed, ""
        if self.draft is not None:
            wanted, hint = len(token_ids), ", nor guessed at temperature 0"
            # Behind the text no choices are recorded.
            wanted = min(wanted, len(text.prompt_ids) + len(text.output_ids))
            while num_good < wanted and token_ids[num_good] in (
                self._next(text, num_good),
                *self._choices(text, num_good)[0],
            ):
                num_good += 1
        if num_good < wanted:
            raise InvalidInputError(
                f"sequence {span.seq_id}: token {token_ids[num_good]} at position {num_good} is "
                f"not in {self._source()}{hint}"
            )
        return text, num_right

    @property
    def has_others(self) -> bool:
        """Whether it is a draft whose other choices are recorded."""
        draft, texts = self.draft, self.recording.texts
        return draft is not None and all(text.guesses[draft].others for text in texts)

    def _text_of(self, token_ids: tuple[int, ...]) -> RecordedText | None:
        for text in self._texts.get(token_ids[: self._shortest], ()):
            if token_ids[: len(text.prompt_ids)] == text.prompt_ids:
                return text
        return None

    def _source(self) -> str:
        recording = self.recording
        return f"the {len(recording.texts)} recorded texts of {recording.target.name}"

    def fill(self, row: Logits, text: RecordedText, num_right: int, position: int) -> None:
        """Write the logits of a position into a row of zeros. num_right: as of read()."""
        if self.draft is not None:
            (token_id, *others), probability = self._choices(text, position)
            row[others] = [_OTHERS_LOGIT / n for n in range(1, len(others) + 1)]
            row[token_id] = logit_of(probability, len(row))
        elif position <= num_right:
            row[self._next(text, position)] = _CERTAIN
        else:
            # Nothing is recorded after a wrong guess. Sampling from NaN raises an error.
            row.fill(np.nan)

    def _next(self, text: RecordedText, position: int) -> int:
        place = position - len(text.prompt_ids)
        return text.output_ids[place] if place < len(text.output_ids) else self._end_id

    def _choices(self, text: RecordedText, position: int) -> tuple[Sequence[int], float]:
        """Returns what a draft says, the likeliest first, and its probability of the first."""
        assert self.draft is not None
        guesses, place = text.guesses[self.draft], position - len(text.prompt_ids)
        if place >= len(guesses.token_ids):
            return (self._no_end_id,), 0.0
        others = guesses.others[place] if guesses.others else ()
        return (guesses.token_ids[place], *others), guesses.probabilities[place]


def logit_of(probability: float, num_vocab: int) -> float:
    """Returns the logit whose softmax beside num_vocab - 1 zeros is `probability`.

    It is positive, and so the largest: a probability that is not above that of the zeros is raised
    a little.
    """
    p = min(1.0 - _LEAST_DOUBT, max(1.01 / num_vocab, probability))
    return math.log(p * (num_vocab - 1) / (1.0 - p))


PREFIX: Final = "replay:"
# A sleep ends a little late, and the next pass is shorter by that much. Longer delays, which are
# stalls of this machine, are not made up for.
_MOST_OVERSLEPT_S = 5e-4
_OWN = "per_own_cell_s"
_MAX_OWN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig:
    """What a replay answers with, and its costs.

    draft: The name of a draft of the recording; "" for its target.
    """

    name: str
    recording: Recording
    costs: NodeCosts
    draft: str = ""
    num_cells: int = 8192
    max_sequences: int = 16
    max_batch_tokens: int = 256


class ReplayModel(EmulatedModel):
    """Implements the Model protocol with a recording. A pass sleeps until `costs` are reached.

    now, sleep: The clock of the passes, in seconds.
    """

    saved_type = np.uint32

    def __init__(
        self,
        config: ReplayConfig,
        *,
        now: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.config = config
        self._now, self._sleep = now, sleep
        self._overslept_s = 0.0
        recording = config.recording
        self._draft = recording.draft_index(config.draft) if config.draft else None
        self._script = Script(recording, self._draft)
        content = recording.content_hash()
        info = EngineInfo(
            engine="replay",
            model=config.name,
            model_hash=f"replay-{content}-{config.draft}",
            vocab_hash=f"replay-{recording.vocab_hash()}",
            num_vocab=recording.num_vocab,
            num_cells=config.num_cells,
            max_sequences=config.max_sequences,
            max_batch_tokens=config.max_batch_tokens,
            context_length=config.num_cells,
            eog_token_ids=frozenset(recording.eog_ids),
            exact=True,
            numerics_class=f"replay-{content}",
            can_cut=True,
            can_take_back=True,
            num_branches=BRANCHES if self._script.has_others else 0,
            emulated=True,
        )
        super().__init__(info)

    def metadata(self, key: str) -> str:
        """Returns the calibration of a draft's confidence; nothing else of its file is recorded."""
        if key != CALIBRATION_KEY or self._draft is None:
            return ""
        return self.config.recording.drafts[self._draft].calibration

    def forward(self, spans: Sequence[Span]) -> Logits:
        began = self._now()
        self._check(spans)
        grown = [(*self._sequences[span.seq_id], *span.token_ids) for span in spans]
        read = [self._script.read(ids, span) for ids, span in zip(grown, spans, strict=True)]
        used_cells = self.info.num_cells - self.free_cells()
        seconds = pass_seconds(self.config.costs, spans, used_cells)
        num_rows = sum(span.num_outputs for span in spans)
        logits = np.zeros((num_rows, self.info.num_vocab), dtype=np.float32)
        row = 0
        for span, token_ids, (text, num_right) in zip(spans, grown, read, strict=True):
            self._sequences[span.seq_id] = token_ids
            for position in range(len(token_ids) - span.num_outputs + 1, len(token_ids) + 1):
                assert text is not None
                self._script.fill(logits[row], text, num_right, position)
                row += 1
        self._wait_until(began + seconds - self._overslept_s)
        return logits

    def _wait_until(self, when: float) -> None:
        left = when - self._now()
        if left > 0:
            self._sleep(left)
            self._overslept_s = min(_MOST_OVERSLEPT_S, max(0.0, self._now() - when))


class ReplayTokenizer:
    """The prompts and pieces of a recording."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._prompts = {text.prompt: text.prompt_ids for text in recording.texts}

    def encode(self, text: str) -> list[int]:
        raise self._not_recorded()

    def encode_chat(
        self, messages: Sequence[Message], *, date: str = "", tools: str = ""
    ) -> list[int]:
        """Returns the ids of a recorded prompt; only single messages of a user are recorded."""
        text = messages[0][1] if [role for role, _ in messages] == ["user"] else ""
        if text not in self._prompts:
            raise self._not_recorded()
        return list(self._prompts[text])

    def _not_recorded(self) -> InvalidInputError:
        recording = self._recording
        return InvalidInputError(
            f"the prompt is not one of the {len(recording.texts)} recorded prompts of "
            f"{recording.target.name}"
        )

    def piece(self, token_id: int) -> bytes:
        if not 0 <= token_id < self._recording.num_vocab:
            raise InvalidInputError(f"token id {token_id} outside the recording's vocabulary")
        return self._recording.pieces[token_id]


def pass_seconds(costs: NodeCosts, spans: Sequence[Span], used_cells: int) -> float:
    """Returns the seconds of a pass by a node's costs, which do not depend on a token's sequence.

    used_cells: The cells in use before the pass.
    """
    num_tokens = sum(len(span.token_ids) for span in spans)
    own_cells = sum(span.start * len(span.token_ids) for span in spans) / num_tokens
    table = costs.decode if any(span.num_outputs for span in spans) else costs.prefill
    return table.at(num_tokens, used_cells, own_cells)


def open_engine(settings: EngineSettings, *, is_draft: bool) -> Opened:
    """Open the emulated node that the settings name, `replay:FILE.toml`.

    Raises ModelFileError, or ConfigError for a file of the other role; both are one line.
    """
    path = Path(settings.model.removeprefix(PREFIX))
    config = replace(
        read_config(path), num_cells=settings.cells or 8192, max_sequences=settings.max_streams
    )
    if is_draft != bool(config.draft):
        wanted = "a draft node the file needs" if is_draft else "a target the file must not have"
        raise ConfigError(f"engine.model = {settings.model!r}: for {wanted} the key draft")
    return Opened(ReplayModel(config), ReplayTokenizer(config.recording), config.costs)


def read_config(path: Path) -> ReplayConfig:
    """Read the TOML file of an emulated node. Raises ModelFileError, one line."""
    try:
        values = read_toml(path, "emulated node")
        root = Table(str(path), "", values, ("recording", "draft", "models", "costs"))
        table = root.table("costs", (*COST_KEYS, _OWN))
        costs, _ = costs_of(
            table, root, lambda key, name: read_toml(path.parent / name, f"{path}: {key}: file")
        )
        own_s = table.number(_OWN, 0.0, high=_MAX_OWN_S)
        decode, prefill = (
            replace(each, per_own_cell_s=own_s) for each in (costs.decode, costs.prefill)
        )
        recording = read_recording(path.parent / root.text("recording"))
        draft = root.text("draft") if "draft" in root else ""
        if draft not in ("", *(model.name for model in recording.drafts)):
            known = ", ".join(model.name for model in recording.drafts) or "none"
            raise root.error("draft", f"a draft of the recording is accepted: {known}")
    except (ConfigError, ScenarioError) as error:
        raise ModelFileError(str(error)) from None
    return ReplayConfig(
        name=path.stem, recording=recording, costs=NodeCosts(decode, prefill), draft=draft
    )
