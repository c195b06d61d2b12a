from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.gateway.scored import ScoredToken, ScoredTokens
from airdraft.nodes.messages import Score, TokenScores

scores = st.builds(
    Score, st.integers(0, 2**31 - 1), st.floats(max_value=0, allow_nan=False), st.binary(max_size=8)
)
tokens = st.builds(
    ScoredToken,
    st.builds(TokenScores, scores, st.lists(scores, max_size=20).map(tuple)),
    st.booleans(),
    st.sampled_from(["plain", "accepted", "corrected", "bonus", "prompt"]),
)


@given(st.lists(tokens, max_size=6), st.lists(tokens, max_size=6), st.integers(0, 12))
def test_what_is_held_is_what_was_given(
    first: list[ScoredToken], more: list[ScoredToken], place: int
) -> None:
    held, both = ScoredTokens(first), [*first, *more]
    held.extend(more)
    held.extend(ScoredTokens(first))
    assert list(held) == [*both, *first]
    assert len(held) == len(both) + len(first)
    assert list(held[place:]) == [*both, *first][place:]
    assert [held[index] for index in range(len(held))] == list(held)
