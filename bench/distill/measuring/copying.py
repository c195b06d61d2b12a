"""Prompt lookup on answers that copy, as a target uses it: acceptance, tokens a pass, time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.distill.sampling.answers import Answer
from bench.distill.sampling.prompts import COPYING, HELD_OUT, HeldOutPrompts
from bench.distill.steps import hash_lines, sample_answers
from nodes.engine.sampling import Sampling
from nodes.target.lookup import Lookup, Proposal
from nodes.worker.stream import StreamId, StreamSpec
from policies.plan import MAX_AUTO_GAMMA

_STOPS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8)
_FILES = {"copy": COPYING, "chat": HELD_OUT}


@dataclass(slots=True)
class Outcome:
    """Passes over some answers. seconds: of guessing and of learning from what was committed."""

    num_passes: int = 0
    num_with_guesses: int = 0
    num_guesses: int = 0
    num_accepted: int = 0
    num_tokens: int = 0
    seconds: float = 0.0

    @property
    def acceptance(self) -> float:
        return self.num_accepted / max(1, self.num_guesses)

    @property
    def tokens_a_pass(self) -> float:
        return self.num_tokens / max(1, self.num_passes)


def play(answers: Sequence[Answer], stop: float) -> Outcome:
    """Every answer, pass by pass: guesses, those accepted, the target's own token.

    stop: least chance of all guesses of a pass at which one more is made; a target sets it by what
    its passes take. What is learnt from one answer is there for the next, as on a target.
    """
    lookup = Lookup()
    outcome = Outcome()
    for number, answer in enumerate(answers, start=1):
        stream_id = StreamId(number)
        prompt = answer.prompt_ids.tolist()
        lookup.open(_spec(stream_id, tuple(prompt), answer))
        wanted = answer.answer_ids.tolist()
        while wanted:
            began_s = time.perf_counter()
            guesses = _likely(lookup.propose(stream_id, MAX_AUTO_GAMMA), stop)
            right = 0
            while right < min(len(guesses), len(wanted)) and guesses[right] == wanted[right]:
                right += 1
            lookup.committed(stream_id, wanted[: right + 1])
            outcome.seconds += time.perf_counter() - began_s
            outcome.num_passes += 1
            outcome.num_with_guesses += bool(guesses)
            outcome.num_guesses += len(guesses)
            outcome.num_accepted += right
            outcome.num_tokens += min(right + 1, len(wanted))
            del wanted[: right + 1]
        lookup.ended(stream_id)
    return outcome


def _likely(proposal: Proposal, stop: float) -> list[int]:
    """The first guesses, while all of them are right with at least this chance."""
    likely: list[int] = []
    chance = 1.0
    for token_id, each in zip(proposal.token_ids, proposal.chances, strict=True):
        chance *= each
        if chance < stop:
            break
        likely.append(token_id)
    return likely


def _spec(stream_id: StreamId, prompt: tuple[int, ...], answer: Answer) -> StreamSpec:
    return StreamSpec(
        stream_id=stream_id,
        generation=1,
        owner="bench",
        sampling=Sampling(temperature=answer.temperature, top_p=answer.top_p),
        max_tokens=len(answer.answer_ids),
        stops=(),
        ignore_eog=False,
        num_prompt_tokens=len(prompt),
        token_ids=prompt,
    )


def measure_lookup(target: Path, out: Path, *, max_answer: int, seed: int) -> str:
    """Tables of what lookup earns on the prompts that copy, and on the held-out chat prompts.

    The target's answers are sampled once and kept in folders of `out`.
    """
    rows = [
        "| prompts | sampling | stop | guesses accepted | passes with guesses | tokens a pass "
        "| us a pass |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, prompts_file in _FILES.items():
        prompts = HeldOutPrompts(name=prompts_file)
        file, _ = sample_answers(
            target,
            out / name,
            prompts,
            hash_lines(prompts.texts()),
            num_tokens=1 << 40,
            width=16,
            max_answer=max_answer,
            num_best=32,
            seed=seed,
            threads=1,
        )
        answers = sorted(file, key=lambda answer: answer.index)
        for sampling, part in (
            ("greedy", [a for a in answers if a.temperature == 0]),
            ("T 0.8, top-p 0.95", [a for a in answers if a.temperature > 0]),
        ):
            for stop in _STOPS:
                o = play(part, stop)
                rows.append(
                    f"| {name} | {sampling} | {stop} | {o.acceptance:.3f} of {o.num_guesses} "
                    f"| {o.num_with_guesses / max(1, o.num_passes):.2f} | {o.tokens_a_pass:.2f} "
                    f"| {o.seconds / max(1, o.num_passes) * 1e6:.0f} |"
                )
    return "\n".join(rows)
