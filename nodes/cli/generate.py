"""`airdraft generate`: prints a request, its text as it arrives and a line of figures, or JSON."""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import click

from airdraft.nodes.api.answers import Assembly, Completion
from airdraft.nodes.cli.cells import harmless
from airdraft.nodes.cli.connection import with_client
from airdraft.nodes.cli.options import (
    config_option,
    generate_options,
    given_settings,
    leaves_sampling_open,
    mesh_options,
    options_of,
    read_prompt,
    verbose_option,
)
from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.config.settings import ClientConfig
from airdraft.nodes.config.sources import load
from airdraft.nodes.messages import StartedNotice, StreamFigures
from airdraft.nodes.service.runtime import one_line, run_to_end, set_up_logging

# Fields of StreamFigures and of StartedNotice that the object has under the same names.
_COUNTS = (
    "num_rounds",
    "num_plain_steps",
    "num_draft_tokens",
    "num_accepted_tokens",
    "draft_wire_bytes",
    "num_cached_tokens",
)
_OF_ANSWER = (
    "exact",
    "emulated",
    "seed",
    "num_prompt_tokens",
    "target",
    "draft",
    "model_hash",
    "numerics_class",
)
_WAITING = "[the coordinator was lost: the answer continues when it is back]"


async def print_request(client: MeshClient, prompt: str, values: Mapping[str, Any]) -> None:
    """Run one request and print it. values: the options of generate_options.

    Raises RequestFailedError.
    """
    nodes = (await client.nodes()).nodes if leaves_sampling_open(values) else ()
    options = options_of(values, nodes)
    as_json = values["as_json"]
    start = time.perf_counter()
    assembly = Assembly(options.num_choices)
    # Several choices are printed one after the other at the end, because their texts would mix.
    live = not as_json and options.num_choices == 1
    async for event in client.generate(prompt, options):
        piece = assembly.take(event)
        if live and piece is not None:
            sys.stdout.write(_printed(piece.text))
            sys.stdout.flush()
    answer = assembly.completion(time.perf_counter() - start)
    started, figures = assembly.started, assembly.figures
    assert started is not None
    if as_json:
        click.echo(json.dumps(_as_object(answer, started, figures)))
        return
    if live:
        click.echo()
    else:
        for index, choice in enumerate(answer.choices):
            click.echo(f"--- {index}\n{_printed(choice.text)}")
    click.echo(figures_line(answer, emulated=started.emulated), err=True)


def _printed(text: str) -> str:
    """A model's text for standard output; for a terminal, control characters are removed."""
    return harmless(text) if sys.stdout.isatty() else text


def _as_object(
    answer: Completion, started: StartedNotice, figures: list[StreamFigures]
) -> dict[str, Any]:
    streams: list[dict[str, Any]] = [
        {
            "text": choice.text,
            "token_ids": choice.token_ids,
            "finish_reason": choice.finish_reason,
            **{name: getattr(found, name) for name in _COUNTS},
            "wire_bytes": found.draft_wire_bytes + found.target_wire_bytes,
            "plain_reason": found.plain_reason,
        }
        for choice, found in zip(answer.choices, figures, strict=True)
    ]
    common = {
        "time_s": answer.usage.time_s,
        **{name: getattr(started, name) for name in _OF_ANSWER},
        "system_fingerprint": answer.fingerprint,
    }
    if len(streams) == 1:
        return {**streams[0], **common}
    totals = {name: sum(each[name] for each in streams) for name in (*_COUNTS, "wire_bytes")}
    return {**totals, **common, "streams": streams}


def figures_line(answer: Completion, *, emulated: bool = False) -> str:
    """Speed, acceptance and seed of an answer; below them why passes had no guesses, if so."""
    usage = answer.usage
    parts = [f"{usage.num_tokens} tokens", f"{usage.tokens_per_s:.1f} tokens/s"]
    if usage.acceptance_rate is not None:
        parts.append(f"acceptance {usage.acceptance_rate:.2f} of {usage.num_draft_tokens} guesses")
        per_pass = 1 + usage.num_accepted_tokens / max(1, usage.num_rounds)
        parts.append(f"{per_pass:.2f} tokens a pass with guesses")
    parts.append(f"exact: {str(answer.is_exact).lower()}")
    if emulated:
        parts.append("emulated")
    parts.append(f"seed {answer.seed}")
    if answer.finish_reason == "length":
        parts.append("cut at --max-tokens")
    line = f"[{', '.join(parts)}]"
    return f"{line}\n[{one_line(answer.plain_reason)}]" if answer.plain_reason else line


@click.command("generate")
@config_option
@mesh_options
@generate_options
@verbose_option
def generate_command(**values: Any) -> None:
    """Generate text on a running mesh.

    \b
    Example:
      airdraft generate "Why is the sky blue?"
    """
    set_up_logging(values["verbose"])
    prompt = read_prompt(values["prompt"])
    config = load(ClientConfig, values["config"], given_settings(ClientConfig, values))
    run_to_end(
        lambda: with_client(
            config.connect,
            config.keys,
            lambda client: print_request(client, prompt, values),
            link=config.link,
            rejoins=True,
            on_waiting=lambda: click.echo(_WAITING, err=True),
        )
    )
