"""The self-test passes exact engines and catches every kind of inexact one; probes are answered."""

import dataclasses

import numpy as np
import pytest

from airdraft.nodes.engine.protocol import SavedPrefix, Span
from airdraft.nodes.engine.selftest import probe_digest, run_self_test
from airdraft.nodes.engine.toy import ToyConfig, ToyModel


class WrongModel(ToyModel):
    """A toy one of whose logits has another last bit where `is_wrong(model, spans)` says so."""

    def __init__(self, is_wrong, config=None):
        super().__init__(config)
        self._is_wrong = is_wrong

    def forward(self, spans):
        wrong = self._is_wrong(self, spans)
        rows = super().forward(spans)
        if wrong:
            rows[:, 3] = np.nextafter(rows[:, 3], np.float32(100))
        return rows


class FarModel(ToyModel):
    """A toy with another last bit of a logit at each position from 512 on."""

    def forward(self, spans):
        rows = super().forward(spans)
        ends = [span.start + len(span.token_ids) for span in spans]
        positions = [
            position
            for span, end in zip(spans, ends, strict=True)
            for position in range(end - span.num_outputs, end)
        ]
        far = np.array(positions, dtype=int) >= 512
        rows[far, 3] = np.nextafter(rows[far, 3], np.float32(100))
        return rows


def test_the_digest_is_of_the_bits_also_far_into_a_text():
    digest = run_self_test(ToyModel()).digest
    assert len(digest) == 16
    assert run_self_test(ToyModel(ToyConfig(num_cells=700))).digest == digest
    assert run_self_test(ToyModel(ToyConfig(seed=99))).digest != digest
    # Two builds that compute the same until attention changes its kernel, and are exact both.
    far = run_self_test(FarModel())
    assert far.exact
    assert far.digest != digest


@pytest.mark.parametrize(
    ("is_wrong", "failure"),
    [
        (lambda _, spans: spans[0].num_outputs == 2, "a pass of 2 tokens differs from single "),
        (lambda _, spans: spans[0].num_outputs == 9, "a pass of 9 tokens differs from single "),
        (lambda _, spans: len(spans) > 1, "shared with another sequence"),
        (lambda *_: False, ""),
    ],
    ids=["two tokens", "nine tokens", "a neighbour", "nothing"],
)
def test_what_a_pass_depends_on_is_named(is_wrong, failure):
    model = WrongModel(is_wrong)
    result = run_self_test(model)
    assert result.exact == (result.failure == "") == (not failure)
    assert failure in result.failure
    assert model.free_cells() == model.info.num_cells


def test_dependence_on_how_the_prompt_was_cut_is_noticed():
    class Chunky(ToyModel):
        chunked = False

        def forward(self, spans):
            self.chunked |= spans[0].num_outputs == 0 and len(spans[0].token_ids) == 23
            rows = super().forward(spans)
            if self.chunked and len(rows):
                rows[0, 5] = 7.5
            return rows

    assert not run_self_test(Chunky()).exact


def test_dependence_that_begins_at_512_keys_is_noticed_and_its_length_named():
    def is_wrong(model, spans):
        return len(spans[0].token_ids) > 1 and model.length(0) >= 512

    result = run_self_test(WrongModel(is_wrong))
    assert not result.exact
    assert result.failure.endswith("after 520 tokens")
    assert run_self_test(WrongModel(is_wrong), prefix_lens=(24,)).exact
    # A long prefix is left out only if it does not fit.
    assert run_self_test(WrongModel(is_wrong, ToyConfig(num_cells=600))).exact
    assert not run_self_test(WrongModel(is_wrong, ToyConfig(num_cells=650))).exact


class Recurrent(WrongModel):
    """A model whose sequences cannot be cut, only freed."""

    def __init__(self, is_wrong):
        super().__init__(is_wrong)
        self.info = dataclasses.replace(self.info, can_cut=False, can_take_back=False)

    def truncate(self, seq_id, length):
        assert length in (0, self.length(seq_id))
        super().truncate(seq_id, length)


class Forgetful(ToyModel):
    """A model that saves something else after passes that `is_wrong(self, spans)` says."""

    def __init__(self, is_wrong):
        super().__init__()
        self._is_wrong = is_wrong
        self._wrong = False

    def forward(self, spans):
        self._wrong |= bool(self._is_wrong(self, spans))
        return super().forward(spans)

    def truncate(self, seq_id, length):
        super().truncate(seq_id, length)
        self._wrong &= any(map(self.length, range(2)))

    def save(self, seq_id):
        saved = super().save(seq_id)
        if self._wrong:
            saved.state[-1] ^= 1
        return saved


