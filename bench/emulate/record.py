"""`python -m bench record`: texts of a target, and drafts' guesses at each of their positions."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import click

from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_context import LlamaConfig, Profile
from airdraft.nodes.engine.protocol import EngineError, Model, Tokenizer
from airdraft.nodes.engine.sampling import Sampling
from airdraft.policies.acceptance import CALIBRATION_KEY
from bench.decoding import decoded, guesses_of
from bench.distill.report import Reporter
from bench.distill.sampling.prompts import COPYING, held_out_texts
from bench.emulate.recording import (
    RecordedGuesses,
    RecordedModel,
    RecordedText,
    Recording,
    to_bytes,
)
from bench.harness.report import head, row
from bench.load.workloads import PLAIN_NAMES, workload
from bench.options import at_least, model_file, target_option, workloads_option

_GREEDY = Sampling()
_CELLS = 8192
# Bounds of the columns in the table of texts by acceptance.
_EDGES = (0.0, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.01)


def record_texts(
    target: Model,
    tokenizer: Tokenizer,
    prompts: Sequence[tuple[str, str]],
    max_tokens: int,
    progress: Callable[[str, int, int], None],
) -> list[RecordedText]:
    """Returns the target's greedy answers, in its own token ids, without guesses.

    prompts: a label such as "chat" and the text of each; texts are messages of a chat.
    """
    texts = []
    for done, (kind, prompt) in enumerate(prompts):
        prompt_ids = tuple(tokenizer.encode_chat([("user", prompt)]))
        output_ids = tuple(decoded(target, prompt_ids, _GREEDY, max_tokens))
        target.truncate(0, 0)
        texts.append(RecordedText(kind, prompt, prompt_ids, output_ids, ()))
        progress("texts of the target", done + 1, len(prompts))
    return texts


def add_guesses(
    draft: Model, texts: Sequence[RecordedText], progress: Callable[[str, int, int], None]
) -> list[RecordedText]:
    """Returns the texts with one more draft's guesses at each position, given the true prefix."""
    result = []
    for done, text in enumerate(texts):
        token_ids, shares, others = guesses_of(draft, text.prompt_ids, text.output_ids, _GREEDY)
        added = RecordedGuesses(tuple(token_ids), tuple(shares), tuple(others))
        result.append(replace(text, guesses=(*text.guesses, added)))
        progress("texts of a draft", done + 1, len(texts))
    return result


