"""`python -m bench rows`: rows of logits of passes with guesses, to those of single steps.

It works on the engine alone: texts at once, wrong guesses, streams that sit out passes, cancelled
texts, copies, texts that are saved and restored, and compactions, all by a seed. Each row that
decides a token is compared bit for bit, and at the end of each text all that the cache holds of it,
because rows of small models hide wrong states.
"""

from __future__ import annotations

import contextlib
import math
import random
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import click
import numpy as np
import numpy.typing as npt

from airdraft.nodes.catalog import CatalogError
from airdraft.nodes.catalog.cuts import parts_of
from airdraft.nodes.catalog.gguf import GgufError
from airdraft.nodes.catalog.stages import embedding_of, write_stage
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_abi import hash_file
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.noise import drawn_ids
from airdraft.nodes.engine.protocol import EngineError, EngineInfo, Model, Rows, SavedPrefix, Span
from airdraft.nodes.engine.sampling import Sampling, sample
from airdraft.nodes.engine.snapshots import SnapshotModel
from airdraft.nodes.engine.split.embedding import Embedding
from airdraft.nodes.engine.split.last import PIECE_TOKENS, SplitModel
from airdraft.nodes.engine.split.stage import Piece, StageModel
from bench.options import at_least, listed

# Tokens of the prompts. Each text is written once greedily or at temperature 1.
_PROMPTS: Final = (7, 40, 23, 66, 12, 31, 50, 9, 18, 44, 28, 75)
_PIECES: Final = (5, 16, 32)
# As many as the texts need, so garbage makes compactions necessary.
_NUM_CELLS: Final = 1536
_MOST_GUESSES: Final = 5
_RIGHT: Final = 0.7
_SITS_OUT, _MOVES, _IS_COPIED, _IS_CANCELLED = 0.1, 0.03, 0.05, 0.05


@dataclass(frozen=True)
class Known:
    """A text as single steps write it: its tokens, the row that decided each, and the cache."""

    prompt: list[int]
    token_ids: list[int]
    rows: npt.NDArray[np.float32]
    ended: npt.NDArray[np.uint8]


@dataclass
class Found:
    """What was compared, and how much of it differs."""

    num_rows: int = 0
    num_other_rows: int = 0
    num_states: int = 0
    num_other_states: int = 0
    num_passes: int = 0


@dataclass
class _Stream:
    text: Known
    seq_id: int
    # Tokens of the text that are known, and how many of them the cache has.
    length: int = field(init=False)
    num_read: int = 0

    def __post_init__(self) -> None:
        self.length = len(self.text.prompt)


def known_texts(model: Model, num_tokens: int) -> list[Known]:
    """Returns texts of so many tokens each, which are written one after the other."""
    texts = []
    for number, count in enumerate(_PROMPTS):
        prompt = drawn_ids(100 + number, count, model.info.num_vocab)
        sampling = Sampling(temperature=float(number % 2), top_p=0.95, seed=number)
        for start in range(0, count - 1, 16):
            model.forward([Span(0, start, prompt[start : min(start + 16, count - 1)])])
        token_ids, rows = list(prompt), []
        for _ in range(num_tokens):
            row = model.forward([Span(0, len(token_ids) - 1, token_ids[-1:], 1)])[0].copy()
            rows.append(row)
            token_ids.append(sample(row, sampling, len(token_ids)))
        texts.append(Known(prompt, token_ids, np.stack(rows), _whole(model, 0)))
        model.truncate(0, 0)
    return texts


def compared(model: Model, texts: Sequence[Known], num_streams: int, draw: random.Random) -> Found:
    """Write all texts again, num_streams at a time and with guesses, and compare them."""
    found, waiting, running = Found(), list(texts), dict[int, _Stream]()
    while waiting or running:
        free = [seq_id for seq_id in range(num_streams) if seq_id not in running]
        draw.shuffle(free)
        while waiting and free:
            seq_id = free.pop()
            running[seq_id] = _Stream(waiting.pop(0), seq_id)
        spans = _spans(model, list(running.values()), draw)
        if not spans:
            continue
        rows = model.forward(spans)
        found.num_passes += 1
        for span in spans:
            stream = running[span.seq_id]
            _commit(stream, span, rows[: span.num_outputs], found)
            rows = rows[span.num_outputs :]
        for span in spans:
            model.truncate(span.seq_id, running[span.seq_id].num_read)
        for span in spans:
            stream = running[span.seq_id]
            is_over = stream.length == len(stream.text.token_ids)
            if is_over:
                found.num_states += 1
                found.num_other_states += not np.array_equal(
                    _settled(model, stream, num_streams), stream.text.ended
                )
            if is_over or (span.start == 0 and draw.random() < _IS_CANCELLED):
                if not is_over:
                    waiting.append(stream.text)
                model.truncate(span.seq_id, 0)
                del running[span.seq_id]
        for stream in list(running.values()):
            _move(model, stream, running, num_streams, draw)
    return found


