"""Let the target answer many prompts at once, and note what it thought of each position."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.protocol import InvalidInputError, Logits, Sequences, Span, Tokenizer
from airdraft.nodes.engine.sampling import Sampling, sample, top_k_ids
from bench.distill.report import Progress, Reporter, stop_flag
from bench.distill.sampling.answers import Answer, AnswerFolder, Recipe
from bench.distill.sampling.prompts import Prompt, Prompts

_MAX_SELF_PROMPT = 80
_MAX_PROMPT = 480
# Tokens that are noted at each position.
_NUM_BEST = 32
_CELLS_PER_SEQUENCE = 1280


@dataclass(frozen=True, slots=True)
class ChatFrame:
    """What a chat template puts before and after the user's words, as token ids."""

    prefix: list[int]
    suffix: list[int]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ChatFrame | None:
        """Found by comparing two prompts; None where there is no template, or one with no end."""
        try:
            one, two = (tokenizer.encode_chat([("user", t)]) for t in ("Apple pie", "7 ways"))
        except InvalidInputError:
            return None
        shorter = min(len(one), len(two))
        before = next((i for i in range(shorter) if one[i] != two[i]), shorter)
        after = next((i for i in range(shorter) if one[-1 - i] != two[-1 - i]), shorter)
        prefix, suffix = one[:before], one[len(one) - after :]
        return cls(prefix, suffix) if prefix and suffix else None


@dataclass(slots=True)
class _Slot:
    """One sequence: the user's turn where the target writes it, then the answer."""

    prompt: Prompt
    seq_id: int
    sampling: Sampling
    prompt_ids: list[int]
    pending: list[int]
    is_answering: bool
    answer_ids: list[int] = field(default_factory=list)
    best_ids: list[npt.NDArray[np.int64]] = field(default_factory=list)
    best_logps: list[npt.NDArray[np.float32]] = field(default_factory=list)


