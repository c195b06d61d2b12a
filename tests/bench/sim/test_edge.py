"""The edge cell in virtual time: repeatable, with the texts and guesses of the recording."""

from __future__ import annotations

from dataclasses import replace

from click.testing import CliRunner

from bench.__main__ import bench
from bench.emulate.recording import read_recording
from bench.harness.streams import RECORDING, first_length
from bench.live.edge_cell import ALPHAS, Figures, Setting
from bench.sim.edge import calibrated, edge_scenario, run_edge

WIDE = Setting(rate_bps=2e6, alpha=0.9, warm_up_s=4.0, seconds=6.0)


def figures_of(setting: Setting, *modes: str) -> dict[str, Figures]:
    return {mode: run_edge(setting, mode) for mode in modes}


def test_texts_and_guesses_are_those_of_the_recording() -> None:
    scenario = edge_scenario(WIDE, 0)
    guesses, low, high = ALPHAS[0.9]
    recording = read_recording(RECORDING)
    draft = recording.draft_index(guesses)
    known = calibrated(recording.texts, draft)
    wanted = recording.texts_with(guesses, low, high)
    assert len(scenario.clients) == 16
    for number, client in enumerate(scenario.clients):
        text, recorded = client.texts[0], wanted[number % len(wanted)]
        assert text.num_prompt_tokens == len(recorded.prompt_ids)
        # First texts are cut, so that streams end apart; later ones are whole.
        length = first_length(len(recorded.output_ids), number, 16)
        right = tuple(a < b for a, b in zip(text.luck, text.chances, strict=True))
        assert right == recorded.accepted(draft)[:length]
        then = wanted[(number + 16) % len(wanted)]
        assert len(client.texts[1].luck) == len(client.texts[1].chances) == len(then.output_ids)
        first = known.chance(recorded.guesses[draft].probabilities[0])
        assert text.chances[0] == first
    # A draft that is sure is right more often.
    assert known.chance(0.05) < 0.5 < 0.9 < known.chance(0.99)


def test_a_cell_gives_the_same_each_time_and_more_with_guesses() -> None:
    once, again = (figures_of(WIDE, "plain", "auto") for _ in range(2))
    assert once == again
    assert once["auto"].tokens_per_s > 1.2 * once["plain"].tokens_per_s
    assert 0.7 < once["auto"].acceptance < 1.0
    assert 0.7 < once["auto"].promised < 1.5
    # Plain decoding has no plan, and nothing to be compared with.
    assert once["plain"].promised == 0.0


def test_a_narrow_cell_and_a_target_on_the_cell_gain_less_and_lose_nothing() -> None:
    wide = figures_of(WIDE, "auto")["auto"].token_s
    for setting in (replace(WIDE, rate_bps=200e3), replace(WIDE, is_target_on_air=True)):
        figures = figures_of(setting, "plain", "auto")
        assert 0.9 * wide < figures["auto"].token_s < 1.02 * figures["plain"].token_s


def test_the_command_says_how_auto_stands() -> None:
    options = ["edge", "--rates-kbps", "20000", "--alphas", "0.9", "--policies", "plain,auto"]
    made = CliRunner().invoke(bench, [*options, "--turns", "2", "--seconds", "4"])
    assert made.exit_code == 0, made.output
    assert "20000 kbit/s, alpha 0.9: auto to plain " in made.output
    assert " to " in made.output.splitlines()[-3]
    wrong = CliRunner().invoke(bench, ["edge", "--alphas", "0.3"])
    assert wrong.exit_code == 2
    assert "0.3" in wrong.output
    assert CliRunner().invoke(bench, ["edge", "--policies", "best"]).exit_code == 2
