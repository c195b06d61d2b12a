"""Training in two phases: plain text, then the target's answers. Stops and goes on at any step."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import gguf
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from airdraft.nodes.engine.protocol import EngineError
from bench.decoding import tokenizer_of
from bench.distill.report import Reporter
from bench.distill.sampling.answers import AnswerFolder
from bench.distill.sampling.corpus import TOKENS, vocabulary_of_corpus
from bench.distill.training.data import AnswerBatches, Batch, CorpusBatches, pack, split_answers
from bench.distill.training.loss import backward_head, choose_candidates
from bench.distill.training.model import DraftModel, Shape, fake_quantised, reduced_embedding

_CHECKPOINT = "checkpoint.pt"
_SAVE_EVERY_S = 300.0
_LOG_EVERY = 10
_VALIDATE_EVERY = 200
_ROW_LENGTH = 512
_ROWS = 8
_ANSWERS_PER_BATCH = 12
_TEMPERATURE = 0.8
_BEST_SHARE = 0.2
_MAX_HELD_OUT = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One phase. The rate warms up, stays, and falls to zero over the last `decay` of the steps.

    num_negatives: of the sampled softmax, which the last `full_share` of the steps does without.
    quantised_share: the last steps see the embedding as the file will hold it.
    """

    name: str
    num_steps: int
    matrix_rate: float = 3e-3
    other_rate: float = 1e-3
    warmup_steps: int = 50
    decay: float = 0.5
    temperature: float = 1.0
    num_negatives: int = 2048
    full_share: float = 0.0
    quantised_share: float = 0.0

    def rate(self, step: int) -> float:
        """Factor of the learning rates at a step of this phase."""
        rising = min(1.0, (step + 1) / self.warmup_steps)
        falling = min(1.0, (self.num_steps - step) / max(1.0, self.decay * self.num_steps))
        return min(rising, falling)

    def is_in_last(self, step: int, share: float) -> bool:
        return step >= self.num_steps * (1.0 - share)


def load_draft(folder: Path) -> DraftModel:
    """The model of a training folder."""
    path = folder / _CHECKPOINT
    if not path.exists():
        raise EngineError(f"no checkpoint in {folder}: run `python -m bench distill train`")
    state = torch.load(path, weights_only=True)
    model = DraftModel(Shape(**state["shape"]))
    model.load_state_dict(state["model"])
    return model


