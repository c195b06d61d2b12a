"""A draft model of another vocabulary tells its guesses in the target's tokens."""

import random
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from airdraft.nodes.engine.dictionary import Dictionary
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.load import in_tokens_of
from airdraft.nodes.engine.protocol import EngineError, InvalidInputError, Span
from airdraft.nodes.engine.toy import ToyConfig, ToyModel
from airdraft.nodes.engine.translated import TranslatedModel
from tests.engine.kernels.tiny_models import SHAPES, write_model
from tests.engine.llama_texts import needs_model
from tests.engine.words import Words

OWN = Words(
    [b"", b"a", b"b", b"ab", b" the", b"):", b"\n", b"\n  ", b"\xc3", b"\xa9", b" cat", b""],
    names={b"<end>": 0, b"<turn>": 11},
)
TARGET = Words(
    [b" the", b"):\n", b"):", b"ab", b"abab", b"", b"", "é".encode(), b" c", b"", b"\xa9"],
    ends=frozenset({5}),
    names={b"<stop>": 5, b"<turn>": 6, b"<other>": 9},
)


@pytest.mark.parametrize(
    ("token_id", "own"),
    [
        (0, (4,)),
        # Two of its own at most.
        (4, (3, 3)),
        (1, (5, 6)),
        # Control tokens by their names, ends of texts whatever they are called.
        (6, (11,)),
        (5, (0,)),
        (9, ()),
        # Bytes that are no text by themselves.
        (7, (8, 9)),
        (10, (9,)),
    ],
)
def test_a_token_is_read_as_own_ones_of_the_same_text(token_id: int, own: tuple[int, ...]) -> None:
    assert Dictionary(OWN, TARGET).own_tokens(token_id) == own


def test_a_vocabulary_is_not_looked_through_for_every_control_token() -> None:
    """Of 150,000 tokens one look takes 0.1 s, and some targets have hundreds of control tokens."""
    own = Mock(wraps=OWN, num_vocab=OWN.num_vocab)
    Dictionary(own, TARGET)
    assert own.controls.call_count == own.eog_token_ids.call_count == 1


def logits(**chances: float) -> np.ndarray:
    """Of OWN: log-probabilities by token id, t4=0.5 and so on; the others have next to none."""
    found = np.full(OWN.num_vocab, np.log(1e-9), dtype=np.float32)
    for name, chance in chances.items():
        found[int(name[1:])] = np.log(chance)
    return found


def test_tokens_that_both_have_keep_their_logits_and_others_are_told_by_their_beginning() -> None:
    dictionary = Dictionary(OWN, TARGET)
    row = dictionary.translated(logits(t4=0.6, t0=0.3), 4, None)
    assert dictionary.num_shared == 5
    assert np.exp(row[[0, 5]]) == pytest.approx([0.6, 0.3])
    assert row[4] == row[6] == -np.inf
    assert int(dictionary.translated(logits(t10=0.9), 10, None).argmax()) == 8


def test_a_token_of_the_target_for_two_own_ones_has_their_common_chance() -> None:
    """Whichever of the own tokens follows that begins like the rest of it."""
    then = logits(t6=0.3, t7=0.5, t4=0.2)
    row = np.exp(Dictionary(OWN, TARGET).translated(logits(t5=0.9), 5, then))
    assert row[1] == pytest.approx(0.9 * 0.8, rel=1e-3)
    assert row[2] == pytest.approx(0.9 * 0.2, rel=1e-3)


def toy(**changes: int) -> ToyModel:
    return ToyModel(ToyConfig(num_vocab=36, max_sequences=4, **changes))


def translated(
    first: tuple[int, ...] = (), *, has_longer: bool = True, model: ToyModel | None = None
) -> TranslatedModel:
    """A toy whose tokens are texts of one or two letters, for a target with those of one, and
    longer ones."""
    letters = [bytes([k]) for k in range(97, 107)]
    own = Words([b"", *letters, *(a + b for a in letters[:5] for b in letters[:5])], first=first)
    longer = [a + b + c for a in letters[:3] for b in letters[:3] for c in letters]
    longer = longer if has_longer else list(own.pieces[11:])
    target = Words([b"", *letters[::-1], *longer])
    return TranslatedModel(model or toy(), own, target, "target's")


