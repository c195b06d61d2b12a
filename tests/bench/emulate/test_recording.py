"""Recordings are what the models say, token for token, and come back as they were written."""

import json
import zlib
from dataclasses import replace

import pytest
from click.testing import CliRunner

from airdraft.nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET
from airdraft.nodes.engine.protocol import ModelFileError, Span
from airdraft.nodes.engine.sampling import Sampling, probability
from airdraft.nodes.engine.toy import TOY_EOG, ToyConfig, ToyModel, ToyTokenizer
from bench.__main__ import bench
from bench.emulate.record import acceptance_tables
from bench.emulate.recording import (
    RecordedGuesses,
    RecordedModel,
    RecordedText,
    Recording,
    read_recording,
    to_bytes,
)
from tests.bench.emulate.recordings import toy_recording
from tests.nodes.reference import reference


def two_texts():
    """The draft is right 1 of 2 times, and 3 of 3. A piece is no UTF-8."""
    half = RecordedText("chat", "A?", (1, 2), (3, 0), (RecordedGuesses((3, 1), (0.5, 0.25)),))
    whole = RecordedText("code", "B?", (2, 2), (1, 1, 1), (RecordedGuesses((1, 1, 1), (1, 1, 0)),))
    drafts = (RecordedModel("small", "cd", '{"edges": []}'),)
    pieces = (b"", b"a", "b\n\u00e9".encode(), b"\xff")
    return Recording(RecordedModel("large", "ab"), drafts, pieces, (0,), (half, whole))


def test_a_recording_comes_back_but_for_digits(tmp_path):
    path = tmp_path / "r"
    path.write_bytes(to_bytes(two_texts()))
    assert read_recording(path) == two_texts()
    recording = toy_recording(0.5, 1.0, num_texts=1, max_tokens=5)
    path.write_bytes(to_bytes(recording))
    (read,), (known,) = read_recording(path).texts, recording.texts
    for guesses, other in zip(read.guesses, known.guesses, strict=True):
        assert guesses.probabilities == pytest.approx(other.probabilities, abs=5.1e-5)
    assert replace(read, guesses=()) == replace(known, guesses=())


def test_texts_are_chosen_by_acceptance():
    recording = two_texts()
    half, whole = recording.texts
    assert [text.acceptance(0) for text in recording.texts] == [0.5, 1.0]
    assert half.accepted(0) == (True, False)
    assert recording.texts_with("small", 0.5, 1.0) == (half,)
    assert recording.texts_with("small", 0.6, 1.01) == (whole,)
    assert recording.texts_with("small", 0.0, 0.5) == ()
    with pytest.raises(ModelFileError, match="no draft 'large': its drafts are small"):
        recording.texts_with("large", 0.0, 1.0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda d: d.update(format="airdraft recording 9"), "format: Input should be 'airdraft"),
        (lambda d: d.pop("eog_ids"), "eog_ids: Field required"),
        (lambda d: d.update(texts=[]), "it has no texts"),
        (lambda d: d.update(target=[]), "target: "),
        (lambda d: d["texts"][0].update(prompt_ids=[2, 2]), "a prompt occurs twice"),
        (lambda d: d["texts"][0].update(prompt_ids=[2]), "begins with another one"),
        # Files of other kinds.
        (b"", "is damaged"),
        (b"GGUF", "is not a recording"),
        (zlib.compress(b"[1, 2]"), "is damaged"),
        (zlib.compress(b"[" * 100_000), "is damaged"),
        (to_bytes(two_texts())[:-9], "is damaged"),
    ],
)
def test_what_is_no_recording_is_named_in_one_line(tmp_path, content, says):
    """content: of a file, or what is changed in a good one."""
    if not isinstance(content, bytes):
        data = json.loads(zlib.decompress(to_bytes(two_texts())))
        content(data)
        content = zlib.compress(json.dumps(data).encode())
    path = tmp_path / "r"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=says) as caught:
        read_recording(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


GREEDY = Sampling()


def raw_ids(recording):
    """The toy's id of each dense one, by its piece."""
    tokenizer = ToyTokenizer(96)
    by_piece = {tokenizer.piece(token_id): token_id for token_id in range(96)}
    return [by_piece[piece] for piece in recording.pieces]


def test_texts_are_what_plain_decoding_gives():
    recording = toy_recording(num_texts=6, max_tokens=60, eog_rate=0.01)
    raw = raw_ids(recording)
    assert [raw[token_id] for token_id in recording.eog_ids] == [TOY_EOG]
    ended = 0
    for text in recording.texts:
        prompt = [raw[token_id] for token_id in text.prompt_ids]
        assert prompt == ToyTokenizer(96).encode_chat([("user", text.prompt)])
        alone = reference(ToyConfig(eog_rate=0.01), prompt, GREEDY, max_tokens=60)
        output = [raw[token_id] for token_id in text.output_ids]
        if alone.finish_reason == "stop":
            assert output.pop() == TOY_EOG
            ended += 1
        assert tuple(output) == alone.token_ids
    assert 0 < ended < 6


def test_guesses_are_a_drafts_given_the_text_before():
    recording = toy_recording(0.6, num_texts=3, max_tokens=80)
    raw = raw_ids(recording)
    draft = ToyModel(ToyConfig(agreement=0.6))
    for text in recording.texts:
        fed = [raw[token_id] for token_id in (*text.prompt_ids, *text.output_ids[:-1])]
        rows = draft.forward([Span(0, 0, fed, len(text.output_ids))])
        draft.truncate(0, 0)
        guesses = text.guesses[0]
        assert [raw[token_id] for token_id in guesses.token_ids] == rows.argmax(axis=1).tolist()
        found = [probability(row, int(row.argmax())) for row in rows]
        assert list(guesses.probabilities) == pytest.approx(found)
    assert 0.4 < sum(text.acceptance(0) for text in recording.texts) / 3 < 0.8


@pytest.mark.model
def test_the_command_records_real_models(tmp_path):
    out = tmp_path / "new" / "r"
    options = ["--texts", "10", "--max-tokens", "4", "--draft", DEFAULT_DRAFT, "--out", str(out)]
    result = CliRunner().invoke(bench, ["record", *options])
    assert result.exit_code == 0, result.output
    recording = read_recording(out)
    assert recording.target.name == DEFAULT_TARGET
    assert [draft.name for draft in recording.drafts] == [DEFAULT_DRAFT]
    assert recording.drafts[0].calibration.startswith("{")
    assert len(recording.texts) == 10
    assert acceptance_tables(recording) in result.output
