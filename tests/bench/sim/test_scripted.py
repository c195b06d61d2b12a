"""Engines that compute nothing: which text a sequence is of."""

from airdraft.nodes.engine.protocol import Span
from bench.sim.scenario import Text
from bench.sim.scripted import NUM_DIGITS, RIGHT, ScriptedModel, prompt_of


def text_of(*chances: float, luck: float = 0.6) -> Text:
    """A text whose tokens are guessed right where their chance is above the luck."""
    return Text((), (luck,) * len(chances), chances, num_prompt_tokens=NUM_DIGITS)


def test_a_draft_model_that_guessed_wrong_is_wrong_until_it_goes_back() -> None:
    model = ScriptedModel({7: text_of(0.9, 0.5, 0.9, 0.9)}, is_draft=True)
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


def test_guesses_are_right_where_the_luck_of_a_text_is_below_its_chance() -> None:
    luck = (0.1, 0.6, 0.6)
    alike, falling = Text((0.5,), luck), Text((0.9, 0.5), luck, believed=(0.8, 0.4))
    known = Text((), luck, chances=(0.05, 0.7, 0.5))
    of_all = [alike.guess(place, 0) for place in range(3)]
    assert of_all == [(True, 0.5), (False, 0.5), (False, 0.5)]
    # By the place after the last committed token, which goes on as it ends.
    by_place = [falling.guess(1, after) for after in range(3)]
    assert by_place == [(True, 0.8), (False, 0.4), (False, 0.4)]
    of_each = [known.guess(place, 0) for place in range(3)]
    assert of_each == [(False, 0.05), (True, 0.7), (False, 0.5)]
    # After its end nothing is right.
    assert not alike.guess(3, 0)[0]