@cache
def faster_dtype(width: int) -> torch.dtype:
    """bfloat16 where this processor multiplies it faster than float32, as those with AMX do.

    It is measured once in a process, so that all runs there compute with the same type.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, y = torch.ones(1024, width, dtype=dtype), torch.ones(width, 1024, dtype=dtype)
        times = []
        for _ in range(4):
            began_s = time.perf_counter()
            x @ y
            times.append(time.perf_counter() - began_s)
        seconds[dtype] = min(times)
    return min(seconds, key=lambda dtype: seconds[dtype])


class Batches(Protocol):
    def batch(self, step: int) -> Batch: ...


class Trainer:
    """A model, its optimisers and the step reached, kept in OUT/checkpoint.pt."""

    def __init__(self, out: Path, shape: Shape, *, seed: int, embedding: Tensor | None) -> None:
        self._out, self._seed = out, seed
        self._checkpoint = out / _CHECKPOINT
        self.model = DraftModel(shape, seed=seed)
        if embedding is not None:
            with torch.no_grad():
                self.model.token_embd.weight.copy_(embedding)
        matrices = [p for p in self.model.blk.parameters() if p.dim() == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in self.model.parameters() if id(p) not in chosen]
        self._optimisers: dict[str, torch.optim.Optimizer] = {
            "matrix": torch.optim.Muon(
                matrices, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"
            ),
            "other": torch.optim.AdamW(others, weight_decay=0.0, betas=(0.9, 0.98)),
        }
        self._dtype = faster_dtype(shape.width)
        # Steps done of each phase, by name.
        self.done: dict[str, int] = {}
        out.mkdir(parents=True, exist_ok=True)
        self._load(shape)

    def _load(self, shape: Shape) -> None:
        if not self._checkpoint.exists():
            return
        state = torch.load(self._checkpoint, weights_only=True)
        if state["shape"] != asdict(shape):
            raise EngineError(f"{self._checkpoint} is of another shape: choose another folder")
        self.model.load_state_dict(state["model"])
        for name, optimiser in self._optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.done = dict(state["done"])

    def save(self) -> None:
        temporary = self._checkpoint.with_suffix(".new")
        torch.save(
            {
                "shape": asdict(self.model.shape),
                "model": self.model.state_dict(),
                "optimisers": {n: o.state_dict() for n, o in self._optimisers.items()},
                "done": self.done,
            },
            temporary,
        )
        temporary.replace(self._checkpoint)

    def run(
        self,
        phase: Schedule,
        batches: Batches,
        reporter: Reporter,
        *,
        should_stop: Callable[[], bool],
        validate: Callable[[DraftModel], dict[str, float]] | None = None,
    ) -> bool:
        """Do what is left of a phase; False if it was stopped before its end."""
        saved_s = time.monotonic()
        for step in range(self.done.get(phase.name, 0), phase.num_steps):
            if should_stop():
                self.save()
                return False
            began_s = time.monotonic()
            batch = batches.batch(step)
            loss, agreement = self._step(phase, step, batch)
            self.done[phase.name] = step + 1
            rate = len(batch.positions) / (time.monotonic() - began_s)
            label = f"{phase.name}: loss {loss:.3f}, agrees {agreement:.3f}, {rate:.0f} tokens/s"
            reporter(label, step + 1, phase.num_steps)
            figures = {"loss": loss, "agreement": agreement, "tokens": len(batch.positions)}
            is_last = step + 1 == phase.num_steps
            if validate is not None and ((step + 1) % _VALIDATE_EVERY == 0 or is_last):
                figures |= validate(self.model)
                said = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
                reporter.note(f"step {step + 1}: {said}")
            if (step + 1) % _LOG_EVERY == 0 or is_last:
                self._log(phase.name, step + 1, figures)
            if is_last or time.monotonic() - saved_s > _SAVE_EVERY_S:
                self.save()
                saved_s = time.monotonic()
        return True

    def _step(self, phase: Schedule, step: int, batch: Batch) -> tuple[float, float]:
        model, embedding = self.model, self.model.token_embd.weight
        rates = {"matrix": phase.matrix_rate, "other": phase.other_rate}
        for name, optimiser in self._optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = rates[name] * phase.rate(step)
            optimiser.zero_grad(set_to_none=True)
        generator = np.random.default_rng([self._seed, 3, step])
        num_vocab = model.shape.num_vocab
        is_full = phase.is_in_last(step, phase.full_share)
        num_negatives = num_vocab if is_full else phase.num_negatives
        candidates = choose_candidates(batch, num_vocab, num_negatives, generator)
        with fake_quantised(embedding, enabled=phase.is_in_last(step, phase.quantised_share)):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._dtype != torch.float32):
                states = model(torch.from_numpy(batch.token_ids)).float()
            wanted = states.flatten(0, 1)[torch.from_numpy(batch.positions)]
            loss, agreement, gradient = backward_head(
                wanted.detach(), embedding, batch, candidates, phase.temperature, self._dtype
            )
            torch.autograd.backward(wanted, gradient)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in self._optimisers.values():
            optimiser.step()
        return loss, agreement

    def _log(self, phase: str, step: int, figures: dict[str, float]) -> None:
        line = json.dumps({"phase": phase, "step": step, "time_s": round(time.time()), **figures})
        with (self._out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def validation(batch: Batch, temperature: float) -> Callable[[DraftModel], dict[str, float]]:
    """Agreement and overlap of distributions with the target on answers not trained on.

    agreement: share of positions with the same best token. overlap: sum of min(p, q) at the
    temperature over the target's best tokens, what rejection sampling would accept.
    """

    @torch.no_grad()
    def measure(model: DraftModel) -> dict[str, float]:
        states = model(torch.from_numpy(batch.token_ids)).flatten(0, 1)
        states = states[torch.from_numpy(batch.positions)]
        agreed = overlap = loss = 0.0
        for start in range(0, len(states), 512):
            logits = states[start : start + 512] @ model.token_embd.weight.T
            ids = torch.from_numpy(batch.teacher_ids[start : start + 512])
            p = torch.from_numpy(batch.teacher_weights[start : start + 512])
            log_q = torch.log_softmax(logits / temperature, 1).gather(1, ids)
            agreed += float((logits.argmax(1) == ids[:, 0]).sum())
            overlap += float(torch.minimum(p, log_q.exp()).sum())
            loss -= float((p * log_q).sum())
        count = len(states)
        return {
            "held_out_loss": loss / count,
            "held_out_agreement": agreed / count,
            "held_out_overlap": overlap / count,
        }

    return measure


def read_embedding(path: Path) -> npt.NDArray[np.float32]:
    """(vocab, width) float32 rows of a GGUF's token embedding."""
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == "token_embd.weight":
            return np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    raise EngineError(f"{path} has no token_embd.weight: it is not a model of a known kind")


