"""What clients of the machine ask for: few prompts and settings, so that texts are known."""

from __future__ import annotations

from hypothesis import strategies as st

from nodes.messages import SubmitRequest
from tests.nodes.builders import make_submit

LONGEST_PROMPT, MOST_TOKENS = 60, 200
_SHARED = tuple(1 + (7 * i) % 95 for i in range(40))
_PROMPTS = (
    _SHARED[:3],
    _SHARED,
    (*_SHARED, 5, 6),
    (*_SHARED[:20], *range(1, 30)),
    tuple(1 + i % 90 for i in range(LONGEST_PROMPT)),
)
_TEXTS = ("a text", "another one, that is somewhat longer")


@st.composite
def submits(draw: st.DrawFn, request_id: int) -> SubmitRequest:
    is_text = draw(st.booleans())
    scores_prompt = draw(st.sampled_from([False, False, False, True]))
    return make_submit(
        request_id,
        prompt=draw(st.sampled_from(_TEXTS)) if is_text else "",
        prompt_token_ids=() if is_text else draw(st.sampled_from(_PROMPTS)),
        num_choices=draw(st.sampled_from([1, 1, 2, 3])),
        max_tokens=draw(st.sampled_from([1, 30, MOST_TOKENS])),
        temperature=draw(st.sampled_from([0.0, 1.0])),
        seed=draw(st.sampled_from([7, 8])),
        stops=draw(st.sampled_from([(), (), (" 1",)])),
        ignore_eog=draw(st.booleans()),
        gamma=draw(st.sampled_from([-1, -1, -1, 0, 4])),
        priority=draw(st.sampled_from([1, 5, 10])),
        user=draw(st.sampled_from(["", "one", "two"])),
        num_logprobs=draw(st.sampled_from([-1, -1, 2])),
        scores_prompt=scores_prompt,
    )
