"""The edge cell in virtual time: repeatable, and near what plans promise."""

from dataclasses import replace

from click.testing import CliRunner

from bench.__main__ import bench
from bench.live.edge_setting import ALPHAS, RECORDING, Setting, first_length
from bench.sim.edge import calibrated, edge_scenario, run_edge
from nodes.engine.recording import read_recording

NARROW = Setting(rate_bps=200e3, alpha=0.9, warm_up_s=4.0, seconds=8.0)


def test_texts_and_guesses_are_those_of_the_recording() -> None:
    scenario = edge_scenario(NARROW, 0)
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
        right = tuple(text.is_right(k, 0) for k in range(len(text.luck)))
        assert right == recorded.accepted(draft)[:length]
        then = wanted[(number + 16) % len(wanted)]
        assert len(client.texts[1].luck) == len(client.texts[1].chances) == len(then.output_ids)
        first = known.chance(recorded.guesses[draft].probabilities[0])
        assert text.chances[0] == first
    # A draft that is sure is right more often.
    assert known.chance(0.05) < 0.5 < 0.9 < known.chance(0.99)


def test_a_narrow_cell_gives_about_what_plans_promise_and_the_same_each_time() -> None:
    made = [dict(run_edge([NARROW], ["ad", "alternating"], 1, 1))[NARROW] for _ in range(2)]
    assert made[0] == made[1]
    ad, alternating = made[0]["ad"], made[0]["alternating"]
    assert alternating.tokens_per_s > 1.05 * ad.tokens_per_s
    for figures in (ad, alternating):
        assert 0.85 < figures.tokens_per_s / figures.planned_tokens_per_s < 1.15
    assert 0.7 < alternating.acceptance < 0.95


def test_a_target_on_the_cell_gives_about_what_plans_promise() -> None:
    on_air = replace(NARROW, rate_bps=2e6, warm_up_s=8.0, is_target_on_air=True)
    wired, air = (
        dict(run_edge([s], ["ad", "joint"], 1, 1))[s]
        for s in (replace(on_air, is_target_on_air=False), on_air)
    )
    for figures in air.values():
        assert 0.9 < figures.tokens_per_s / figures.planned_tokens_per_s < 1.1
    assert air["ad"].tokens_per_s < air["joint"].tokens_per_s < wired["joint"].tokens_per_s


def test_the_command_says_how_joint_stands() -> None:
    options = ["edge", "--rates-kbps", "20000", "--alphas", "0.9", "--policies", "ad,joint"]
    made = CliRunner().invoke(bench, [*options, "--turns", "2", "--seconds", "4"])
    assert made.exit_code == 0, made.output
    assert "20000 kbit/s, alpha 0.9: joint to ad " in made.output
    assert "±" in made.output
    wrong = CliRunner().invoke(bench, ["edge", "--alphas", "0.3"])
    assert wrong.exit_code == 2
    assert "0.3" in wrong.output
    assert CliRunner().invoke(bench, ["edge", "--policies", "best"]).exit_code == 2
