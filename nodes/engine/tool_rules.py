"""A grammar for function calls in the model's style, by which every call is valid.

The text of a grammar of kind `tools` is JSON:

    {"style": "hermes", "choice": "auto", "parallel": true,
     "tools": [{"name": "...", "parameters": {...}}, ...], "answer": {...}, "thinking": "marked"}

choice: With `auto` an answer is free text, or text and then calls. With `required` it is calls.
Free text ends at the first character of a call, and nothing follows the last call.
answer: A JSON schema for answers without calls; it may be left out.
thinking: How the model marks its thoughts before free text and calls, as in metadata.py; it may be
left out. Thoughts are free, and what follows them is as if it were the whole answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

from nodes.engine.chat.tools import BLANK, GAP, HERMES, LLAMA3, MISTRAL
from nodes.engine.metadata import CLOSE, MARKED, OPEN, OPENED

_OPEN: Final = "<tool_call>"
_CLOSE: Final = "</tool_call>"
_ANY: Final = r"(.|\n)*"
# A call without its mark, which some models of this style write as the whole answer. It has other
# white space and is often fenced. The name distinguishes it from other JSON.
_BARE: Final = rf'(```json\n)?{GAP}\{{{GAP}"name"{GAP}:{GAP}"'
# The calls of these styles are the whole answer, and begin with this character.
_FIRST: Final = {LLAMA3: r"\{", MISTRAL: r"\["}
# A regular expression for the beginning of thoughts, by how the model marks them.
_BEGINS: Final = {OPENED: "", MARKED: f"{BLANK}*{OPEN}"}

# The escapes of a string literal of Lark are those of JSON.
_quoted: Final = json.dumps


def tool_rules(text: str, schema: Callable[[dict[str, Any]], str]) -> str:
    """Return rules in llguidance's dialect of Lark.

    schema: Converts a JSON schema to the right side of a rule. Raises ValueError for a text that
    does not have the form above.
    """
    try:
        found = json.loads(text)
        style, is_free = found["style"], found["choice"] == "auto"
        tools = [(tool["name"], tool["parameters"]) for tool in found["tools"]]
        parallel, answer = bool(found["parallel"]), found.get("answer")
        thinking = found.get("thinking")
        begins = _BEGINS[thinking] if thinking else None
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"the description of the tools is not valid: {error}") from None
    if not tools or not all(isinstance(schema, dict) for _, schema in tools):
        raise ValueError("at least one tool is needed, and each needs a name and parameters")
    names = " | ".join(f"fn_{index}" for index in range(len(tools)))
    key = "parameters" if style == LLAMA3 else "arguments"
    rules = "".join(
        f"fn_{index}: {_quoted(f'{json.dumps(name)}, {json.dumps(key)}: ')} args_{index}\n"
        f"args_{index}: {schema(parameters)}\n"
        for index, (name, parameters) in enumerate(tools)
    )
    rules += f"object: {_quoted('{' + json.dumps('name') + ': ')} ({names}) {_quoted('}')}\n"
    if style == HERMES:
        more = f" ({_quoted(chr(10) + _OPEN)} call)*" if parallel else ""
        rules += f"call: {_quoted(chr(10))} object {_quoted(chr(10) + _CLOSE)}\n"
        rules += f"rest: call{more}\n"
        calls = f"{_quoted(_OPEN)} rest"
    elif style in _FIRST:
        more = f" ({_quoted(', ')} object)*" if parallel else ""
        calls = "object" if style == LLAMA3 else f"{_quoted('[')} object{more} {_quoted(']')}"
    else:
        raise ValueError(f"the style {style!r} of calls is unknown")
    if not is_free:
        return f"start: {calls}\n{rules}"
    if answer is not None:
        return f"start: {calls} | answer\nanswer: {schema(answer)}\n{rules}"
    if style == HERMES:
        known = [re.escape(name).replace("/", r"\/") for name, _ in tools]
        rules += _bare(known)
        no_call = rf'& ~/{_ANY}{_OPEN}{_ANY}/ & ~/{_BARE}({"|".join(known)})"{_ANY}/'
        return _free("LEAD rest | bare", no_call, begins) + rules
    return _free(calls, f"& ~/{_FIRST[style]}{_ANY}/", begins) + rules


def _bare(names: list[str]) -> str:
    """Return rules for a call without marks. names: Regular expressions."""
    rules = "".join(f'bare_{index}[lazy]: /{_BARE}{name}"/\n' for index, name in enumerate(names))
    calls = " | ".join(f"bare_{index} KEY args_{index}" for index in range(len(names)))
    rules += f"bare: ({calls}) END\n"
    rules += f'KEY: /{GAP},{GAP}"arguments"{GAP}:{GAP}/\n'
    return rules + rf"END: /{GAP}\}}({GAP}```)?/" + "\n"


def _free(calls: str, no_call: str, begins: str | None) -> str:
    """Return rules for an answer that is free text, or has calls, with thoughts before it.

    calls: What calls look like, in which LEAD is any text up to a mark. no_call: Excludes from a
    text what is or contains a call. begins: How thoughts begin; None for a model without thoughts.
    """

    def answer(number: int, no_thoughts: str = "") -> str:
        lead = f"lead_{number}"
        return "".join(
            (
                f"answer_{number}: {calls.replace('LEAD', lead)} | PLAIN_{number}\n",
                f"{lead}[lazy]: TEXT_{number} {_quoted(_OPEN)}\n",
                f"TEXT_{number}: /{_ANY}/ {no_thoughts}\n",
                f"PLAIN_{number}: /{_ANY}/ {no_call} {no_thoughts}\n",
            )
        )

    if begins is None:
        return "start: answer_0\n" + answer(0)
    close = CLOSE.replace("/", r"\/")
    rules = f"INSIDE: /{begins}{_ANY}/ & ~/{_ANY}{close}{_ANY}/\n"
    rules += f"THOUGHTS: INSIDE /{close}{BLANK}*/\n" + answer(0)
    if not begins:
        return "start: INSIDE | THOUGHTS answer_0\n" + rules
    # The answer without thoughts.
    rules += answer(1, f"& ~/{begins}{_ANY}/")
    return "start: INSIDE | THOUGHTS answer_0 | answer_1\n" + rules