def _spans(model: Model, streams: Sequence[_Stream], draw: random.Random) -> list[Span]:
    spans = []
    for stream in streams:
        token_ids, start = stream.text.token_ids, stream.num_read
        if draw.random() < _SITS_OUT:
            continue
        missing = len(stream.text.prompt) - 1 - start
        if missing > 0:
            count = min(draw.choice(_PIECES), missing)
            spans.append(Span(stream.seq_id, start, token_ids[start : start + count]))
            continue
        num = min(draw.randint(0, _MOST_GUESSES), len(token_ids) - 1 - stream.length)
        right = token_ids[stream.length : stream.length + max(0, num)]
        # What cannot take wrong guesses back gets none.
        chance = _RIGHT if model.info.can_take_back else 1.0
        guesses = [
            token_id if draw.random() < chance else draw.randrange(model.info.num_vocab)
            for token_id in right
        ]
        ids = [token_ids[stream.length - 1], *guesses]
        spans.append(Span(stream.seq_id, start, ids, len(ids), keeps=True))
    draw.shuffle(spans)
    return spans


def _commit(stream: _Stream, span: Span, rows: npt.NDArray[np.float32], found: Found) -> None:
    """Compare the rows of a stream up to its first wrong guess, and go on as single steps did."""
    if not span.num_outputs:
        stream.num_read += len(span.token_ids)
        return
    guesses = span.token_ids[1:]
    for place, row in enumerate(rows):
        found.num_rows += 1
        at = stream.length - len(stream.text.prompt)
        found.num_other_rows += not np.array_equal(row, stream.text.rows[at])
        token_id = stream.text.token_ids[stream.length]
        stream.length += 1
        if place < len(guesses) and guesses[place] != token_id:
            break
    stream.num_read = stream.length - 1


def _move(
    model: Model,
    stream: _Stream,
    running: dict[int, _Stream],
    num_streams: int,
    draw: random.Random,
) -> None:
    """Save and restore a stream, compact the cache, or copy a stream, each every now and then."""
    if not model.length(stream.seq_id):
        return
    if draw.random() < _MOVES:
        saved = model.save(stream.seq_id)
        model.truncate(stream.seq_id, 0)
        model.restore(stream.seq_id, saved, saved.length)
    if draw.random() < _MOVES:
        model.compact()
    free = [seq_id for seq_id in range(num_streams) if seq_id not in running]
    if free and draw.random() < _IS_COPIED:
        copy = running[free[0]] = _Stream(stream.text, free[0])
        copy.length, copy.num_read = stream.length, stream.num_read
        model.copy_prefix(stream.seq_id, copy.seq_id, model.length(stream.seq_id))


def _settled(model: Model, stream: _Stream, spare: int) -> npt.NDArray[np.uint8]:
    """Returns what the cache holds of an ended text, as if it were sequence 0 as in known_texts().

    spare: a sequence that is free.
    """
    seq_id, end = stream.seq_id, stream.num_read
    if model.num_pending(seq_id):
        model.truncate(seq_id, end - 1)
        model.forward([Span(seq_id, end - 1, [stream.text.token_ids[end - 1]])])
    if seq_id == 0:
        return _whole(model, 0)
    # What is saved has the number of its sequence, so this one changes places with sequence 0.
    others = model.save(0) if model.length(0) else None
    saved = model.save(seq_id)
    model.truncate(seq_id, 0)
    model.truncate(0, 0)
    model.restore(0, saved, saved.length)
    state = _whole(model, 0)
    model.truncate(0, 0)
    if others is not None:
        model.restore(0, others, others.length)
    model.restore(seq_id, saved, saved.length)
    return state


def _whole(model: Model, seq_id: int) -> npt.NDArray[np.uint8]:
    """Returns what the cache holds of a sequence; zeros may be negative in a first state."""
    state = model.save(seq_id).state
    words = np.append(state, np.zeros(-state.size % 4, dtype=np.uint8)).view(np.uint32)
    words[words == 1 << 31] = 0
    return words.view(np.uint8)


