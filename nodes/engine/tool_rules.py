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
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from airdraft.nodes.engine.chat.tagged import Argument, TaggedForm, arguments_of
from airdraft.nodes.engine.chat.tools import (
    BLANK,
    CALLED,
    CALLING,
    CHANNELS,
    GAP,
    HERMES,
    LLAMA3,
    MISTRAL,
    TAGGED,
    TO_FUNCTION,
)
from airdraft.nodes.engine.metadata import CLOSE, MARKED, OPEN, OPENED

_OPEN: Final = "<tool_call>"
_CLOSE: Final = "</tool_call>"
_ANY: Final = r"(.|\n)*"
# A call without its mark, which some models of this style write as the whole answer. It has other
# white space and is often fenced. The name distinguishes it from other JSON.
_BARE: Final = rf'(```json\n)?{GAP}\{{{GAP}"name"{GAP}:{GAP}"'
# The calls of these styles are the whole answer, and begin with this character.
_FIRST: Final = {LLAMA3: r"\{", MISTRAL: r"\["}
# A regular expression for the mark of a message in channels.
_START: Final = r"<\|start\|>"
# A regular expression for the beginning of thoughts, by how the model marks them.
_BEGINS: Final = {OPENED: "", MARKED: f"{BLANK}*{OPEN}"}

# A function's name, and the schema of its arguments.
_Tool: TypeAlias = tuple[str, dict[str, Any]]

# The escapes of a string literal of Lark are those of JSON.
_quoted: Final = json.dumps


