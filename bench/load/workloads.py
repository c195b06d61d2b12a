"""Kinds of requests: prompts, and the lengths of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.distill.sampling.prompts import COPYING, HELD_OUT, held_out_texts

_FOLDER = Path(__file__).with_name("prompts")
# Separates prompts in a file; the first line of each prompt names its source.
_BREAK = "\n%%\n"
_NEXT_TURN = "\n--\n"


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of requests. prompts: used in a cycle; the prompt of a conversation holds all the
    user's turns, separated by lines of `--`. max_tokens: length of each answer, never less.
    schemas: empty, or a JSON schema for each prompt.
    """

    name: str
    prompts: tuple[str, ...]
    max_tokens: int
    schemas: tuple[str, ...] = ()


# Workloads whose prompts are files of ours, with the lengths of their answers.
_FILES = {
    # A function or a small program, from scratch.
    "code": ("code.txt", 128),
    # A source file of 10 to 24 lines to be given back with one change.
    "code-edit": ("code_edits.txt", 192),
    # The same of files of about 100 to 160 lines, in several languages.
    "file-edit": ("file_edits.txt", 192),
    # An answer by a JSON schema, which is the first line of its prompt in the file.
    "json": ("json.txt", 128),
    # Six turns about one file, which quote each other.
    "agentic": ("agentic.txt", 128),
}
# Workloads whose prompts are single turns without a schema.
PLAIN_NAMES = ("chat", "copy", "code", "code-edit", "file-edit", "long-prompt", "long-answer")
NAMES = (*PLAIN_NAMES, "json", "agentic")
_LABELS = {"json": "JSON"}


def workload(name: str, num_prompts: int = 64) -> Workload:
    """Returns a workload by name. Raises KeyError for a name that is not in NAMES."""
    prompts: Sequence[str]
    schemas: Sequence[str] = ()
    max_tokens = 128
    match name:
        case "chat":
            # Held-out questions of the chat kind.
            prompts = _texts(HELD_OUT, num_prompts)
        case "copy":
            # Summaries and rewrites that copy from the prompt.
            prompts = _texts(COPYING, num_prompts)
        case "long-prompt":
            # About 2,000 tokens to read, a short answer. No two of 50 prompts begin alike.
            texts = _cycled(_texts(COPYING, 0), num_prompts + 10)
            prompts = ["\n\n".join(texts[k : k + 10]) for k in range(num_prompts)]
            max_tokens = 32
        case "long-answer":
            # A short question, a long answer.
            texts = _texts(HELD_OUT, 4 * num_prompts)
            prompts = _cycled([text for text in texts if len(text) < 60], num_prompts)
            max_tokens = 384
        case _:
            file, max_tokens = _FILES[name]
            prompts = _cycled(read_prompts(_FOLDER / file), num_prompts)
            if name == "json":
                parts = [prompt.split("\n", 1) for prompt in prompts]
                schemas, prompts = zip(*parts, strict=True)
    label = _LABELS.get(name, name.replace("-", " "))
    return Workload(label, tuple(prompts), max_tokens, tuple(schemas))


def read_prompts(path: Path) -> tuple[str, ...]:
    """Returns the prompts of a file: parts between lines of `%%`, without the source's line."""
    parts = path.read_text().strip().split(_BREAK)
    return tuple(part.split("\n", 1)[1].strip() for part in parts)


def turns_of(prompt: str) -> list[str]:
    """Returns the user's turns of a conversation; a plain prompt is one turn."""
    return prompt.split(_NEXT_TURN)


def _texts(name: str, count: int) -> list[str]:
    """Returns texts of a file: all of them if count is 0."""
    return [text for _, text in held_out_texts(name, count)]


def _cycled(prompts: Sequence[str], count: int) -> list[str]:
    return [prompts[k % len(prompts)] for k in range(count)]
