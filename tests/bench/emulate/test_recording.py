"""A recording comes back as it was written, and what is none is refused in one line."""

import json
import zlib
from dataclasses import replace

import pytest

from bench.emulate.recording import (
    RecordedGuesses,
    RecordedModel,
    RecordedText,
    Recording,
    read_recording,
    to_bytes,
)
from nodes.engine.protocol import ModelFileError
from tests.bench.emulate.recordings import toy_recording


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
    recording = toy_recording(0.5, 1.0, num_texts=2, max_tokens=5, eog_rate=0.2)
    path.write_bytes(to_bytes(recording))
    read = read_recording(path)
    assert to_bytes(read) == to_bytes(recording)
    for text, known in zip(read.texts, recording.texts, strict=True):
        assert text.output_ids == known.output_ids
        for guesses, other in zip(text.guesses, known.guesses, strict=True):
            assert guesses.token_ids == other.token_ids
            assert guesses.probabilities == pytest.approx(other.probabilities, abs=5.1e-5)


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


def test_hashes_tell_vocabularies_and_contents_apart():
    recording = two_texts()
    other = replace(recording, texts=recording.texts[:1])
    assert other.vocab_hash() == recording.vocab_hash()
    assert other.content_hash() != recording.content_hash()
    pieces = replace(recording, pieces=(*recording.pieces[:3], b"c"))
    ends = replace(recording, eog_ids=(0, 1))
    assert len({r.vocab_hash() for r in (recording, pieces, ends)}) == 3


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
