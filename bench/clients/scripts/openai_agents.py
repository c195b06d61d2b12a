"""OpenAI's agents SDK: a tool is called, and what it returned is read."""

import agents
from asking import MODEL, QUESTION, URL, check
from openai import AsyncOpenAI

agents.set_tracing_disabled(True)
asked: list[str] = []


@agents.function_tool
def temperature(city: str) -> str:
    """The temperature of a city."""
    asked.append(city)
    return "21 degrees"


client = AsyncOpenAI(base_url=URL, api_key="none")
agent = agents.Agent(
    name="weather",
    instructions="Use the tool.",
    model=agents.OpenAIChatCompletionsModel(model=MODEL, openai_client=client),
    tools=[temperature],
    model_settings=agents.ModelSettings(tool_choice="required", max_tokens=200),
)
agents.Runner.run_sync(agent, QUESTION, max_turns=8)
check("a tool", is_right=bool(asked))
