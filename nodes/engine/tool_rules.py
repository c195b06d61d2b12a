"""A grammar for function calls in the model's style, by which every call is valid.

The text of a grammar of kind `tools` is JSON:

    {"style": "hermes", "choice": "auto", "parallel": true,
     "tools": [{"name": "...", "parameters": {...}}, ...], "answer": {...}}

choice: With `auto` an answer is free text, or text and then calls. With `required` it is calls.
Free text ends at the first character of a call, and nothing follows the last call.
answer: A JSON schema for answers without calls; it may be left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

from nodes.engine.chat.tools import GAP, HERMES, LLAMA3, MISTRAL

_OPEN: Final = "<tool_call>"
_CLOSE: Final = "</tool_call>"
# TEXT is any text, TAIL any without the beginning of a call, and PLAIN any that does not begin as
# a call does.
_TEXT: Final = r"TEXT: /(.|\n)*/" + "\n"
_TAIL: Final = rf"TAIL: /(.|\n)*/ & ~/(.|\n)*{_OPEN}(.|\n)*/"
# A call without its mark, which some models of this style write as the whole answer. It has other
# white space and is often fenced. The name distinguishes it from other JSON.
_BARE: Final = rf'(```json\n)?{GAP}\{{{GAP}"name"{GAP}:{GAP}"'
_PLAIN: Final = {LLAMA3: r"PLAIN: /[^{](.|\n)*/" + "\n", MISTRAL: r"PLAIN: /[^\[](.|\n)*/" + "\n"}

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
        rules += f"call: {_quoted(chr(10))} object {_quoted(chr(10) + _CLOSE)}\n"
        more = ""
        if parallel:
            rules += f"more: {_quoted(chr(10) + _OPEN)} call\n"
            more = " more*"
        if is_free and answer is not None:
            start = f"{_quoted(_OPEN)} call{more} | answer"
        elif is_free:
            start = f"tail | lead call{more} | bare"
            rules += f"lead[lazy]: TEXT {_quoted(_OPEN)}\ntail: TAIL\n{_TEXT}"
            rules += _bare([name for name, _ in tools])
        else:
            start = f"{_quoted(_OPEN)} call{more}"
    elif style in _PLAIN:
        calls = "object"
        if style == MISTRAL:
            more = f" ({_quoted(', ')} object)*" if parallel else ""
            calls = f"{_quoted('[')} object{more} {_quoted(']')}"
        start = "calls"
        rules += f"calls: {calls}\n"
        if is_free and answer is not None:
            start = "calls | answer"
        elif is_free:
            start = 'calls | plain | ""'
            rules += f"plain: PLAIN\n{_PLAIN[style]}"
    else:
        raise ValueError(f"the style {style!r} of calls is unknown")
    if is_free and answer is not None:
        rules += f"answer: {schema(answer)}\n"
    return f"start: {start}\n{rules}"


def _bare(names: list[str]) -> str:
    """Return rules for a call without marks, and for text that is not such a call."""
    known = [re.escape(name).replace("/", r"\/") for name in names]
    rules = "".join(f'bare_{index}[lazy]: /{_BARE}{name}"/\n' for index, name in enumerate(known))
    calls = " | ".join(f"bare_{index} KEY args_{index}" for index in range(len(known)))
    rules += f"bare: ({calls}) END\n"
    rules += f'KEY: /{GAP},{GAP}"arguments"{GAP}:{GAP}/\n'
    rules += rf"END: /{GAP}\}}({GAP}```)?/" + "\n"
    return rules + f'{_TAIL} & ~/{_BARE}({"|".join(known)})"(.|\\n)*/\n'
