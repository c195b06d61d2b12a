"""What is asked for: kinds of prompts with how much of an answer each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.distill.sampling.prompts import COPYING, HELD_OUT, HeldOutPrompts

_FOLDER = Path(__file__).with_name("prompts")
# Between prompts of a file; each begins with one line of its source.
_BREAK = "\n%%\n"


@dataclass(frozen=True, slots=True)
class Workload:
    """prompts: users' turns, cycled through. max_tokens: of each answer, which is never shorter.

    about: for reports.
    """

    name: str
    about: str
    prompts: tuple[str, ...]
    max_tokens: int


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a file: parts between lines of `%%`, without their line of source."""
    parts = path.read_text().strip().split(_BREAK)
    return tuple(part.split("\n", 1)[1].strip() for part in parts)


def workload(name: str, num_prompts: int = 64) -> Workload:
    """Raises KeyError for a name that is not among NAMES."""
    return _MAKERS[name](num_prompts)


def _chat(count: int) -> Workload:
    prompts = HeldOutPrompts(count, HELD_OUT).texts()
    return Workload("chat", "held-out questions of the chat kind", tuple(prompts), 128)


def _copy(count: int) -> Workload:
    prompts = HeldOutPrompts(count, COPYING).texts()
    return Workload("copy", "summaries and rewrites that copy from the prompt", tuple(prompts), 128)


def _code_edit(count: int) -> Workload:
    prompts = _cycled(read_prompts(_FOLDER / "code_edits.txt"), count)
    return Workload("code edit", "a source file to be given back with one change", prompts, 192)


def _long_short(count: int) -> Workload:
    texts = HeldOutPrompts(4 * count, COPYING).texts()
    joined = ["\n\n".join(texts[4 * k : 4 * k + 4]) for k in range(count)]
    return Workload("long prompt", "about 1,000 tokens to read, a short answer", tuple(joined), 32)


def _short_long(count: int) -> Workload:
    prompts = [text for text in HeldOutPrompts(4 * count, HELD_OUT).texts() if len(text) < 60]
    return Workload("long answer", "a short question, a long answer", _cycled(prompts, count), 384)


def _cycled(prompts: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(prompts[k % len(prompts)] for k in range(count))


_MAKERS = {
    "chat": _chat,
    "copy": _copy,
    "code-edit": _code_edit,
    "long-prompt": _long_short,
    "long-answer": _short_long,
}
NAMES = tuple(_MAKERS)
