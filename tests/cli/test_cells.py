from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.cli.cells import cut, filled, shown, width_of


@given(text=st.text(max_size=30), width=st.integers(0, 40))
def test_no_text_is_wider_than_it_may_be_or_obeyed_by_a_terminal(text: str, width: int) -> None:
    text = shown(text)
    assert text.isprintable()
    assert width_of(cut(text, width)) <= width
    assert width_of(filled(text, width)) == width
    assert cut(text, width_of(text)) == text


def test_wide_characters_take_two_cells() -> None:
    assert width_of("漢a") == 3
    assert cut("漢漢漢", 4) == "漢~"
    assert filled("漢", 4, right=True) == "  漢"