@pytest.mark.parametrize("first", [(), (3,)])
@pytest.mark.parametrize("seed", range(6))
def test_what_follows_a_text_does_not_depend_on_how_it_came(
    seed: int, first: tuple[int, ...]
) -> None:
    """In pieces, cut, copied, beside others: as if it were read at once by a new model."""
    draw = random.Random(seed)
    model = translated(first)
    num_vocab = model.info.num_vocab
    texts: list[list[int]] = [[] for _ in range(4)]
    for _ in range(60):
        spans = []
        for seq_id in draw.sample(range(4), draw.randint(1, 3)):
            text = texts[seq_id]
            if text and draw.random() < 0.3:
                del text[draw.randrange(len(text)) :]
                model.truncate(seq_id, len(text))
            elif not text and (num := model.length(source := draw.randrange(4))):
                text += texts[source][: draw.randint(1, num)]
                model.copy_prefix(source, seq_id, len(text))
            new = [draw.randrange(num_vocab) for _ in range(draw.randint(1, 5))]
            if draw.random() < 0.5 and text:
                # What was guessed, as most often.
                new = new[:1]
            spans.append(Span(seq_id, len(text), new, draw.choice((0, 1, 1))))
            text += new
        rows = model.forward(spans)
        wanted = [texts[span.seq_id] for span in spans if span.num_outputs]
        assert len(rows) == len(wanted)
        for row, text in zip(rows, wanted, strict=True):
            assert np.array_equal(row, translated(first).forward([Span(0, 0, text, 1)])[0])
        assert [model.length(k) for k in range(4)] == [len(text) for text in texts]


def test_cells_that_are_told_suffice_for_any_text() -> None:
    model = translated(model=toy(num_cells=64))
    longest = model.info.num_vocab - 1
    while model.free_cells():
        seq_id = min(range(4), key=model.length)
        model.forward([Span(seq_id, model.length(seq_id), [longest], 1)])
    assert sum(map(model.length, range(4))) >= model.info.num_cells - 2
    for seq_id in range(4):
        model.truncate(seq_id, 0)
    assert model.free_cells() == model.info.num_cells


def test_guesses_that_come_true_take_one_pass_each() -> None:
    draft = toy()
    model = translated(has_longer=False, model=draft)
    token_id = int(model.forward([Span(0, 0, [1, 2, 3], 1)])[0].argmax())
    before = draft.num_forward_passes
    for place in range(3, 13):
        (row,) = model.forward([Span(0, place, [token_id], 1)])
        token_id = int(row.argmax())
    # One of them may begin with a token that is not run ahead, such as an end.
    assert draft.num_forward_passes - before <= 11


def test_too_few_cells_and_logits_of_several_tokens_are_refused() -> None:
    with pytest.raises(EngineError, match="6 cells are too few for 4 streams"):
        translated(model=toy(num_cells=6))
    with pytest.raises(InvalidInputError, match="last token"):
        translated().forward([Span(0, 0, [1, 2], 2)])


@needs_model
def test_a_model_of_words_speaks_bytes(model: LlamaModel, tmp_path: Path) -> None:
    path = tmp_path / "bytes.gguf"
    write_model(path, SHAPES["width 512"], "Q8_0")
    # A model of the same tokens speaks for itself.
    assert in_tokens_of(model.config.path, model)[0] is model
    speaking, piece = in_tokens_of(path, model)
    assert speaking.info.num_vocab == 300
    assert speaking.info.vocab_hash != model.info.vocab_hash
    ids = {piece(k): k for k in range(300)}
    text = b"The capital of France is Pari"
    row = speaking.forward([Span(0, 0, [ids[bytes([k])] for k in text], 1)])[0]
    own = [token_id for k in text for token_id in model.vocabulary.inner_tokens(chr(k))]
    alone = model.forward([Span(1, 0, own, 1)])[0]
    # The likeliest own token may be divided by what follows it; the others have their own logits.
    likeliest = model.vocabulary.piece(int(alone.argmax()))
    for letter in b"aeiourst":
        if not likeliest.startswith(bytes([letter])):
            (own_id,) = model.vocabulary.inner_tokens(chr(letter))
            assert row[ids[bytes([letter])]] == pytest.approx(alone[own_id], abs=0.05)
