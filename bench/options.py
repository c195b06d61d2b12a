"""Options that the commands of several measurements have."""

from __future__ import annotations

from collections.abc import Sequence

import click

from bench.harness.options import Decorator
from bench.results.options import COUNTS, listed

target_option = click.option("--target", default="smollm2-135m", help="A name or a GGUF file.")
draft_option = click.option(
    "--draft", default="", show_default="the catalogue's", help='Draft model, or "none".'
)
max_tokens_option = click.option("--max-tokens", default=128)
pairs_option = click.option("--pairs", default=9, help="Pairs of runs, A B then B A.")


def streams_option(default: str) -> Decorator:
    return click.option("--streams", type=COUNTS, default=default, help="Stream counts.")


def workloads_option(names: Sequence[str], default: str, help: str) -> Decorator:
    kinds = listed(accepted=lambda: names)
    return click.option("--workloads", type=kinds, default=default, help=help)