def ends_beside_a_longer_one(model, spans):
    """Whether a sequence reads its first tokens beside more than those of another."""
    return [span.seq_id for span in spans if not span.start] == [0, 1] and (
        len(spans[0].token_ids) > len(spans[1].token_ids)
    )


@pytest.mark.parametrize(
    ("is_wrong", "failure"),
    [
        (lambda model, spans: len(spans) == 2 and spans[1].num_outputs > 2, "another sequence"),
        (ends_beside_a_longer_one, "two texts that take turns"),
        # One of two sequences sits out a pass of several tokens before any output is wanted.
        (
            lambda model, spans: (
                [span.seq_id for span in spans] == [1]
                and model.length(0) > 0
                and not spans[0].start
            ),
            "two texts that take turns",
        ),
    ],
    ids=["guesses", "a shorter text", "sitting out"],
)
def test_states_are_compared_as_well_as_logits(is_wrong, failure):
    result = run_self_test(Forgetful(is_wrong))
    assert not result.exact
    assert failure in result.failure


def test_the_sign_of_a_zero_is_no_other_state():
    class Signed(ToyModel):
        """The first number of a state is a zero whose sign changes each time."""

        sign = 0

        def save(self, seq_id):
            saved = super().save(seq_id)
            zero = np.array([self.sign], dtype=np.uint32).view(np.uint8)
            self.sign ^= 1 << 31
            return SavedPrefix(saved.length, np.concatenate([zero, saved.state]))

        def restore(self, seq_id, saved, length):
            super().restore(seq_id, SavedPrefix(saved.length, saved.state[4:].copy()), length)

    assert run_self_test(Signed()).exact


def test_what_depends_on_the_cells_in_use_is_noticed():
    class Crowded(ToyModel):
        """Its logits are others once more than 512 cells were taken, as those of a GLM5-next."""

        num_used = 0

        def restore(self, seq_id, saved, length):
            super().restore(seq_id, saved, length)
            self.num_used += length

        def truncate(self, seq_id, length):
            super().truncate(seq_id, length)
            if not any(map(self.length, range(2))):
                self.num_used = 0

        def forward(self, spans):
            return super().forward(spans) + np.float32(self.num_used > 512)

    result = run_self_test(Crowded(), prefix_lens=(60,))
    assert result.failure.endswith("cells in use differ from single steps after 60 tokens")


def test_a_model_that_cannot_take_guesses_back_is_tested_without_wrong_ones():
    assert run_self_test(Recurrent(lambda *_: False)).digest == run_self_test(ToyModel()).digest
    for is_wrong in (
        lambda model, spans: len(spans) > 1,
        lambda model, spans: spans[0].num_outputs == 5,
    ):
        assert not run_self_test(Recurrent(is_wrong)).exact


def test_no_probe_is_longer_than_the_cache_or_the_context():
    short = ToyModel(ToyConfig(num_cells=100))
    narrow = ToyModel()
    narrow.info = dataclasses.replace(narrow.info, context_length=100)
    for model in (short, narrow):
        result = run_self_test(model)
        assert not result.exact
        assert "too short" in result.failure


def test_the_cache_is_left_empty_when_a_pass_fails():
    class Broken(ToyModel):
        def forward(self, spans):
            if len(spans) > 1:
                raise RuntimeError("broken")
            return super().forward(spans)

    model = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        run_self_test(model)
    assert model.free_cells() == model.info.num_cells
    model.forward([Span(0, 0, [1], 1)])


@pytest.mark.parametrize("max_batch_tokens", [1, 7, 31, 32, 256])
def test_every_version_answers_a_probe_alike_whatever_goes_into_a_pass(max_batch_tokens):
    model = ToyModel(ToyConfig(max_batch_tokens=max_batch_tokens))
    expected = "e2c974aaef4dbb248423e126ed322a088000a90db10684c88ab020b5b15c150c"
    assert probe_digest(model, 5) == expected
    assert model.free_cells() == model.info.num_cells


def test_an_answer_depends_on_the_seed_the_model_and_the_last_bit_of_a_logit():
    asked = [(ToyModel(), seed) for seed in (5, 6, 2**63 - 1)]
    asked += [(ToyModel(ToyConfig(seed=1)), 5), (WrongModel(lambda *_: True), 5)]
    assert len({probe_digest(model, seed) for model, seed in asked}) == len(asked)
    # A small cache is enough.
    assert probe_digest(ToyModel(ToyConfig(num_cells=8)), 5)
