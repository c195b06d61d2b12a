"""A target's own head: it guesses with the target's rows, and changes no bit of the target."""

import contextlib
import gc
import random

import numpy as np
import pytest

from airdraft.nodes.catalog.gguf import declared_by
from airdraft.nodes.draft.state import DraftState
from airdraft.nodes.engine.head import HeadModel
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.load import open_model
from airdraft.nodes.engine.noise import drawn_ids
from airdraft.nodes.engine.protocol import EngineError, Span
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.engine.selftest import run_self_test
from airdraft.nodes.service.inside import head_of
from airdraft.nodes.target.state import TargetState
from airdraft.nodes.target.turns import Turns
from bench.rows import compared, known_texts
from tests.engine.kernels.tiny_head import write_model_with_head
from tests.nodes.builders import make_spec
from tests.nodes.target.script import run, tokens_of

# Longer than a second or two.
pytestmark = pytest.mark.slow

TEXT = drawn_ids(1, 60, 300)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_model_with_head(path)
    return path


@contextlib.contextmanager
def opened(path, **options):
    options = {"has_head": True} | options
    config = LlamaConfig(path=path, num_cells=1024, max_sequences=5, **options)
    with contextlib.closing(LlamaModel(config)) as model:
        yield model


def test_a_file_says_whether_it_has_one(path, tmp_path):
    assert declared_by(path).has_head is True
    other = tmp_path / "other.gguf"
    data = path.read_bytes()
    other.write_bytes(data.replace(b".nextn.", b".nexxn."))
    assert declared_by(other).has_head is False
    other.write_bytes(data.replace(b".nextn_predict_layers", b".nextn_predict_layerz"))
    assert declared_by(other).has_head is None


def test_the_rows_of_the_target_are_those_without_a_head(path):
    with opened(path, has_head=False) as model:
        plain = run_self_test(model, prefix_lens=(60,))
        texts = known_texts(model, 30)
        with pytest.raises(EngineError, match="has no head"):
            HeadModel(model)
    assert plain.exact, plain.failure
    with opened(path) as model, contextlib.closing(HeadModel(model)):
        assert run_self_test(model, prefix_lens=(60,)) == plain
        found = compared(model, texts, 4, random.Random(1))
        assert (found.num_other_rows, found.num_other_states) == (0, 0)


def test_wrong_guesses_leave_no_trace_in_the_head(path):
    """What it says after a text is what it says if it reads the text at once."""
    with opened(path) as model, contextlib.closing(HeadModel(model)) as head:
        model.forward([Span(0, 0, TEXT[:50])])
        head.follow(1, 0)
        head.forward([Span(1, 0, TEXT[:49])])
        wanted = head.forward([Span(1, 49, TEXT[49:50], 1)]).copy()
        model.truncate(0, 0)
        head.truncate(1, 0)
        model.forward([Span(0, 0, TEXT[:40])])
        head.follow(2, 0)
        head.forward([Span(2, 0, TEXT[:39])])
        for start in range(40, 50, 2):
            # It guesses behind its own guesses, and the target has its own and wrong tokens, too.
            for position in range(start - 1, start + 2):
                head.forward([Span(2, position, [7], 1)])
            span = Span(0, start, [*TEXT[start : start + 2], 8, 9], 4, keeps=True)
            model.forward([span])
            model.truncate(0, start + 2)
            head.truncate(2, start - 1)
            head.forward([Span(2, start - 1, TEXT[start - 1 : start + 1])])
        found = head.forward([Span(2, 49, TEXT[49:50], 1)])
        assert np.array_equal(found, wanted)


def test_its_cache_grows_with_the_target_s(path):
    text, found = drawn_ids(2, 600, 300), []
    for first in (256, 1024):
        with opened(path, first_cells=first) as model, contextlib.closing(HeadModel(model)) as head:
            head.follow(1, 0)
            rows = []
            for start in range(0, 600, 60):
                model.forward([Span(0, start, text[start : start + 60])])
                rows += list(head.forward([Span(1, start, text[start : start + 60], 60)]).copy())
            found.append(np.stack(rows))
            assert head.free_cells() == 1024 - 600
    assert np.array_equal(*found)


def test_a_head_that_was_at_work_when_its_process_died_is_left_out(path, tmp_path):
    for dies in (False, True):
        with opened(path) as model:
            ready = head_of(model, tmp_path)
            assert ready is not None
            assert ready.record is not None
            if dies:
                ready.record.__enter__()
            else:
                ready.record.release()
            ready.model.close()
            # As when its process ends, nothing holds the lock of the mark then.
            del ready
            gc.collect()
    with opened(path) as model:
        assert head_of(model, tmp_path) is None


def test_texts_with_guesses_of_the_head_are_those_without(path):
    config = LlamaConfig(path=path, num_cells=1024, max_sequences=5, has_head=True)
    opened = open_model(config, None)
    specs = [
        make_spec(
            number,
            prompt=tuple(drawn_ids(number, 20 + number, 300)),
            max_tokens=40,
            num_leased=40,
            num_guesses=3,
            ignore_eog=True,
            sampling=Sampling(temperature=0.5 * (number % 2), seed=number),
        )
        for number in range(1, 5)
    ]
    with contextlib.closing(opened.model) as model:
        ready = head_of(model)
        assert ready is not None
        texts = []
        with contextlib.closing(ready.model):
            for has_guesses in (False, True):
                turns = None
                if has_guesses:
                    draft = DraftState(ready.model, ready.calibration, None, ready.limit)
                    turns = Turns(draft, ready.costs, follow=ready.follow)
                state = TargetState(model, opened.tokenizer, costs=opened.costs, turns=turns)
                for spec in specs:
                    state.open(spec)
                commits = run(state)
                texts.append([tokens_of(commits, spec.stream_id) for spec in specs])
                assert any(c.entry.num_in_turns for c in commits) == has_guesses
                state.forget_all()
    assert texts[0] == texts[1]
    assert all(len(text) == 40 for text in texts[0])
