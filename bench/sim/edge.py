"""The edge cell of `bench live edge` in virtual time: live scheduler, simulated nodes and air.

Texts and guesses come from the recording, costs from the profiles of the same devices. The time of
processes and sockets is left out, so the result repeats exactly and needs no idle machine.
"""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.nodes.scheduler.planning import MODES
from airdraft.policies.acceptance import Calibration, unknown_calibration
from airdraft.policies.plan import Link
from bench.emulate.recording import RecordedText, read_recording
from bench.emulate.replay import read_config
from bench.harness.streams import RECORDING, first_length
from bench.live.edge_cell import AIR, ALPHAS, FRAME_S, RATES, Figures, Setting, node_file
from bench.sim.scenario import Scenario, SimClient, SimDraftNode, Text
from bench.sim.world import World

# Round-trip time to a station, as in the emulated cell.
_RTT_S = 2e-3
_WIRED = Link(rtt_s=6e-4)
_NOISE = 0.01
# Each turn begins this many texts further on.
_TEXTS_APART = 7


def edge_scenario(setting: Setting, turn: int) -> Scenario:
    """Returns the scenario of a setting. turn: number that decides the streams' first texts."""
    guesses, low, high = ALPHAS[setting.alpha]
    recording = read_recording(RECORDING)
    draft = recording.draft_index(guesses)
    wanted = recording.texts_with(guesses, low, high)
    known = calibrated(recording.texts, draft)
    texts = [_text(each, draft, number, known) for number, each in enumerate(wanted)]
    links = [Link(setting.rate_bps * part, _RTT_S, AIR, FRAME_S) for part in RATES]
    on_air = Link(setting.rate_bps, _RTT_S, AIR, FRAME_S)
    costs = read_config(node_file(guesses)).costs
    nodes = [SimDraftNode(costs=costs, link=link) for link in links]

    def client(number: int) -> SimClient:
        first = number + _TEXTS_APART * turn
        order = range(first, first + setting.num_streams * len(texts), setting.num_streams)
        own = [texts[k % len(texts)] for k in order]
        length = first_length(len(own[0].luck), number, setting.num_streams)
        return SimClient(starts_at=0.01 * number, texts=(own[0].cut(length), *own[1:]))

    return Scenario(
        seed=turn,
        target=read_config(node_file()).costs,
        drafts=tuple(nodes),
        clients=tuple(client(number) for number in range(setting.num_streams)),
        duration_s=setting.warm_up_s + setting.seconds,
        warm_up_s=setting.warm_up_s,
        noise=_NOISE,
        target_link=on_air if setting.is_target_on_air else _WIRED,
        cell=setting.cell(),
    )


def run_edge(setting: Setting, policy: str, turn: int = 0) -> Figures:
    """Run one policy in virtual time. Passes of the target are not counted."""
    made = World(edge_scenario(setting, turn), MODES[policy]).run()
    return Figures(
        tokens_per_s=sum(client.num_tokens for client in made.clients) / setting.seconds,
        promised=made.promised,
        token_s=made.price_s,
        num_guesses=made.num_guesses,
        num_accepted=made.num_accepted,
    )


def calibrated(texts: Sequence[RecordedText], draft: int) -> Calibration:
    """Returns the calibration that a draft node has after all guesses of these texts."""
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
