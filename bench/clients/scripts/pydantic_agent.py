"""Pydantic AI: typed output, which is a tool that must be called, and a tool beside it."""

from asking import MODEL, QUESTION, URL, WHERE, check
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class City(BaseModel):
    name: str
    country: str


model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=URL, api_key="none"))
found = Agent(model, output_type=City).run_sync(WHERE).output
check("typed output", is_right=isinstance(found, City))

asked: list[str] = []
agent = Agent(model, output_type=City)


@agent.tool_plain
def temperature(city: str) -> str:
    """The temperature of a city."""
    asked.append(city)
    return "21 degrees"


check("a tool and typed output", is_right=isinstance(agent.run_sync(QUESTION).output, City))