class Sampler:
    """Fills a folder with answers; prompts are taken in the order of their numbers."""

    def __init__(
        self, model: Sequences, tokenizer: Tokenizer, answers: AnswerFolder, prompts: Prompts
    ) -> None:
        self._model, self._tokenizer, self._prompts = model, tokenizer, prompts
        self._answers = answers
        self._recipe = answers.recipe
        self._frame = ChatFrame.of(tokenizer)
        self._eog = model.info.eog_token_ids
        # The last sequence keeps the template's beginning, which all others share.
        self._holder = model.info.max_sequences - 1
        self._slots: list[_Slot] = []

    def run(self, num_tokens: int, progress: Progress, *, should_stop: Callable[[], bool]) -> int:
        """Go on until the folder holds `num_tokens` answer ids.

        Returns how many it holds.
        """
        known = {answer.index: len(answer.answer_ids) for answer in self._answers}
        waiting = (prompt for prompt in self._prompts.every if prompt.index not in known)
        began, had = time.monotonic(), sum(known.values())
        have = had
        while have < num_tokens and not should_stop():
            self._admit(waiting)
            logits = self._step()
            best, logps = best_of(logits, self._recipe.num_best)
            ended = [
                slot
                for row, slot in enumerate(self._slots)
                if self._advance(slot, logits[row], best[row], logps[row])
            ]
            for slot in ended:
                self._slots.remove(slot)
                self._model.truncate(slot.seq_id, 0)
                self._answers.add(self._answer(slot))
                have += len(slot.answer_ids)
            if ended:
                rate = (have - had) / (time.monotonic() - began)
                progress(f"answer tokens ({rate:.0f}/s)", min(have, num_tokens), num_tokens)
        return have

    def _admit(self, waiting: Iterator[Prompt]) -> None:
        used = {slot.seq_id for slot in self._slots}
        free = (seq_id for seq_id in range(self._holder) if seq_id not in used)
        self._slots += [self._start(p, seq_id) for seq_id, p in zip(free, waiting, strict=False)]
        # A pass over consecutive sequences is the quickest.
        self._slots.sort(key=lambda slot: slot.seq_id)

    def _start(self, prompt: Prompt, seq_id: int) -> _Slot:
        frame = self._frame
        if frame is None:
            # A base model: the prompt is the beginning of a text.
            ids = self._tokenizer.encode(prompt.text or "The")
        elif prompt.text:
            ids = self._tokenizer.encode_chat([("user", prompt.text)])
        else:
            ids = list(frame.prefix)
        if len(ids) > _MAX_PROMPT:
            ids = ids[:_MAX_PROMPT] + (frame.suffix if frame is not None else [])
        shared = self._share_prefix(ids, seq_id)
        return _Slot(
            prompt=prompt,
            seq_id=seq_id,
            sampling=Sampling(
                prompt.temperature, top_p=prompt.top_p, seed=self._recipe.seed, choice=prompt.index
            ),
            prompt_ids=ids,
            pending=ids[shared:],
            is_answering=bool(prompt.text) or frame is None,
        )

    def _step(self) -> Logits:
        """One token of every sequence; what else is pending is run before, each for itself."""
        for slot in self._slots:
            if len(slot.pending) > 1:
                start = self._model.length(slot.seq_id)
                self._model.forward([Span(slot.seq_id, start, slot.pending[:-1])])
                del slot.pending[:-1]
        return self._model.forward(
            [Span(s.seq_id, self._model.length(s.seq_id), s.pending, 1) for s in self._slots]
        )

    def _share_prefix(self, ids: list[int], seq_id: int) -> int:
        """Give the sequence the template's beginning but for its last id; returns its length."""
        prefix = self._frame.prefix[:-1] if self._frame is not None else []
        if not prefix or ids[: len(prefix)] != prefix:
            return 0
        if self._model.length(self._holder) == 0:
            self._model.forward([Span(self._holder, 0, prefix)])
        self._model.copy_prefix(self._holder, seq_id, len(prefix))
        return len(prefix)

    def _advance(
        self, slot: _Slot, row: Logits, best: npt.NDArray[np.int64], logps: npt.NDArray[np.float32]
    ) -> bool:
        """Take the next id of a sequence; True if its answer has ended."""
        position = self._model.length(slot.seq_id)
        if not slot.is_answering:
            self._extend_prompt(slot, row, position)
            return False
        token_id = sample(row, slot.sampling, position)
        slot.pending = [token_id]
        slot.answer_ids.append(token_id)
        slot.best_ids.append(best)
        slot.best_logps.append(logps)
        return token_id in self._eog or len(slot.answer_ids) >= self._recipe.max_answer

    def _extend_prompt(self, slot: _Slot, row: Logits, position: int) -> None:
        assert self._frame is not None
        # A user's turn is always sampled warm, else all would ask the same.
        token_id = sample(row, replace(slot.sampling, temperature=1.0, top_p=0.95), position)
        slot.is_answering = token_id in self._eog or len(slot.prompt_ids) >= _MAX_SELF_PROMPT
        slot.pending = list(self._frame.suffix) if slot.is_answering else [token_id]
        slot.prompt_ids += slot.pending

    def _answer(self, slot: _Slot) -> Answer:
        return Answer(
            index=slot.prompt.index,
            kind=slot.prompt.kind,
            seed=self._recipe.seed,
            temperature=slot.prompt.temperature,
            top_p=slot.prompt.top_p,
            prompt_ids=np.asarray(slot.prompt_ids, dtype=np.uint32),
            answer_ids=np.asarray(slot.answer_ids, dtype=np.uint32),
            best_ids=np.stack(slot.best_ids).astype(np.uint32),
            best_logps=np.stack(slot.best_logps).astype(np.float16),
        )


def best_of(logits: Logits, num_best: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The best ids of every row and their log-probabilities: (rows, num_best) each."""
    ids = np.stack([top_k_ids(row, num_best) for row in logits])
    best = np.take_along_axis(logits, ids, axis=1)
    top = best[:, :1]
    total = np.exp(logits - top).sum(axis=1, keepdims=True, dtype=np.float64)
    return ids, (best - top - np.log(total)).astype(np.float32)


def sample_answers(
    target: Path,
    out: Path,
    prompts: Prompts,
    *,
    seed: int,
    max_answer: int,
    num_tokens: int,
    width: int,
    threads: int,
) -> int:
    """Answers of the target until `out` holds `num_tokens`; goes on there. Returns how many."""
    # One sequence more than `width` for what all prompts share.
    config = LlamaConfig(
        path=target,
        num_cells=(width + 1) * _CELLS_PER_SEQUENCE,
        max_sequences=width + 1,
        max_batch_tokens=512,
        num_threads=threads,
    )
    with closing(LlamaModel(config)) as model:
        recipe = Recipe(
            model_hash=model.info.model_hash,
            vocab_hash=model.info.vocab_hash,
            num_vocab=model.info.num_vocab,
            num_best=_NUM_BEST,
            max_answer=max_answer,
            seed=seed,
            prompts_sha256=prompts.sha256,
        )
        sampler = Sampler(model, model.tokenizer, AnswerFolder(out, recipe), prompts)
        with Reporter() as reporter, stop_flag() as should_stop:
            return sampler.run(num_tokens, reporter, should_stop=should_stop)
