"""Ten functions as a household or an office would have them.

Their schemas have nested objects, lists with bounds, enumerations, numbers with bounds, and fields
that may be left out.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=40)]
Sentence = Annotated[str, Field(min_length=1, max_length=160)]
Currency = Literal["EUR", "USD", "GBP", "JPY", "CHF"]


class _Function(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Clock(_Function):
    hour: Annotated[int, Field(ge=0, le=23)]
    minute: Annotated[int, Field(ge=0, le=59)]


class Day(_Function):
    month: Annotated[int, Field(ge=1, le=12)]
    day: Annotated[int, Field(ge=1, le=31)]


class Weather(_Function):
    """Tells the weather of a city for the next days."""

    city: Name
    days: Annotated[int, Field(ge=1, le=7)]
    unit: Literal["celsius", "fahrenheit"] | None = None


class SendMail(_Function):
    """Sends an e-mail."""

    to: Annotated[list[Name], Field(min_length=1, max_length=3)]
    subject: Name
    body: Sentence
    priority: Literal["low", "normal", "high"] | None = None


class BookTable(_Function):
    """Books a table at a restaurant."""

    restaurant: Name
    guests: Annotated[int, Field(ge=1, le=12)]
    at: Clock
    outside: bool | None = None


class SetLight(_Function):
    """Sets the brightness and colour of the light in a room."""

    room: Literal["kitchen", "bedroom", "bathroom", "office", "garden"]
    brightness: Annotated[int, Field(ge=0, le=100)]
    colour: Literal["warm", "cold", "red", "green", "blue"] | None = None


class ConvertCurrency(_Function):
    """Converts an amount of money into another currency."""

    amount: Annotated[float, Field(gt=0, le=1_000_000)]
    source: Currency
    target: Currency


class CreateEvent(_Function):
    """Puts an event into the calendar."""

    title: Name
    day: Day
    start: Clock
    attendees: Annotated[list[Name], Field(max_length=4)]
    reminder_minutes: Annotated[int, Field(ge=0, le=1440)] | None = None


class SearchFiles(_Function):
    """Searches the files on this computer."""

    query: Name
    kinds: Annotated[
        list[Literal["text", "image", "video", "table"]], Field(min_length=1, max_length=4)
    ]
    folder: Name | None = None


class PlayMusic(_Function):
    """Plays music by an artist, or a song."""

    artist: Name | None = None
    song: Name | None = None
    volume: Annotated[int, Field(ge=0, le=10)]


class Calculate(_Function):
    """Works out an arithmetic expression."""

    expression: Annotated[str, Field(min_length=1, max_length=60)]


class Translate(_Function):
    """Translates a text into another language."""

    text: Sentence
    language: Literal["English", "German", "French", "Spanish", "Italian", "Japanese"]


FUNCTIONS: Final[dict[str, type[BaseModel]]] = {
    "weather": Weather,
    "send_mail": SendMail,
    "book_table": BookTable,
    "set_light": SetLight,
    "convert_currency": ConvertCurrency,
    "create_event": CreateEvent,
    "search_files": SearchFiles,
    "play_music": PlayMusic,
    "calculate": Calculate,
    "translate": Translate,
}


def tools() -> list[dict[str, Any]]:
    """All of them as OpenAI's API has them."""
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": kind.__doc__,
                "parameters": kind.model_json_schema(),
            },
        }
        for name, kind in FUNCTIONS.items()
    ]


def fault_of(name: str, arguments: str) -> str:
    """What is wrong with a call, in a line; "" for nothing."""
    if name not in FUNCTIONS:
        return f"no function is called {name!r}"
    try:
        FUNCTIONS[name].model_validate_json(arguments)
    except ValueError as error:
        return f"{name}({arguments}): {str(error).splitlines()[-1].strip()}"
    return ""