def tool_rules(text: str, schema: Callable[[dict[str, Any]], str]) -> str:
    """Returns rules in llguidance's dialect of Lark.

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
    if style == CHANNELS:
        return _channels(tools, schema, answer, is_free=is_free)
    form = TAGGED.get(style)
    rules = _tagged(form, tools, schema) if form else _as_json(style, tools, schema)
    if style in _FIRST:
        more = f" ({_quoted(', ')} object)*" if parallel else ""
        calls = "object" if style == LLAMA3 else f"{_quoted('[')} object{more} {_quoted(']')}"
    elif form is not None or style == HERMES:
        # Some models break the line after the last call, too.
        between, last = ("BREAK?", " BREAK?") if form else (_quoted("\n"), "")
        more = (f" ({between} {_quoted(_OPEN)} call)*" if parallel else "") + last
        rules += f"rest: call{more}\n"
        calls = f"{_quoted(_OPEN)} rest"
    else:
        raise ValueError(f"the style {style!r} of calls is unknown")
    if not is_free:
        return f"start: {calls}\n{rules}"
    if answer is not None:
        return f"start: {calls} | answer\nanswer: {schema(answer)}\n{rules}"
    if style in _FIRST:
        return _free(calls, f"& ~/{_FIRST[style]}{_ANY}/", begins) + rules
    no_call = f"& ~/{_ANY}{_OPEN}{_ANY}/"
    if form is None:
        known = [_escaped(name) for name, _ in tools]
        rules += _bare(known)
        no_call += rf' & ~/{_BARE}({"|".join(known)})"{_ANY}/'
        return _free("LEAD rest | bare", no_call, begins) + rules
    if not form.before_name:
        return _free("LEAD rest", no_call, begins) + rules
    no_call += rf" & ~/({_ANY}\n)?{form.before_name}{_ANY}/"
    return _free(f"LEAD rest | LOOSE named{more}", no_call, begins, form.before_name) + rules


def _channels(
    tools: Sequence[_Tool],
    schema: Callable[[dict[str, Any]], str],
    answer: dict[str, Any] | None,
    *,
    is_free: bool,
) -> str:
    """Returns rules for answers in channels, whose last message may call one function."""
    rules = "".join(
        f"fn_{index}: {_quoted(name)} HEADER args_{index}\nargs_{index}: {schema(parameters)}\n"
        for index, (name, parameters) in enumerate(tools)
    )
    rules += f"HEADER: /{CALLED}<\\|message\\|>/\n"
    rules += f"call: {' | '.join(f'fn_{index}' for index in range(len(tools)))}\n"
    begun = f"{_quoted('<|channel|>commentary' + TO_FUNCTION)} call"
    if not is_free:
        return f"start: {begun}\n{rules}"
    if answer is not None:
        return f"start: {begun} | answer\nanswer: {schema(answer)}\n{rules}"
    # A message that calls is the first one, or follows others.
    follows = rf"<\|channel\|>{_ANY}{_START}|{_START}({_ANY}{_START})?"
    begins = f"(({follows})assistant)?{CALLING}"
    no_call = f"PLAIN: /{_ANY}/ & ~/{begins}{_ANY}/"
    return f"start: lead call | PLAIN\nlead[lazy]: /{begins}/\n{no_call}\n{rules}"


def _as_json(style: str, tools: Sequence[_Tool], schema: Callable[[dict[str, Any]], str]) -> str:
    """Returns rules for the object of a call, and for what follows the mark of one."""
    names = " | ".join(f"fn_{index}" for index in range(len(tools)))
    key = "parameters" if style == LLAMA3 else "arguments"
    rules = "".join(
        f"fn_{index}: {_quoted(f'{json.dumps(name)}, {json.dumps(key)}: ')} args_{index}\n"
        f"args_{index}: {schema(parameters)}\n"
        for index, (name, parameters) in enumerate(tools)
    )
    rules += f"object: {_quoted('{' + json.dumps('name') + ': ')} ({names}) {_quoted('}')}\n"
    return rules + f"call: {_quoted(chr(10))} object {_quoted(chr(10) + _CLOSE)}\n"


def _tagged(
    form: TaggedForm, tools: Sequence[_Tool], schema: Callable[[dict[str, Any]], str]
) -> str:
    """Returns rules for a call with tags: whole, and what follows the name of each function.

    Raises ValueError for arguments that this form cannot hold.
    """
    before = f"BREAK? {_quoted(form.before_name)} " if form.before_name else ""
    names = (f"{_quoted(name + form.after_name)} fn_{i}" for i, (name, _) in enumerate(tools))
    rules = [
        f"call: {before}named",
        f"named: {' | '.join(names)}",
        f"text[lazy]: TEXT {_quoted(form.value_end)}",
        f"TEXT: /{_ANY}/",
        'BREAK: "\\n"',
    ]
    key, after = f"BREAK? {_quoted(form.before_key)}", _joined(form.after_key)
    for index, (_, parameters) in enumerate(tools):
        found = arguments_of(parameters)
        words = []
        for number, argument in enumerate(found.named.values()):
            rule = f"arg_{index}_{number}"
            rules += _tagged_value(form, f"{rule}_value", argument, schema)
            rules.append(f"{rule}: {key} {_quoted(argument.name)} {after} {rule}_value")
            words.append(rule if argument.is_required else rule + "?")
        if found.others is not None:
            rule, known = f"other_{index}", "|".join(map(_escaped, found.named))
            rules += _tagged_value(form, f"{rule}_value", found.others, schema)
            rules.append(f"KEY_{index}: /[^<>\\n]+/" + (f" & ~/{known}/" if known else ""))
            rules.append(f"{rule}: {key} KEY_{index} {after} {rule}_value")
            words.append(rule + "*")
        rules.append(f"fn_{index}: {' '.join(words)} BREAK? {_joined(form.end)}")
    return "".join(rule + "\n" for rule in rules)


def _joined(tags: Sequence[str]) -> str:
    return " BREAK? ".join(map(_quoted, tags))


def _escaped(text: str) -> str:
    return re.escape(text).replace("/", r"\/")


def _tagged_value(
    form: TaggedForm, rule: str, argument: Argument, schema: Callable[[dict[str, Any]], str]
) -> list[str]:
    """Returns rules for a value of an argument and for the end of the value."""
    kind = argument.kind
    if kind.is_free:
        return [f"{rule}: text"]
    words = argument.words(form.constants)
    if any(form.value_end in word or word != word.strip("\n") for word in words):
        raise ValueError(f"a value of {argument.name!r} cannot be written in this model's calls")
    choices = list(map(_quoted, words))
    rules = []
    if not kind.is_text:
        rules.append(f"{rule}_json: {schema(argument.schema)}")
        choices.append(f"{rule}_json")
    gap = "BREAK? " if form.has_lines else ""
    rules.append(f"{rule}: {gap}({' | '.join(choices)}) {gap}{_quoted(form.value_end)}")
    return rules


def _bare(names: list[str]) -> str:
    """Returns rules for a call without marks. names: Regular expressions."""
    rules = "".join(f'bare_{index}[lazy]: /{_BARE}{name}"/\n' for index, name in enumerate(names))
    calls = " | ".join(f"bare_{index} KEY args_{index}" for index in range(len(names)))
    rules += f"bare: ({calls}) END\n"
    rules += f'KEY: /{GAP},{GAP}"arguments"{GAP}:{GAP}/\n'
    return rules + rf"END: /{GAP}\}}({GAP}```)?/" + "\n"


def _free(calls: str, no_call: str, begins: str | None, loose: str = "") -> str:
    """Returns rules for an answer that is free text, or has calls, with thoughts before it.

    calls: What calls look like, in which LEAD is any text up to a mark, and LOOSE any lines up to
    `loose`. no_call: Excludes from a text what is or contains a call. begins: How thoughts begin;
    None for a model without thoughts.
    """

    def answer(number: int, no_thoughts: str = "") -> str:
        shape = calls.replace("LEAD", f"lead_{number}").replace("LOOSE", f"loose_{number}")
        rules = [
            f"answer_{number}: {shape} | PLAIN_{number}",
            f"lead_{number}[lazy]: TEXT_{number} {_quoted(_OPEN)}",
            f"TEXT_{number}: /{_ANY}/ {no_thoughts}",
            f"PLAIN_{number}: /{_ANY}/ {no_call} {no_thoughts}",
        ]
        if loose:
            no_mark = f"& ~/{_ANY}{_OPEN}{_ANY}/"
            rules.append(rf"LINES_{number}: /({_ANY}\n)?/ {no_mark} {no_thoughts}")
            rules.append(f"loose_{number}[lazy]: LINES_{number} {_quoted(loose)}")
        return "".join(rule + "\n" for rule in rules)

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
