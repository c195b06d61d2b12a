"""Virtual time and links, and engines that compute nothing: which text a sequence is of."""

from functools import partial

import pytest

from bench.sim.devices import Clock, Medium
from bench.sim.scenario import Text
from bench.sim.scripted import NUM_DIGITS, RIGHT, ScriptedModel, guesses_of, prompt_of
from nodes.engine.protocol import Span
from nodes.engine.sampling import probability
from policies.plan import Link


def test_messages_on_one_medium_go_one_after_another() -> None:
    clock, medium = Clock(), Medium()
    arrived: list[tuple[str, float]] = []
    near = Link(rate_bps=2000.0, rtt_s=0.0, frame_s=0.1)
    far = Link(rate_bps=4000.0, rtt_s=4.0, frame_s=0.2)
    for name, link, bits in (("a", far, 2776), ("b", near, 776), ("c", near, 2776)):
        note = partial(lambda name: arrived.append((name, clock.now)), name)
        clock.at(1.0, partial(medium.send, clock, link, bits, note))
    clock.run(100.0)
    # With 1224 bits of headers: a takes 1.2 s, b 1.1 s and c 2.1 s of the medium.
    assert [name for name, _ in arrived] == ["b", "a", "c"]
    assert [at for _, at in arrived] == pytest.approx([3.3, 4.2, 5.4])


def test_things_happen_in_order_of_time_and_then_as_they_were_set() -> None:
    clock = Clock()
    seen: list[tuple[str, float]] = []
    for name, time_s in (("c", 2.0), ("a", 1.0), ("b", 1.0), ("never", 3.5)):
        clock.at(time_s, partial(lambda name: seen.append((name, clock.now)), name))
    clock.at(2.0, lambda: clock.after(0.5, lambda: seen.append(("d", clock.now))))
    clock.run(3.0)
    assert seen == [("a", 1.0), ("b", 1.0), ("c", 2.0), ("d", 2.5)]
    assert clock.now == 3.0


def test_a_target_goes_on_with_right_tokens_and_tells_what_a_pass_ran() -> None:
    model = ScriptedModel({}, num_cells=100)
    prompt = prompt_of(7, 8)
    assert model.forward([Span(0, 0, prompt, 0)]).shape[0] == 0
    rows = model.forward([Span(0, 8, [RIGHT] * 3, 3)])
    assert rows.argmax(axis=1).tolist() == [RIGHT] * 3
    work = model.take_work()
    assert work is not None
    assert (work.num_decoded, work.num_read, work.used_cells) == (3, 0, 8)
    assert model.take_work() is None
    assert (model.length(0), model.free_cells()) == (11, 89)


def test_a_draft_model_that_guessed_wrong_is_wrong_until_it_goes_back() -> None:
    starts = {7: NUM_DIGITS}
    model = ScriptedModel(starts, lambda _text, place, _after: (place != 1, 0.9), num_cells=100)
    found = []
    token_ids, start = list(prompt_of(7, NUM_DIGITS)), 0
    for _ in range(4):
        row = model.forward([Span(0, start, token_ids, 1)])[0]
        start += len(token_ids)
        token_ids = [int(row.argmax())]
        found.append(token_ids[0] == RIGHT)
    assert found == [True, False, False, False]
    model.truncate(0, NUM_DIGITS + 1)
    model.forward([Span(0, NUM_DIGITS + 1, [RIGHT], 1)])
    assert model.forward([Span(0, NUM_DIGITS + 2, [RIGHT], 1)])[0].argmax() == RIGHT


def test_a_draft_model_is_as_sure_of_a_guess_as_it_says() -> None:
    model = ScriptedModel({3: NUM_DIGITS}, lambda *_: (True, 0.7))
    row = model.forward([Span(0, 0, prompt_of(3, NUM_DIGITS), 1)])[0]
    assert probability(row, RIGHT) == pytest.approx(0.7)


def test_guesses_are_right_where_the_luck_of_a_text_is_below_its_chance() -> None:
    luck = (0.1, 0.6, 0.6)
    texts = {
        1: Text((0.5,), luck),
        2: Text((0.9, 0.5), luck, believed=(0.8, 0.4)),
        3: Text((), luck, chances=(0.05, 0.7, 0.5)),
    }
    guess = guesses_of(texts)
    assert [guess(1, place, 0) for place in range(3)] == [(True, 0.5), (False, 0.5), (False, 0.5)]
    # By the place after the last committed token, which goes on as it ends.
    assert [guess(2, 1, after) for after in range(3)] == [(True, 0.8), (False, 0.4), (False, 0.4)]
    assert [guess(3, place, 0) for place in range(3)] == [(False, 0.05), (True, 0.7), (False, 0.5)]
    # After its end nothing is right.
    assert not guess(1, 3, 0)[0]


def test_what_was_saved_of_a_sequence_is_there_again() -> None:
    model = ScriptedModel({9: NUM_DIGITS}, lambda text_id, *_: (text_id == 9, 0.9))
    model.forward([Span(0, 0, prompt_of(9, NUM_DIGITS), 1)])
    saved = model.save(0)
    model.truncate(0, 0)
    model.restore(1, saved, NUM_DIGITS)
    model.copy_prefix(1, 2, NUM_DIGITS)
    for seq_id in (1, 2):
        assert model.forward([Span(seq_id, NUM_DIGITS, [RIGHT], 1)])[0].argmax() == RIGHT
