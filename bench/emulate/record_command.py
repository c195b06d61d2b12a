"""`python -m bench record`: record a real target and its drafts, and describe the recording."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.distill.report import Reporter
from bench.distill.sampling.prompts import COPYING, HELD_OUT, HeldOutPrompts
from bench.emulate.record import PromptToRecord, add_guesses, dense_recording, record_texts
from bench.emulate.recording import RecordedModel, Recording, to_bytes
from bench.harness.report import head, row
from bench.load.workloads import workload
from nodes.catalog import Catalog, default_cache_dir
from nodes.config.settings import environment
from nodes.engine.llama import LlamaConfig, LlamaModel, Profile
from nodes.engine.protocol import EngineError
from policies.acceptance import CALIBRATION_KEY

_CELLS = 8192
# Bounds of the columns in the table of texts by acceptance.
_EDGES = (0.0, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.01)


def prompts_to_record(count: int) -> list[PromptToRecord]:
    """Return `count` chat prompts on which no draft model of the project was trained.

    Two of five are of all kinds but code, three of ten are about code, three of ten ask to copy.
    """
    held_out = [p for p in map(HeldOutPrompts(name=HELD_OUT).prompt, range(200)) if p is not None]
    code = [prompt.text for prompt in held_out if prompt.kind == "code"]
    chat = [prompt.text for prompt in held_out if prompt.kind != "code"]
    num_each = 3 * count // 10
    wanted = {
        "chat": _spread(chat, count - 2 * num_each),
        "code": _spread(code, num_each),
        "copy": _spread(HeldOutPrompts(name=COPYING).texts(), num_each),
    }
    return [
        PromptToRecord(kind, text, chat=True) for kind, texts in wanted.items() for text in texts
    ]


def _spread(texts: Sequence[str], count: int) -> list[str]:
    """Return `count` of the texts, at equal distances."""
    count = min(count, len(texts))
    return [texts[index * len(texts) // count] for index in range(count)]


def prompts_of_workloads(names: Sequence[str], count: int) -> list[PromptToRecord]:
    """Return the prompts that `bench speed --prompts COUNT` has of these workloads."""
    return [
        PromptToRecord(name, text, chat=True)
        for name in names
        for text in dict.fromkeys(workload(name, count).prompts)
    ]


def record_models(
    target: str,
    drafts: Sequence[str],
    out: Path,
    prompts: Sequence[PromptToRecord],
    max_tokens: int,
) -> str:
    """Record models of the catalogue into the file `out`; returns tables of acceptance.

    The target runs in profile exact. Drafts run in profile fast, as draft nodes do by default.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with Reporter() as reporter, _opened(target, "exact") as model:
        texts = record_texts(model, model.vocabulary, prompts, max_tokens, reporter)
        described = []
        for name in drafts:
            with _opened(name, "fast") as draft:
                if draft.info.vocab_hash != model.info.vocab_hash:
                    raise EngineError(f"{name} and {target} have different vocabularies")
                texts = add_guesses(draft, texts, reporter)
                described.append(_described(name, draft))
        recording = dense_recording(
            RecordedModel(Path(target).name, model.info.model_hash),
            described,
            texts,
            model.vocabulary,
            model.info.eog_token_ids,
        )
    out.write_bytes(to_bytes(recording))
    return acceptance_tables(recording)


@contextlib.contextmanager
def _opened(name: str, profile: Profile) -> Iterator[LlamaModel]:
    path = Catalog(default_cache_dir(environment())).ensure(name)
    config = LlamaConfig(path=path, profile=profile, num_cells=_CELLS, max_sequences=1)
    with contextlib.closing(LlamaModel(config)) as model:
        yield model


def _described(name: str, draft: LlamaModel) -> RecordedModel:
    # Keep only the file's name of a path, because recordings are published.
    calibration = draft.metadata(CALIBRATION_KEY)
    return RecordedModel(Path(name).name, draft.info.model_hash, calibration)


def acceptance_tables(recording: Recording) -> str:
    """Return tables of each draft's mean acceptance by kind of text, and texts by acceptance."""
    lines = [f"{model.name}: SHA-256 {model.sha256}" for model in _models(recording)]
    num_tokens = sum(len(text.output_ids) for text in recording.texts)
    lines.append(
        f"{len(recording.texts)} texts, {num_tokens} tokens, vocabulary of {recording.num_vocab}"
    )
    kinds = list(dict.fromkeys(text.kind for text in recording.texts))
    lines += ["", head("draft", "all", *kinds)]
    for index, draft in enumerate(recording.drafts):
        flags = [(text.kind, text.accepted(index)) for text in recording.texts]
        means = [_mean([f for k, each in flags if k == kind for f in each]) for kind in kinds]
        whole = _mean([f for _, each in flags for f in each])
        lines.append(row(draft.name, *(f"{mean:.3f}" for mean in (whole, *means))))
    bounds = list(itertools.pairwise(_EDGES))
    lines += ["", head("texts with", *(f"{low:g} to {high:g}" for low, high in bounds))]
    for draft in recording.drafts:
        lines.append(row(draft.name, *(len(recording.texts_with(draft.name, *b)) for b in bounds)))
    return "\n".join(lines)


def _models(recording: Recording) -> tuple[RecordedModel, ...]:
    return (recording.target, *recording.drafts)


def _mean(flags: Sequence[bool]) -> float:
    return sum(flags) / max(1, len(flags))
