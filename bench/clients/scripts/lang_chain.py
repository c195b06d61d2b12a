"""LangChain: tools, and typed output in both of its ways."""

from asking import MODEL, QUESTION, URL, WHERE, check
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr


@tool
def temperature(city: str) -> str:
    """The temperature of a city."""
    return "21 degrees"


class City(BaseModel):
    name: str
    country: str


model = ChatOpenAI(base_url=URL, api_key=SecretStr("none"), model=MODEL, temperature=0)
calls = model.bind_tools([temperature], tool_choice="required").invoke(QUESTION).tool_calls
check(
    "a tool that must be called",
    is_right=calls[0]["name"] == "temperature" and set(calls[0]["args"]) == {"city"},
)
chunks = model.bind_tools([temperature], tool_choice="required").stream(QUESTION)
whole = next(chunks)
for chunk in chunks:
    whole += chunk
check("the same, streamed", is_right=whole.tool_calls[0]["args"] == calls[0]["args"])
for method in ("json_schema", "function_calling"):
    typed = model.with_structured_output(City, method=method)
    check(f"typed output by {method}", is_right=isinstance(typed.invoke(WHERE), City))
