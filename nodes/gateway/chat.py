"""Serves /v1/chat/completions: turns bodies into jobs and writes answers in this API's form."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field

from airdraft.nodes.engine.chat.tools import switch_of
from airdraft.nodes.gateway.answers import Answers, Delta
from airdraft.nodes.gateway.bodies import (
    Body,
    ChoiceOr,
    Object,
    SomeItems,
    Text,
    TextOr,
    missing,
    need,
    read,
    refusal,
    renamed,
    text_of,
    wrong,
)
from airdraft.nodes.gateway.config import GatewayLimits
from airdraft.nodes.gateway.errors import ApiError
from airdraft.nodes.gateway.fields import Job, OpenAiBody, job_of
from airdraft.nodes.gateway.items import ItemReader, Step, finish_reason, items_of
from airdraft.nodes.gateway.reading import CALL, CONTENT, REASONING
from airdraft.nodes.gateway.scored import ScoredToken
from airdraft.nodes.gateway.shape import Api, ChunkWriter, list_pieces
from airdraft.nodes.gateway.tools import (
    CallList,
    NamedTool,
    ToolList,
    call_fields,
    call_json,
    for_template,
    tools_of,
)
from airdraft.nodes.messages import MAX_TOP_LOGPROBS, ChatMessage, Score

_MOST_VARIABLES: Final = 16
_MOST_VARIABLE_CHARS: Final = 64
Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
# These switch thinking off.
_NO_EFFORT: Final = ("none", "minimal")
# The template of gpt-oss knows low, medium and high.
_TEMPLATE_EFFORTS: Final = {"none": "low", "minimal": "low", "xhigh": "high"}


class TextPart(Body):
    type: Literal["text"]
    text: Text


class MessageBody(Body):
    """A message of a conversation. It accepts the fields of our answers, sent back unchanged."""

    refused: ClassVar = {"refusal": (), "annotations": ([],), "function_call": (), "audio": ()}
    # A model does not get its earlier thoughts again: templates omit them from past answers.
    hints: ClassVar = frozenset({"reasoning_content"})

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: TextOr[SomeItems[TextPart]] | None = None
    name: Annotated[Text, Field(max_length=256)] | None = None
    tool_call_id: Annotated[Text, Field(max_length=256)] | None = None
    tool_calls: CallList | None = None

    def unused(self) -> tuple[str, ...]:
        return ("name",) if self.name is not None and self.role != "tool" else ()

    @property
    def text(self) -> str:
        return text_of(self.content)


def _named_values(found: dict[str, Any]) -> dict[str, Any]:
    for name, value in found.items():
        if not name.isidentifier() or len(name) > _MOST_VARIABLE_CHARS:
            raise refusal("the name of each entry must be that of a variable")
        if isinstance(value, list | dict) or len(str(value)) > _MOST_VARIABLE_CHARS:
            raise refusal("each value must be a short text, a number, a boolean or null")
    given = {name: value for name, value in found.items() if value is not None}
    switches = [given[name] for name in switch_of(True) if name in given]
    if any(not isinstance(value, bool) for value in switches) or len(set(switches)) > 1:
        raise refusal(f"{' and '.join(switch_of(True))} must be true or false, and the same")
    return given


Variables = Annotated[Object, Field(max_length=_MOST_VARIABLES), AfterValidator(_named_values)]


class ChatBody(OpenAiBody):
    refused: ClassVar = {
        **OpenAiBody.refused,
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "audio": (),
        "verbosity": (),
        "web_search_options": (),
    }
    hints: ClassVar = OpenAiBody.hints | {"prediction", "safety_identifier", "prompt_cache_key"}

    messages: SomeItems[MessageBody]
    tools: ToolList | None = None
    tool_choice: ChoiceOr[NamedTool] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: Variables | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None


def job_of_chat(body: ChatBody, limits: GatewayLimits, *, fits: bool = False) -> Job:
    """Turn a chat body into a job.

    fits: max_tokens is lowered to what fits beside the prompt, as it is if the body names none.
    Raises ApiError naming the field that is wrong.
    """
    if len(body.messages) > limits.max_messages:
        raise wrong("messages", f"at most {limits.max_messages} entries are accepted")
    messages, fields = list[ChatMessage](), dict[int, dict[str, Any]]()
    for place, message in enumerate(body.messages):
        _check_message(message, f"messages[{place}]", limits)
        # Templates know only the older name of this role.
        messages.append(ChatMessage(message.role.replace("developer", "system"), message.text))
        if found := _template_fields(message):
            fields[place] = found
    tools = tools_of(body.tools, body.tool_choice, parallel=body.parallel_tool_calls is not False)
    variables, thinks = _variables_of(body)
    tools_text = for_template(tools, fields, variables)
    if sum(len(m.content) for m in messages) + len(tools_text) > limits.max_prompt_chars:
        raise wrong("messages", f"at most {limits.max_prompt_chars} characters are accepted")
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise wrong("max_tokens", "give either this or max_completion_tokens")
    given = body.max_completion_tokens or body.max_tokens
    if given is not None and given > limits.max_tokens and not fits:
        name = "max_tokens" if body.max_tokens is not None else "max_completion_tokens"
        raise wrong(name, f"at most {limits.max_tokens} are accepted")
    has_logprobs = bool(body.logprobs)
    if body.top_logprobs is not None and not has_logprobs:
        raise wrong("top_logprobs", "this needs logprobs: true")
    options = {
        "max_tokens": min(given or limits.max_tokens, limits.max_tokens),
        "num_logprobs": body.top_logprobs or 0 if has_logprobs else None,
        "tools": tools_text,
        "fits": fits or given is None,
    }
    prompts = (tuple(messages),)
    return job_of(
        body, limits, prompts, options, tools=tools, has_logprobs=has_logprobs, thinks=thinks
    )


def job_as_chat(
    asked: dict[str, Any],
    limits: GatewayLimits,
    names: Sequence[tuple[str, str]],
    *,
    fits: bool = False,
    echoed: Mapping[str, Any] | None = None,
) -> Job:
    """Turn a body of another API into a job. asked: the equivalent chat body. names: as in
    renamed(), to the paths of the body that the client sent.

    Raises ApiError naming the field that is wrong.
    """
    try:
        body, _ = read(ChatBody, asked)
        job = job_of_chat(body, limits, fits=fits)
    except ApiError as error:
        raise renamed(error, names) from error
    return replace(job, echoed=echoed or {})


def _variables_of(body: ChatBody) -> tuple[dict[str, Any], bool | None]:
    """The variables of the chat template, and whether they switch thinking on or off."""
    variables: dict[str, Any] = {}
    if body.reasoning_effort is not None:
        named = _TEMPLATE_EFFORTS.get(body.reasoning_effort, body.reasoning_effort)
        is_on = body.reasoning_effort not in _NO_EFFORT
        variables = {"reasoning_effort": named, **switch_of(is_on)}
    given = body.chat_template_kwargs or {}
    for name in switch_of(True).keys() & given.keys():
        variables |= switch_of(given[name])
    variables |= given
    return variables, variables.get("enable_thinking")


def _check_message(message: MessageBody, path: str, limits: GatewayLimits) -> None:
    is_answer = message.role == "assistant"
    if message.content is None and not (is_answer and message.tool_calls):
        raise missing(f"{path}.content")
    if len(message.text) > limits.max_prompt_chars:
        raise wrong(f"{path}.content", f"at most {limits.max_prompt_chars} characters are accepted")
    if message.role == "tool":
        need(message, ("tool_call_id",), path)
    if message.tool_calls and not is_answer:
        raise wrong(f"{path}.tool_calls", "this needs the role assistant")


def _template_fields(message: MessageBody) -> dict[str, Any]:
    """The fields of a message besides role and content that the chat template needs."""
    found: dict[str, Any] = {}
    if message.role == "tool":
        found = {"tool_call_id": message.tool_call_id, "name": message.name}
        found = {name: value for name, value in found.items() if value is not None}
    if message.tool_calls:
        found["tool_calls"] = call_fields(message.tool_calls)
    return found


class ChatShape(ChunkWriter):
    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def __init__(self, answers: Answers) -> None:
        super().__init__(answers)
        self._readers = defaultdict[int, ItemReader](lambda: ItemReader(self._job))

    def chunks(self, delta: Delta) -> bytes:
        """Write the events of a delta; its tokens go with the first part of its text."""
        index, tokens, events = delta.index, delta.tokens, b""
        reader = self._readers[index]
        added = [each for step in reader.read(delta) for each in self._added(index, step)]
        if tokens and not added:
            added = [{"content": ""}]
        if delta.begins:
            events = self._change(index, {"role": "assistant", "content": ""})
        for each in added:
            events += self._change(index, each, tokens)
            tokens = ()
        if delta.finish_reason is not None:
            reason = finish_reason(delta.finish_reason, reader.items)
            events += self._change(index, {}, reason=reason)
        return events

    def _change(
        self,
        index: int,
        added: dict[str, Any],
        tokens: Sequence[ScoredToken] = (),
        reason: str | None = None,
    ) -> bytes:
        has_logprobs = self._job.has_logprobs and tokens
        choice = {
            "index": index,
            "delta": added,
            "logprobs": chat_logprobs(tokens) if has_logprobs else None,
            "finish_reason": reason,
        }
        return self.choice(choice, tokens)

    def whole_choice(self, choice: Delta) -> dict[str, Any]:
        items = items_of(self._job, choice)
        content = "".join(item.text for item in items if item.kind == CONTENT)
        reasoning = "".join(item.text for item in items if item.kind == REASONING)
        calls = [
            call_json(self.call_id(item, choice.index), item.name, item.text)
            for item in items
            if item.kind == CALL
        ]
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if reasoning:
            message["reasoning_content"] = reasoning
        if calls:
            message |= {"content": content or None, "tool_calls": calls}
        reason = finish_reason(choice.finish_reason, items)
        return {"index": choice.index, "message": message, "finish_reason": reason}

    def logprobs_pieces(self, tokens: Sequence[ScoredToken]) -> Iterator[bytes]:
        yield b'{"content":'
        yield from list_pieces(map(_chat_entry, tokens))
        yield b',"refusal":null}'

    def _added(self, choice: int, step: Step) -> Iterator[dict[str, Any]]:
        """The `delta` of the event for a step, if it has one."""
        item = step.item
        if step.what == "begins" and item.kind == CALL:
            call = call_json(self.call_id(item, choice), item.name, "")
            yield {"tool_calls": [{"index": item.number, **call}]}
        elif step.what == "grows" and item.kind == CALL:
            yield {"tool_calls": [{"index": item.number, "function": {"arguments": step.piece}}]}
        elif step.what == "grows":
            yield {"content" if item.kind == CONTENT else "reasoning_content": step.piece}


def chat_logprobs(tokens: Iterable[ScoredToken]) -> dict[str, Any]:
    """The shape of chat completions: an object for each token."""
    return {"content": [_chat_entry(token) for token in tokens], "refusal": None}


def _chat_entry(token: ScoredToken) -> dict[str, Any]:
    top = [_chat_score(score) for score in token.scores.top]
    return {**_chat_score(token.scores.chosen), "top_logprobs": top}


def _chat_score(score: Score) -> dict[str, Any]:
    return {
        "token": score.piece.decode("utf-8", "replace"),
        "logprob": score.logprob,
        "bytes": list(score.piece),
    }


CHAT: Final = Api("chatcmpl", ChatBody, "Answer a conversation", job_of_chat, ChatShape)
