"""Kinds of requests: prompts, and the lengths of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.distill.sampling.prompts import COPYING, HELD_OUT, HeldOutPrompts

_FOLDER = Path(__file__).with_name("prompts")
# Separates prompts in a file; the first line of each prompt names its source.
_BREAK = "\n%%\n"
_NEXT_TURN = "\n--\n"


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of requests. prompts: used in a cycle; the prompt of a conversation holds all the
    user's turns, separated by lines of `--`. max_tokens: length of each answer, never less.

    about: description for reports. schemas: empty, or a JSON schema for each prompt.
    """

    name: str
    about: str
    prompts: tuple[str, ...]
    max_tokens: int
    schemas: tuple[str, ...] = ()


def read_prompts(path: Path) -> tuple[str, ...]:
    """Return the prompts of a file: parts between lines of `%%`, without the line of the source."""
    parts = path.read_text().strip().split(_BREAK)
    return tuple(part.split("\n", 1)[1].strip() for part in parts)


def workload(name: str, num_prompts: int = 64) -> Workload:
    """Return a workload by name. Raises KeyError for a name that is not in NAMES."""
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


def _code(count: int) -> Workload:
    prompts = _cycled(read_prompts(_FOLDER / "code.txt"), count)
    return Workload("code", "a function or a small program, from scratch", prompts, 128)


def _json(count: int) -> Workload:
    parts = [part.split("\n", 1) for part in read_prompts(_FOLDER / "json.txt")]
    prompts, schemas = (_cycled([part[k] for part in parts], count) for k in (1, 0))
    return Workload("JSON", "an answer by a JSON schema", prompts, 128, schemas)


def _agentic(count: int) -> Workload:
    prompts = _cycled(read_prompts(_FOLDER / "agentic.txt"), count)
    return Workload("agentic", "six turns about one file, which quote each other", prompts, 128)


def turns_of(prompt: str) -> list[str]:
    """Return the user's turns of a conversation; a plain prompt is one turn."""
    return prompt.split(_NEXT_TURN)


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
    "code": _code,
    "code-edit": _code_edit,
    "json": _json,
    "agentic": _agentic,
    "long-prompt": _long_short,
    "long-answer": _short_long,
}
NAMES = tuple(_MAKERS)
# Workloads whose prompts are single turns without a schema.
PLAIN_NAMES = tuple(name for name in NAMES if name not in ("json", "agentic"))