def dense_recording(
    target: RecordedModel,
    drafts: Sequence[RecordedModel],
    texts: Sequence[RecordedText],
    tokenizer: Tokenizer,
    eog_ids: frozenset[int],
) -> Recording:
    """Returns a recording with token ids renumbered to those that occur, most frequent first."""
    counts = Counter[int]()
    for text in texts:
        counts.update((*text.prompt_ids, *text.output_ids))
        for guesses in text.guesses:
            counts.update((*guesses.token_ids, *itertools.chain(*guesses.others)))
    # A replay needs a token to end texts that were cut, even if no recorded text ends by itself.
    if not any(token_id in eog_ids for token_id in counts):
        counts[min(eog_ids)] = 0
    ordered = [token_id for token_id, _ in sorted(counts.items(), key=lambda c: (-c[1], c[0]))]
    places = {token_id: place for place, token_id in enumerate(ordered)}

    def mapped(ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(places[token_id] for token_id in ids)

    dense = [
        replace(
            text,
            prompt_ids=mapped(text.prompt_ids),
            output_ids=mapped(text.output_ids),
            guesses=tuple(
                RecordedGuesses(
                    mapped(guesses.token_ids),
                    guesses.probabilities,
                    tuple(map(mapped, guesses.others)),
                )
                for guesses in text.guesses
            ),
        )
        for text in texts
    ]
    return Recording(
        target=target,
        drafts=tuple(drafts),
        pieces=tuple(tokenizer.piece(token_id) for token_id in ordered),
        eog_ids=tuple(places[token_id] for token_id in ordered if token_id in eog_ids),
        texts=tuple(dense),
    )


def prompts_to_record(count: int) -> list[tuple[str, str]]:
    """Returns `count` chat prompts on which no draft model of the project was trained.

    Two of five are of all kinds but code, three of ten are about code, three of ten ask to copy.
    """
    code = [text for kind, text in held_out_texts() if kind == "code"]
    chat = [text for kind, text in held_out_texts() if kind != "code"]
    num_each = 3 * count // 10
    wanted = {
        "chat": _spread(chat, count - 2 * num_each),
        "code": _spread(code, num_each),
        "copy": _spread([text for _, text in held_out_texts(COPYING)], num_each),
    }
    return [(kind, text) for kind, texts in wanted.items() for text in texts]


def _spread(texts: Sequence[str], count: int) -> list[str]:
    """Returns `count` of the texts, at equal distances."""
    count = min(count, len(texts))
    return [texts[index * len(texts) // count] for index in range(count)]


@click.command("record")
@target_option
@click.option(
    "--draft",
    "drafts",
    multiple=True,
    default=("smollm2-draft", "smollm2-135m-q4_0"),
    help="Name or path. Can be repeated.",
)
@click.option("--texts", "count", type=click.IntRange(10, 250), default=80)
@workloads_option(PLAIN_NAMES, "", "Record the prompts that `speed --prompts TEXTS` has of these.")
@at_least("--max-tokens", 192, "Largest length of a text.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
def record_command(
    target: str, drafts: Sequence[str], count: int, workloads: list[str], max_tokens: int, out: Path
) -> None:
    """Record texts of a target and the guesses of its drafts.

    Nodes can replay the recording. Tables of acceptance are printed.

    \b
    Example:
      python -m bench record --out bench/emulate/recordings/smollm2-135m.json.z
    """
    prompts = prompts_to_record(count)
    if workloads:
        made = [(name, workload(name, count).prompts) for name in workloads]
        prompts = [(name, text) for name, texts in made for text in dict.fromkeys(texts)]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        recording = _record_models(target, drafts, prompts, max_tokens)
        out.write_bytes(to_bytes(recording))
    except OSError as error:
        raise click.ClickException(str(error)) from error
    click.echo(acceptance_tables(recording))


def _record_models(
    target: str, drafts: Sequence[str], prompts: Sequence[tuple[str, str]], max_tokens: int
) -> Recording:
    """Record models of the catalogue.

    The target runs in profile exact. Drafts run in profile fast, as draft nodes do by default.
    """
    with Reporter() as reporter, _opened(target, "exact") as model:
        texts = record_texts(model, model.vocabulary, prompts, max_tokens, reporter)
        described = []
        for name in drafts:
            with _opened(name, "fast") as draft:
                if draft.info.vocab_hash != model.info.vocab_hash:
                    raise EngineError(f"{name} and {target} have different vocabularies")
                texts = add_guesses(draft, texts, reporter)
                calibration = draft.metadata(CALIBRATION_KEY)
                described.append(_described(name, draft, calibration))
        ends = model.info.eog_token_ids
        return dense_recording(_described(target, model), described, texts, model.vocabulary, ends)


@contextlib.contextmanager
def _opened(name: str, profile: Profile) -> Iterator[LlamaModel]:
    path = model_file(name)
    config = LlamaConfig(path=path, profile=profile, num_cells=_CELLS, max_sequences=1)
    with contextlib.closing(LlamaModel(config)) as model:
        yield model


def _described(name: str, model: LlamaModel, calibration: str = "") -> RecordedModel:
    # Keep only the file's name of a path, because recordings are published.
    return RecordedModel(Path(name).name, model.info.model_hash, calibration)


def acceptance_tables(recording: Recording) -> str:
    """Returns tables of each draft's mean acceptance by kind of text, and texts by acceptance."""
    models = (recording.target, *recording.drafts)
    lines = [f"{model.name}: SHA-256 {model.sha256}" for model in models]
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


def _mean(flags: Sequence[bool]) -> float:
    return sum(flags) / max(1, len(flags))
