from airdraft.nodes.api.answers import Assembly, Piece
from airdraft.nodes.messages import FinishedNotice, StartedNotice, StreamFigures, TokensNotice

STARTED = StartedNotice(1, 7, 3, True, "big", "small", False)


def finished(choice: int = 0, reason: str = "stop", why: str = "") -> FinishedNotice:
    return FinishedNotice(1, choice, 2, reason, StreamFigures(2, 1, 4, 3, 0, 0, why))


def test_a_character_that_is_cut_between_messages_comes_whole() -> None:
    assembly = Assembly(1)
    text = "né".encode()
    assert assembly.take(STARTED) is None
    assert assembly.take(TokensNotice(1, 0, 0, text[:2], (4,))) == Piece("n", (4,))
    assert assembly.take(TokensNotice(1, 0, 1, text[2:], (5,))) == Piece("é", (5,))
    assert assembly.take(finished()) == Piece("", (), 0, "stop")
    answer = assembly.completion(2.0)
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("né", (4, 5), "stop")
    # Half a character at the end is replaced.
    assembly = Assembly(1)
    assembly.take(STARTED)
    assembly.take(TokensNotice(1, 0, 0, b"a\xc3", (4,)))
    assert assembly.take(finished(reason="length")) == Piece("\ufffd", (), 0, "length")
    assert assembly.completion(1.0).text == "a\ufffd"


def test_choices_are_put_together_apart_and_figures_summed() -> None:
    assembly = Assembly(2)
    assembly.take(STARTED)
    for choice, text in ((0, b"a"), (1, b"x"), (0, b"b")):
        assembly.take(TokensNotice(1, choice, 0, text, (9,)))
    assembly.take(finished(1))
    assert not assembly.is_complete
    assembly.take(finished(0, why="draft off: slow"))
    answer = assembly.completion(2.0)
    assert [choice.text for choice in answer.choices] == ["ab", "x"]
    usage = answer.usage
    assert (usage.num_prompt_tokens, usage.num_tokens, usage.num_draft_tokens) == (3, 3, 8)
    assert (usage.acceptance_rate, usage.tokens_per_s) == (0.75, 1.5)
    assert (answer.seed, answer.target, answer.plain_reason) == (7, "big", "draft off: slow")
