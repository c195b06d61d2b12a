"""LiteLLM: a tool, and a chat."""

import json

import litellm
from asking import CITY, MODEL, QUESTION, URL, check

FUNCTION = {"name": "temperature", "description": "The temperature of a city", "parameters": CITY}
TOOL = {"type": "function", "function": FUNCTION}
ASKED = {
    "model": f"openai/{MODEL}",
    "api_base": URL,
    "api_key": "none",
    "messages": [{"role": "user", "content": QUESTION}],
    "max_tokens": 100,
}
answer = litellm.completion(**ASKED, tools=[TOOL], tool_choice="required")
(call,) = answer.choices[0].message.tool_calls
check("a tool", is_right=set(json.loads(call.function.arguments)) == {"city"})
texts = [part.choices[0].delta.content or "" for part in litellm.completion(**ASKED, stream=True)]
check("a chat, streamed", is_right=bool("".join(texts)))
