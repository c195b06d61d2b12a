"""The edge cell, live in its short form and in virtual time: texts and guesses as recorded."""

from dataclasses import replace

from click.testing import CliRunner

from bench.__main__ import bench
from bench.emulate.recording import read_recording
from bench.harness.streams import RECORDING, first_length
from bench.live.edge import run_setting
from bench.live.edge_cell import ALPHAS, Figures, Setting, faults_of
from bench.sim.edge import calibrated, edge_scenario, run_edge

WIDE, NARROW = Setting(rate_bps=1e6, alpha=0.8), Setting(rate_bps=1e5, alpha=0.6)


def figures(tokens_per_s: float, token_s: float = 0.1, **changes: int) -> Figures:
    made = Figures(tokens_per_s=tokens_per_s, promised=1.1, token_s=token_s, num_texts=10)
    made.num_guesses = 5
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_a_wrong_text_and_a_run_in_which_nobody_guessed_are_faults() -> None:
    def found(plain: Figures, auto: Figures) -> list[str]:
        return faults_of({WIDE: {"plain": [plain], "auto": [auto]}})

    assert not found(figures(50.0, num_guesses=0), figures(80.0))
    assert found(figures(50.0, num_wrong=1), figures(80.0)) == ["1 texts differ from the recording"]
    assert found(figures(50.0), figures(50.0, num_guesses=0)) == ["auto took no guesses"]


def test_streams_that_begin_together_end_apart() -> None:
    """Otherwise their texts come in waves, and a measured while has one more or one less."""
    ends = [first_length(192, stream, 16) for stream in range(16)]
    assert ends == list(range(12, 193, 12))
    # Fewer tokens than streams: at least one of each.
    assert [first_length(3, stream, 4) for stream in range(4)] == [1, 1, 2, 3]


async def test_the_cell_serves_what_was_recorded() -> None:
    setting = Setting(rate_bps=20e6, alpha=0.9, num_streams=4, warm_up_s=0.5, seconds=9.0)
    (made,) = (await run_setting(setting, ["auto"], "auto"))["auto"]
    assert made.num_wrong == 0
    assert made.num_texts >= 4
    assert made.tokens_per_s > 0
    assert made.num_accepted > 0
    assert made.wire_bytes > 0
    assert {"pass", "plan"} <= set(made.errors)


SIMULATED = Setting(rate_bps=2e6, alpha=0.9, warm_up_s=4.0, seconds=6.0)


def test_texts_and_guesses_are_those_of_the_recording() -> None:
    scenario = edge_scenario(SIMULATED, 0)
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
    plain, auto = (run_edge(SIMULATED, mode) for mode in ("plain", "auto"))
    assert auto == run_edge(SIMULATED, "auto")
    assert auto.tokens_per_s > 1.2 * plain.tokens_per_s
    assert 0.7 < auto.acceptance < 1.0
    assert 0.7 < auto.promised < 1.5
    # Plain decoding has no plan, and nothing to be compared with.
    assert plain.promised == 0.0
    # Nor do back-off and collisions take much.
    ideal = run_edge(replace(SIMULATED, has_ideal_air=True), "auto")
    assert 0.9 * ideal.tokens_per_s < auto.tokens_per_s < 1.02 * ideal.tokens_per_s
    # A narrow cell and a target on the cell gain less and lose nothing.
    for setting in (replace(SIMULATED, rate_bps=200e3), replace(SIMULATED, is_target_on_air=True)):
        plain_s, auto_s = (run_edge(setting, mode).token_s for mode in ("plain", "auto"))
        assert 0.9 * auto.token_s < auto_s < 1.02 * plain_s


def test_the_command_says_how_auto_stands() -> None:
    command = ["live", "edge", "--means", "simulated"]
    options = ["--rates-kbps", "20000", "--alphas", "0.9", "--policies", "plain,auto"]
    made = CliRunner().invoke(bench, [*command, *options, "--turns", "2", "--seconds", "4"])
    assert made.exit_code == 0, made.output
    assert "20000 kbit/s, alpha 0.9: auto to plain " in made.output
    for wrong in (["--alphas", "0.3"], ["--policies", "best"]):
        made = CliRunner().invoke(bench, [*command, *wrong])
        assert made.exit_code == 2
        assert wrong[1] in made.output
