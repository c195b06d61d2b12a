"""Lookup on texts that partly repeat themselves, in virtual time: it pays, or it costs nothing."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from bench.sim.command import copies_command
from bench.sim.copies import TABLES, TEXTS, Copies, gain, run_copies


@pytest.mark.parametrize("num_streams", [1, 2, 4, 16])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("table", TABLES)
def test_lookup_is_never_slower_than_plain(table: str, text: str, num_streams: int) -> None:
    copies = Copies(table=table, text=text, num_streams=num_streams, max_tokens=120)
    assert gain(copies, (1, 2)) > 0.98


@pytest.mark.parametrize("rtt_s", [3e-3, 30e-3])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("table", TABLES)
def test_nor_where_the_target_is_far(table: str, text: str, rtt_s: float) -> None:
    copies = Copies(table=table, text=text, num_streams=4, rtt_s=rtt_s, max_tokens=120)
    assert gain(copies, (1, 2)) > 0.98


@pytest.mark.parametrize("num_plain", [1, 4])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("table", TABLES)
def test_nor_beside_streams_that_do_not_wait(table: str, text: str, num_plain: int) -> None:
    """Rounds then miss every other pass."""
    copies = Copies(table=table, text=text, num_streams=num_plain + 4, num_plain=num_plain)
    assert gain(copies, (1,)) > 0.98


@pytest.mark.parametrize("max_tokens", [30, 60])
@pytest.mark.parametrize("seed", [2, 5])
def test_short_answers_of_many_streams_gain_too(seed: int, max_tokens: int) -> None:
    """Two halves that took turns, each in every other pass, had 0.63 of plain here."""
    copies = Copies(table="orin-like", text="partly copied", num_streams=16, max_tokens=max_tokens)
    assert gain(copies, (seed,)) > 1.0


@pytest.mark.parametrize(("table", "least"), [("orin-like", 1.35), ("flat", 1.5)])
def test_many_streams_gain_as_well_where_passes_hardly_grow(table: str, least: float) -> None:
    """Rounds that wait for somebody's second token had 1.04 and 1.25 of plain here."""
    assert gain(Copies(table=table, text="mostly copied", num_streams=16), (1,)) > least


@pytest.mark.parametrize("lookup", [False, True])
def test_texts_are_what_they_are(lookup: bool) -> None:
    copies = Copies(table="flat", text="mostly copied", num_streams=3, max_tokens=90)
    outcome = run_copies(copies, lookup=lookup)
    assert outcome.texts == outcome.expected
    assert (outcome.num_guesses > 30) == lookup
    assert len(outcome.seconds) == 3
    assert outcome.mean_s > 0.0


def test_the_command_has_a_row_for_each_kind() -> None:
    asked = ["--streams", "1,2", "--rtts-ms", "0.3", "--seeds", "1"]
    lines = CliRunner().invoke(copies_command, asked).output.splitlines()
    assert lines[0] == "| passes | rtt, ms | text | 1 streams | 2 streams |"
    assert len(lines) == 2 + len(TABLES) * len(TEXTS)
    *kind, one, two = [part.strip() for part in lines[2].strip("|").split("|")]
    assert kind == ["orin-like", "0.3", "mostly copied"]
    assert min(float(one), float(two)) > 1.3
