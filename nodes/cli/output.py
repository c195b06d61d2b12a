"""Prints a request: its text as it arrives and a line of figures, or one JSON object."""

from __future__ import annotations

import codecs
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import click

from nodes.cli.cells import harmless
from nodes.cli.options import leaves_sampling_open, options_of, sampling_in
from nodes.client.client import Client, Event
from nodes.messages import FinishedNotice, StartedNotice, StreamFigures, TokensNotice
from nodes.messages.fingerprint import fingerprint

_NO_FIGURES = StreamFigures(0, 0, 0, 0, 0, 0, "")


@dataclass(slots=True)
class _Choice:
    text: bytes = b""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str = ""
    figures: StreamFigures = _NO_FIGURES


async def print_request(client: Client, prompt: str, values: Mapping[str, Any]) -> None:
    """Run one request and print it. values: the options of generate_options.

    Raises RequestFailedError.
    """
    nodes = (await client.nodes()).nodes if leaves_sampling_open(values) else ()
    options = replace(options_of(values), **sampling_in(values, nodes))
    as_json = values["as_json"]
    start = time.perf_counter()
    choices = [_Choice() for _ in range(options.num_choices)]
    started: StartedNotice | None = None
    # Several choices are printed one after the other at the end, because their texts would mix.
    live = not as_json and options.num_choices == 1
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    events: AsyncIterator[Event] = client.generate(prompt, options)
    async for event in events:
        match event:
            case StartedNotice():
                started = event
            case TokensNotice():
                choice = choices[event.choice]
                choice.token_ids += event.token_ids
                choice.text += event.text
                if live:
                    sys.stdout.write(_printed(decoder.decode(event.text)))
                    sys.stdout.flush()
            case FinishedNotice():
                choices[event.choice].finish_reason = event.finish_reason
                choices[event.choice].figures = event.figures
    seconds = time.perf_counter() - start
    assert started is not None
    if as_json:
        click.echo(json.dumps(_as_object(started, choices, seconds)))
        return
    if live:
        click.echo(_printed(decoder.decode(b"", final=True)))
    else:
        for index, choice in enumerate(choices):
            click.echo(f"--- {index}\n{_printed(choice.text.decode('utf-8', 'replace'))}")
    click.echo(_figures_line(started, choices, seconds), err=True)


def _printed(text: str) -> str:
    """A model's text for standard output; for a terminal, control characters are removed."""
    return harmless(text) if sys.stdout.isatty() else text


def _as_object(started: StartedNotice, choices: list[_Choice], seconds: float) -> dict[str, Any]:
    streams: list[dict[str, Any]] = []
    for choice in choices:
        figures = choice.figures
        streams.append(
            {
                "text": choice.text.decode("utf-8", "replace"),
                "token_ids": choice.token_ids,
                "finish_reason": choice.finish_reason,
                "num_rounds": figures.num_rounds,
                "num_plain_steps": figures.num_plain_steps,
                "num_draft_tokens": figures.num_draft_tokens,
                "num_accepted_tokens": figures.num_accepted_tokens,
                "wire_bytes": figures.draft_wire_bytes + figures.target_wire_bytes,
                "draft_wire_bytes": figures.draft_wire_bytes,
                "plain_reason": figures.plain_reason,
            }
        )
    common = {
        "time_s": seconds,
        "exact": started.exact,
        "emulated": started.emulated,
        "seed": started.seed,
        "num_prompt_tokens": started.num_prompt_tokens,
        "target": started.target,
        "draft": started.draft,
        "system_fingerprint": fingerprint(started.model_hash, started.numerics_class),
        "model_hash": started.model_hash,
        "numerics_class": started.numerics_class,
    }
    if len(streams) == 1:
        return {**streams[0], **common}
    summed = ("num_rounds", "num_plain_steps", "num_draft_tokens", "num_accepted_tokens")
    totals = {
        name: sum(stream[name] for stream in streams)
        for name in (*summed, "wire_bytes", "draft_wire_bytes")
    }
    return {**totals, **common, "streams": streams}


def _figures_line(started: StartedNotice, choices: list[_Choice], seconds: float) -> str:
    figures = [choice.figures for choice in choices]
    num_tokens = sum(len(choice.token_ids) for choice in choices)
    num_guessed = sum(f.num_rounds for f in figures)
    guesses = sum(f.num_draft_tokens for f in figures)
    accepted = sum(f.num_accepted_tokens for f in figures)
    wire = sum(f.draft_wire_bytes + f.target_wire_bytes for f in figures)
    air = sum(f.draft_wire_bytes for f in figures)
    parts = [
        f"{num_tokens} tokens",
        f"{num_tokens / seconds:.1f} tokens/s",
        f"{num_guessed} passes with guesses, {sum(f.num_plain_steps for f in figures)} without",
    ]
    if num_guessed:
        parts.append(f"{1 + accepted / num_guessed:.2f} tokens a pass with guesses")
    if guesses:
        parts.append(f"acceptance {accepted / guesses:.2f}")
    parts.append(f"{wire / max(1, num_tokens):.0f} wire bytes/token ({air} to and from the draft)")
    parts.append(f"exact: {str(started.exact).lower()}")
    if started.emulated:
        parts.append("emulated")
    parts.append(f"seed {started.seed}")
    reasons = sorted({f.plain_reason for f in figures if f.plain_reason})
    return "\n".join(["[" + ", ".join(parts) + "]", *(f"[{reason}]" for reason in reasons)])
