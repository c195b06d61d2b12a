"""Anthropic's client on /v1/messages: a chat, whole and streamed, a tool, and a count of tokens."""

import anthropic
from asking import CITY, MODEL, QUESTION, URL, check

CLIENT = anthropic.Anthropic(base_url=URL.removesuffix("/v1"), api_key="none", max_retries=0)
TOOL = {"name": "temperature", "description": "The temperature of a city", "input_schema": CITY}
question = {"role": "user", "content": QUESTION}
# Some versions of the client have no temperature of their own.
asked = {"model": MODEL, "max_tokens": 100, "extra_body": {"temperature": 0}}
whole = CLIENT.messages.create(**asked, messages=[question], system="Be brief.")
check("a chat", is_right=bool(whole.content[0].text))
with CLIENT.messages.stream(**asked, messages=[question], system="Be brief.") as stream:
    text = "".join(stream.text_stream)
check("a chat, streamed", is_right=text == whole.content[0].text)
first = CLIENT.messages.create(
    **asked, messages=[question], tools=[TOOL], tool_choice={"type": "tool", "name": "temperature"}
)
(call,) = first.content
check("a tool", is_right=set(call.input) == {"city"} and first.stop_reason == "tool_use")
result = {"type": "tool_result", "tool_use_id": call.id, "content": "21 degrees"}
told = [
    question,
    {"role": "assistant", "content": first.content},
    {"role": "user", "content": [result]},
]
second = CLIENT.messages.create(**asked, messages=told, tools=[TOOL], tool_choice={"type": "none"})
check("what it returned", is_right="21" in second.content[0].text)
counted = CLIENT.messages.count_tokens(model=MODEL, messages=[question], system="Be brief.")
check("a count of tokens", is_right=counted.input_tokens == whole.usage.input_tokens)