def fit(
    target: Path,
    corpus: Path | None,
    answers: Sequence[Path],
    out: Path,
    should_stop: Callable[[], bool],
    *,
    corpus_tokens: int,
    epochs: float,
    seed: int,
    threads: int,
) -> str:
    """Train, or go on training, the draft in the folder `out`; returns a line about its end.

    corpus_tokens, epochs: length of the two phases. One without data is left out.
    """
    torch.set_num_threads(threads)
    folders = [AnswerFolder(folder) for folder in answers]
    made_for = {folder.path: folder.recipe.vocab_hash for folder in folders}
    if corpus is not None:
        made_for[corpus] = vocabulary_of_corpus(corpus)
    vocab_hash = tokenizer_of(target).content_hash()
    for path, known in made_for.items():
        if known != vocab_hash:
            raise EngineError(f"{path} holds tokens of another target than {target.name}")
    rows = read_embedding(target)
    shape = Shape(num_vocab=len(rows))
    embedding = reduced_embedding(torch.from_numpy(rows), shape.width)
    trainer = Trainer(out, shape, seed=seed, embedding=embedding)
    trained, held_out = split_answers(folders)
    validate = None
    if held_out:
        batch = pack(held_out[:_MAX_HELD_OUT], _ROW_LENGTH, _TEMPERATURE, 0.0)
        validate = validation(batch, _TEMPERATURE)
    phases: list[tuple[Schedule, Batches]] = []
    if corpus is not None:
        num_steps = corpus_tokens // (_ROWS * _ROW_LENGTH)
        windows = CorpusBatches(corpus / TOKENS, rows=_ROWS, length=_ROW_LENGTH, seed=seed)
        phases.append((Schedule(name="corpus", num_steps=num_steps, decay=0.2), windows))
    if trained:
        batches = AnswerBatches(
            trained,
            per_batch=_ANSWERS_PER_BATCH,
            length=_ROW_LENGTH,
            seed=seed,
            temperature=_TEMPERATURE,
            best_share=_BEST_SHARE,
        )
        phase = Schedule(
            name="answers",
            num_steps=round(epochs * batches.steps_per_epoch),
            temperature=_TEMPERATURE,
            full_share=0.25,
            quantised_share=0.25,
        )
        phases.append((phase, batches))
    if not any(phase.num_steps for phase, _ in phases):
        raise EngineError("nothing to train on: give --corpus or --answers, and steps for them")
    with Reporter() as reporter:
        for phase, batches_of_phase in phases:
            if not trainer.run(
                phase, batches_of_phase, reporter, should_stop=should_stop, validate=validate
            ):
                return "stopped; the same command goes on"
    num_tokens = sum(len(answer.answer_ids) for answer in trained)
    return f"trained on {num_tokens} answer tokens; checkpoint in {out}"