class StagesHere:
    """Stages in this process: implements Ahead."""

    most_tokens: Final = PIECE_TOKENS
    saved_bytes_a_block: Final = math.inf

    def __init__(self, stages: Sequence[StageModel]) -> None:
        self._stages = stages
        self._under_way: deque[tuple[Sequence[Piece], Rows]] = deque()
        self._saved: dict[int, list[SavedPrefix]] = {}

    def open(self, info: EngineInfo) -> int:
        return min(stage.info.num_cells for stage in self._stages)

    def begin(self, pieces: Sequence[Piece], rows: Rows) -> None:
        for stage in self._stages:
            rows = stage.run(pieces, rows)
        self._under_way.append((pieces, rows.copy()))

    def finish(self) -> Rows:
        return self._under_way.popleft()[1]

    def cut(self, seq_id: int, length: int) -> None:
        for stage in self._stages:
            stage.truncate(seq_id, length)

    def make_room(self, num_tokens: int) -> None:
        for stage in self._stages:
            stage.tidy(num_tokens)

    def keep(self, seq_id: int) -> None:
        for stage in self._stages:
            stage.keep(seq_id)

    def copy(self, source: int, target: int, length: int) -> None:
        for stage in self._stages:
            stage.copy_prefix(source, target, length)

    def save(self, slot: int, seq_id: int) -> None:
        self._saved[slot] = [stage.save(seq_id) for stage in self._stages]

    def restore(self, slot: int, seq_id: int) -> None:
        for stage, saved in zip(self._stages, self._saved[slot], strict=True):
            stage.restore(seq_id, saved, saved.length)

    def drop(self, slot: int) -> None:
        self._saved.pop(slot, None)

    def close(self) -> None:
        for stage in self._stages:
            stage.close()


def stage_files(path: Path, cuts: Sequence[int], folder: Path) -> tuple[list[Path], str]:
    """Writes the files of a model's stages; returns them and the hash of the whole model.

    Raises CatalogError, GgufError or OSError.
    """
    files, model_hash = list[Path](), hash_file(path)
    for part in parts_of(path, cuts):
        files.append(folder / f"{part.first}.gguf")
        write_stage(path, part, model_hash, files[-1], lambda *_: None)
    return files, model_hash


def in_stages(config: LlamaConfig, cuts: Sequence[int], folder: Path) -> SplitModel:
    """Opens a model in stages in this process, with files in a folder.

    Raises EngineError, and what stage_files() raises.
    """
    files, model_hash = stage_files(config.path, cuts, folder)
    *first, last = [replace(config, path=file) for file in files]
    ahead = StagesHere([StageModel(each, model_hash=model_hash) for each in first])
    return SplitModel(last, ahead, Embedding(embedding_of(last.path)), model_hash=model_hash)


@click.command("rows")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--streams", type=listed(int), default="1,4,6", help="Texts at once.")
@at_least("--seeds", 10, "Runs of each, with other passes.")
@at_least("--max-tokens", 100, "Tokens of each of the twelve texts.", least=2)
@click.option("--snapshots", default=0, help="States of earlier tokens, instead of kept ones.")
@click.option(
    "--cuts",
    type=listed(int, or_none=True),
    default="",
    help="Blocks before which the model is cut into stages.",
)
def rows_command(
    files: tuple[Path, ...],
    streams: list[int],
    seeds: int,
    max_tokens: int,
    snapshots: int,
    cuts: list[int],
) -> None:
    """Compare the logits of passes with guesses with those of single steps, bit for bit.

    With --cuts all passes are those of stages in one process, and single steps are compared with
    those of the whole model, too.

    \b
    Examples:
      python -m bench rows lfm2.gguf qwen3.5.gguf
      python -m bench rows qwen2.5-coder-1.5b.gguf --cuts 9,20
    """
    total = 0
    for path in files:
        num_sequences = max(streams) + 1
        config = LlamaConfig(
            path=path, num_cells=_NUM_CELLS, max_sequences=num_sequences, num_snapshots=snapshots
        )
        with contextlib.ExitStack() as stack:
            try:
                model = (SnapshotModel if snapshots else LlamaModel)(config)
                whole = []
                if cuts:
                    with contextlib.closing(model):
                        whole = known_texts(model, max_tokens)
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                    model = in_stages(config, cuts, folder)
            except (EngineError, CatalogError, GgufError) as error:
                raise click.ClickException(f"{path}: {error}") from None
            stack.enter_context(contextlib.closing(model))
            info = model.info
            way = "cut" if info.can_cut else "replayed" if info.can_take_back else "no guesses"
            way = "snapshots" if snapshots else way
            texts = known_texts(model, max_tokens)
            if cuts:
                pairs = zip(whole, texts, strict=True)
                others = sum(int((a.rows != b.rows).any(axis=1).sum()) for a, b in pairs)
                total += others
                way = f"{len(cuts) + 1} stages, {others} of {max_tokens * len(texts)} single steps"
                way += " other than the whole model's"
            for num_streams in streams:
                sum_ = Found()
                for seed in range(seeds):
                    found = compared(model, texts, num_streams, random.Random(seed))
                    for name, value in vars(found).items():
                        setattr(sum_, name, getattr(sum_, name) + value)
                total += sum_.num_other_rows + sum_.num_other_states
                click.echo(
                    f"{path.name}, {way}, streams: {num_streams}, passes: {sum_.num_passes:,}, "
                    f"rows with other bits: {sum_.num_other_rows} of {sum_.num_rows:,}, "
                    f"states: {sum_.num_other_states} of {sum_.num_states}"
                )
    if total:
        raise click.ClickException(f"{total} rows and states have other bits than single steps")
