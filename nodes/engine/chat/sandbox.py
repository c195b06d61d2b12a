"""The process in which one chat template is rendered: JSON lines in and out, and nothing else.

A template is code of a model file. It runs in Jinja2's immutable sandbox, here, where memory and
time are bounded and there is nothing to be had. The first line is {"template", "variables"}, each
other one {"messages": [[role, content], ...]}; the answers are {"text"} or {"error"}.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_TEXT_CHARS: Final = 1 << 20
_MEMORY_BYTES: Final = 512 << 20
# Of one line. The parent ends a rendering sooner; this one holds without the parent, too.
_CPU_S: Final = 4
_MAX_ERROR_CHARS: Final = 600
# Templates ask whether these are none, which what is not defined is not.
_ABSENT: Final = {"tools": None, "documents": None, "add_generation_prompt": True}
# What a template can raise by what it does; anything else ends the process.
_FAILURES: Final = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class RefusalError(TemplateError):
    """The template itself says what is wrong with a conversation."""


class _Generation(Extension):
    """{% generation %} marks answers for training; here it is what stands between."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: object) -> None:
    raise RefusalError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Not Jinja2's own filter, which escapes for HTML.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def environment() -> Environment:
    """What templates of model files expect, as Hugging Face's transformers gives it."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    made.filters["tojson"] = _to_json
    return made


def rendered(template: Template, variables: dict[str, Any]) -> str:
    """Raises ValueError when the text becomes too long, and what a template can raise."""
    parts, num_chars = [], 0
    for part in template.generate(**variables):
        num_chars += len(part)
        if num_chars > MAX_TEXT_CHARS:
            raise ValueError(f"its text is longer than {MAX_TEXT_CHARS} characters")
        parts.append(part)
    return "".join(parts)


def error_line(error: BaseException) -> str:
    """One line for the client; the conversation may be quoted in it, so it is logged nowhere."""
    what = "refuses the conversation" if isinstance(error, RefusalError) else "fails"
    why = " ".join(str(error).split()) or type(error).__name__
    return f"the model's chat template {what}: {why}"[:_MAX_ERROR_CHARS]


def answers(lines: Iterator[bytes]) -> Iterator[dict[str, str]]:
    """One answer a line; ends after a template that cannot be compiled."""
    _allow_cpu_time()
    first = json.loads(next(lines))
    try:
        template = environment().from_string(first["template"])
    except _FAILURES as error:
        yield {"error": error_line(error)}
        return
    yield {"text": ""}
    for line in lines:
        _allow_cpu_time()
        messages = [{"role": r, "content": c} for r, c in json.loads(line)["messages"]]
        variables = {**_ABSENT, **first["variables"], "messages": messages}
        try:
            answer = {"text": rendered(template, variables)}
        except _FAILURES as error:
            answer = {"error": error_line(error)}
        yield answer


def _allow_cpu_time() -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime) + _CPU_S)


def _limit(kind: int, value: int) -> None:
    """Set a soft limit; the hard one stays, so that the next line may have its time again."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def main() -> None:
    # A terminal's Ctrl-C is for the node, at whose end this input ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit(resource.RLIMIT_AS, _MEMORY_BYTES)
    # Conversations are in no core dump, and nothing is written or started here.
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        _limit(kind, 0)
    for answer in answers(iter(sys.stdin.buffer.readline, b"")):
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
