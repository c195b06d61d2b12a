from __future__ import annotations

from nodes.engine.toy import TOY_EOG, ToyTokenizer
from nodes.messages import MAX_GAMMA
from nodes.target.stream import TargetStream
from nodes.worker.cells import cells_needed, cells_soon
from nodes.worker.stream import StopMatcher, StreamSpec
from tests.nodes.builders import PROMPT, make_spec


def make_stream(spec: StreamSpec, *output: int) -> TargetStream:
    sampler = spec.sampler(96, None)
    return TargetStream(spec, 1, 1, [*spec.token_ids, *output], StopMatcher(spec.stops), sampler)


def end_of(stream: TargetStream, *token_ids: int) -> tuple[list[int], bytes, str]:
    return stream.until_end(list(token_ids), {TOY_EOG}, ToyTokenizer(96))


def test_admission_counts_what_a_stream_has_and_a_margin_never_more_than_it_may_take() -> None:
    assert cells_soon(100, 4000) == 100 + 64 + MAX_GAMMA
    assert cells_soon(100, 10) == 100 + 10 + MAX_GAMMA
    spec = make_spec(max_tokens=500)
    stream = make_stream(spec, 9, 9)
    assert stream.cells == 5 + 64 + MAX_GAMMA <= cells_needed(spec) == 3 + 500 + MAX_GAMMA
    assert make_stream(spec, *[9] * 490).cells == cells_needed(spec)


def test_a_prompt_that_is_scored_is_read_by_itself_and_then_all_of_it_may_be_copied() -> None:
    stream = make_stream(make_spec(prompt=(1, 2, 3, 4), scores_prompt=True))
    assert (stream.scores_left, stream.num_copyable) == (3, 0)
    stream.next_score = 3
    assert (stream.scores_left, stream.num_copyable) == (1, 2)
    stream.next_score = 4
    assert (stream.scores_left, stream.num_copyable) == (0, 3)
    # What a stream that was moved here has shown came after the scores.
    moved = make_spec(prompt=(1, 2, 3, 4), scores_prompt=True, num_prompt_tokens=3)
    assert make_stream(moved).scores_left == 0


def test_a_stream_of_no_tokens_is_over_once_its_prompt_is_scored() -> None:
    stream = make_stream(make_spec(prompt=(1, 2), max_tokens=0, scores_prompt=True))
    assert not stream.is_over
    stream.next_score = 2
    assert stream.is_over
    assert not make_stream(make_spec()).is_over


def test_a_token_makes_its_own_score_and_those_of_others_in_its_place() -> None:
    assert make_stream(make_spec()).num_scores == 0
    assert make_stream(make_spec(num_logprobs=4)).num_scores == 5


def test_parking_voids_what_was_asked_and_begins_a_generation() -> None:
    stream = make_stream(make_spec(), 9)
    stream.lease, stream.announced = 20, True
    assert stream.may_decode
    stream.park()
    assert not stream.may_decode
    assert (stream.generation, stream.announced) == (2, False)
    # Who has not been told that it is ready was asked nothing yet.
    stream.park()
    assert stream.generation == 2


def test_a_text_ends_by_length_stop_string_or_end_token() -> None:
    assert end_of(make_stream(make_spec(max_tokens=4), 9), 5, 6) == ([5, 6], b" 5 6", "")
    assert end_of(make_stream(make_spec(max_tokens=3), 9), 5, 6, 7) == ([5, 6], b" 5 6", "length")
    assert end_of(make_stream(make_spec()), 5, TOY_EOG, 7) == ([5], b" 5", "stop")
    ignoring = make_stream(make_spec(ignore_eog=True))
    assert end_of(ignoring, 5, TOY_EOG, 7)[0] == [5, TOY_EOG, 7]
    stopped = make_stream(make_spec(stops=("6 7",)))
    assert end_of(stopped, 5, 6) == ([5, 6], b" 5 ", "")
    assert end_of(stopped, 7, 8) == ([7], b"", "stop")
    assert stopped.num_output == 0
    assert stopped.token_ids == [*PROMPT]
