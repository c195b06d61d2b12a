"""Lookup on texts that partly repeat themselves, in virtual time: it pays, or it costs nothing."""

import pytest

from bench.sim.copies import TABLES, TEXTS, Copies, gain, run_copies


@pytest.mark.parametrize("num_streams", [1, 2, 4, 16])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("table", TABLES)
def test_lookup_is_never_slower_than_plain(table: str, text: str, num_streams: int) -> None:
    copies = Copies(table=table, text=text, num_streams=num_streams, max_tokens=120)
    assert gain(copies, (1, 2)) > 0.97


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("table", TABLES)
def test_a_far_target_gains_as_much(table: str, text: str) -> None:
    """It looks up by itself: nothing has to travel for a guess."""
    near, far = (
        Copies(table=table, text=text, num_streams=4, rtt_s=rtt_s, max_tokens=120)
        for rtt_s in (3e-4, 30e-3)
    )
    assert gain(far, (1,)) > 0.97 * gain(near, (1,))


@pytest.mark.parametrize("max_tokens", [30, 60])
@pytest.mark.parametrize("seed", [2, 5])
def test_short_answers_of_many_streams_gain_too(seed: int, max_tokens: int) -> None:
    copies = Copies(table="orin-like", text="partly copied", num_streams=16, max_tokens=max_tokens)
    assert gain(copies, (seed,)) > 1.0


def test_the_more_is_copied_the_more_is_gained() -> None:
    gains = [gain(Copies(table="flat", text=text, num_streams=2), (1, 2)) for text in TEXTS]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 1.5


def test_a_plain_stream_takes_a_pass_a_token() -> None:
    copies = Copies(table="flat", text="mostly copied", num_streams=1, max_tokens=90)
    pass_s = TABLES["flat"].at(1)
    assert run_copies(copies, lookup=False) == pytest.approx(90 * pass_s, rel=0.03)
    assert run_copies(copies, lookup=True) < 60 * pass_s
