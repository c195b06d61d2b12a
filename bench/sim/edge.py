"""The edge cell of `bench live edge` in virtual time: live scheduler, simulated nodes and air.

Texts and guesses come from the recording, costs from the profiles of the same devices. The time of
processes and sockets is left out, so the result repeats exactly and needs no idle machine.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

from bench.emulate.recording import RecordedText, read_recording
from bench.live.edge_hub import Figures
from bench.live.edge_report import together
from bench.live.edge_setting import (
    AIR,
    ALPHAS,
    BENCH,
    DRAFT,
    FRAME_S,
    RATES,
    RECORDING,
    TARGET,
    Setting,
    first_length,
)
from bench.sim.scenario import Scenario, SimClient, SimDraftNode, Text
from bench.sim.world import World
from nodes.scheduler.planning import MODES
from policies.acceptance import Calibration, unknown_calibration
from policies.latency import NodeCosts
from policies.plan import Link
from policies.scenario.costs import COST_KEYS, costs_of
from policies.scenario.fields import Table

# Round-trip time to a station, as in the emulated cell.
_RTT_S = 2e-3
_TARGET_DELAY_S = 3e-4
_NOISE = 0.01
# As in the settings of the emulated cell's nodes.
_USED_CELLS = 2000
# Each turn begins this many texts further on.
_TEXTS_APART = 7

_Job = tuple[Setting, str, int]


def edge_scenario(setting: Setting, turn: int) -> Scenario:
    """Return the scenario of a setting. turn: number that decides the streams' first texts."""
    guesses, low, high = ALPHAS[setting.alpha]
    recording = read_recording(RECORDING)
    draft = recording.draft_index(guesses)
    wanted = recording.texts_with(guesses, low, high)
    known = calibrated(recording.texts, draft)
    texts = [_text(each, draft, number, known) for number, each in enumerate(wanted)]
    links = [Link(setting.rate_bps * part, _RTT_S, AIR, FRAME_S) for part in RATES]
    on_air = Link(setting.rate_bps, _RTT_S, AIR, FRAME_S)
    nodes = [SimDraftNode(costs=_costs(*DRAFT), link=link) for link in links]

    def client(number: int) -> SimClient:
        first = number + _TEXTS_APART * turn
        order = range(first, first + setting.num_streams * len(texts), setting.num_streams)
        own = [texts[k % len(texts)] for k in order]
        length = first_length(len(own[0].luck), number, setting.num_streams)
        return SimClient(
            alphas=(setting.alpha,),
            num_prompt_tokens=1,
            max_tokens=(1, 1),
            think_s=0.0,
            starts_at=0.01 * number,
            texts=(own[0].cut(length), *own[1:]),
        )

    return Scenario(
        seed=turn,
        target=_costs(*TARGET),
        drafts=tuple(nodes),
        clients=tuple(client(number) for number in range(setting.num_streams)),
        duration_s=setting.warm_up_s + setting.seconds,
        warm_up_s=setting.warm_up_s,
        noise=_NOISE,
        target_delay_s=_TARGET_DELAY_S,
        target_link=on_air if setting.is_target_on_air else None,
    )


def run_edge(
    settings: Sequence[Setting], policies: Sequence[str], num_turns: int, num_processes: int
) -> Iterator[tuple[Setting, dict[str, Figures]]]:
    """Run each setting under every policy, and yield it as soon as all its turns have ended."""
    jobs = [(s, policy, turn) for s in settings for policy in policies for turn in range(num_turns)]
    with ProcessPoolExecutor(num_processes) as pool:
        results = pool.map(_run, jobs)
        for setting in settings:
            made = {policy: [next(results) for _ in range(num_turns)] for policy in policies}
            yield setting, {policy: together(turns) for policy, turns in made.items()}


def _run(job: _Job) -> Figures:
    setting, policy, turn = job
    made = World(edge_scenario(setting, turn), MODES[policy]).run()
    return Figures(
        tokens_per_s=sum(client.num_tokens for client in made.clients) / setting.seconds,
        promised=made.promised,
        token_s=made.price_s,
        num_guesses=made.num_guesses,
        num_accepted=made.num_accepted,
    )


def calibrated(texts: Sequence[RecordedText], draft: int) -> Calibration:
    """Return the calibration that a draft node has after all guesses of these texts."""
    known = unknown_calibration()
    for text in texts:
        pairs = zip(text.guesses[draft].probabilities, text.accepted(draft), strict=True)
        for probability, is_right in pairs:
            known.observe(probability, accepted=is_right)
    return known


def _text(text: RecordedText, draft: int, number: int, known: Calibration) -> Text:
    luck = tuple(0.0 if is_right else 1.0 for is_right in text.accepted(draft))
    chances = tuple(known.chance(each) for each in text.guesses[draft].probabilities)
    return Text((), luck, chances, num_prompt_tokens=len(text.prompt_ids), prompt=number)


@cache
def _costs(device: str, model: str) -> NodeCosts:
    """Return the costs of the emulated nodes."""
    files = {name: _toml(BENCH / "profiles" / name) for name in ("models.toml", device)}
    costs = {"device": device, "model": model, "used_cells": _USED_CELLS}
    root = Table("edge", "", {"models": "models.toml", "costs": costs}, ("models", "costs"))
    return costs_of(root.table("costs", COST_KEYS), root, files)[0]


def _toml(path: Path) -> dict[str, object]:
    return tomllib.loads(path.read_text())
