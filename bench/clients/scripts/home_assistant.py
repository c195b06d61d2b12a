"""The requests of Home Assistant's `llama_cpp` integration, as its source builds them: the list of
models, the trial with a tool and three tokens, then a conversation that calls tools of the house.

Source: homeassistant/components/llama_cpp of home-assistant/core, api.py and entity.py.
"""

import asyncio
import json

import openai
from asking import MODEL, URL, check


def assist(tool: str, description: str, /, **properties: dict) -> dict:
    """A tool as its schemas become: fields that may all be left out."""
    parameters = {"type": "object", "properties": properties, "required": []}
    function = {"name": tool, "parameters": parameters, "description": description}
    return {"type": "function", "function": function}


TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": {"type": "string"}}
PLACE = {"name": TEXT, "area": TEXT, "floor": TEXT, "domain": TEXTS, "device_class": TEXTS}
LEVEL = {"type": "integer", "minimum": 0, "maximum": 100}
LIGHT = {**PLACE, "color": TEXT, "brightness": LEVEL}
TOOLS = [
    assist("HassTurnOn", "Turns on/opens/presses a device or entity", **PLACE),
    assist("HassTurnOff", "Turns off/closes a device or entity", **PLACE),
    assist("HassLightSet", "Sets the brightness or color of a light", **LIGHT),
    assist("GetLiveContext", "Provides real-time information about the devices of the home"),
]
TRIAL = {
    "model": MODEL,
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France?"},
    ],
    "tools": [assist("test_function", "Test function.")],
    "max_tokens": 3,
}
SYSTEM = (
    "You are a voice assistant for Home Assistant. Control devices with the tools. "
    "Devices of this home: light 'Kitchen lamp' in the area Kitchen, switch 'Kettle'."
)


async def main() -> None:
    client = openai.AsyncOpenAI(api_key="sk-0000000000000000000", base_url=URL)
    found = [model.id async for model in await client.with_options(timeout=10.0).models.list()]
    check("the list of models", is_right=any(MODEL in name for name in found))
    whole = await client.chat.completions.create(**TRIAL, stream=False)
    reasons = [
        event.choices[0].finish_reason
        async for event in await client.chat.completions.create(**TRIAL, stream=True)
    ]
    check("the trial", is_right=bool(whole.choices) and reasons[-1] is not None)
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "Turn on the kitchen lamp."},
    ]
    called, calls = [], [{}]
    while calls and len(messages) < 20:
        asked = {"messages": messages, "model": MODEL, "tools": TOOLS, "max_tokens": 150}
        sampled = {"top_p": 1.0, "temperature": 0.0, "user": "01JZ3V8M7K"}
        stream = await client.chat.completions.create(**asked, **sampled, stream=True)
        answer = await read(stream)
        messages.append(answer)
        calls = answer.get("tool_calls", [])
        for call in calls:
            called.append((call["function"]["name"], json.loads(call["function"]["arguments"])))
            told = json.dumps({"data": {"success": True}, "error": None})
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": told})
    check("a lamp is turned on", is_right=called[0][0] == "HassTurnOn")


async def read(stream: openai.AsyncStream) -> dict:
    """The message that a stream's deltas are."""
    content, calls = "", []
    async for chunk in stream:
        delta = chunk.choices[0].delta
        content += delta.content or ""
        for part in delta.tool_calls or ():
            if part.index == len(calls):
                function = {"name": part.function.name, "arguments": ""}
                calls.append({"id": part.id, "type": "function", "function": function})
            calls[part.index]["function"]["arguments"] += part.function.arguments or ""
    answer = {"role": "assistant", "content": content or None}
    return {**answer, "tool_calls": calls} if calls else answer


asyncio.run(main())
