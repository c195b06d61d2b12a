"""Streams go without draft nodes where these slow their target down by more than guesses gain."""

from __future__ import annotations

import random

import pytest

from airdraft.nodes.messages import CommitEntry, CommitNotice, CommitReply, OpenStreamRequest
from airdraft.nodes.scheduler.comparison import Comparison, Speculation
from airdraft.nodes.scheduler.instructions import Instruction, ToDraft
from airdraft.nodes.scheduler.planning import MODES
from airdraft.nodes.scheduler.reasons import summary
from airdraft.nodes.worker.stream import StreamId
from tests.nodes.scheduler.watched import ONE, TARGET_COSTS, admit, commit, make_scheduler, ready


def shares(
    gain: float, slowdown: float, num_passes: int = 20_000, *, plain: float = 1.1
) -> dict[Speculation, int]:
    """Passes of a stream with draft nodes, in pauses, and without.

    gain: tokens of a pass with guesses. slowdown: what it takes beside a draft node, to one
    without. plain: what a pass without guesses takes, to what calibration says.
    """
    source = random.Random(1)
    comparison = Comparison()
    seen = dict.fromkeys(Speculation, 0)
    for _ in range(num_passes):
        seen[comparison.speculation] += 1
        with_guesses = comparison.speculation is Speculation.ON
        tokens = 1.0 + (source.random() < gain - 1.0 if with_guesses else 0.0)
        passes = source.gauss(plain, 0.05) * (slowdown if with_guesses else 1.0)
        comparison.passed(tokens, passes, may_pause=True)
    return seen


@pytest.mark.parametrize("gain", [1.0, 1.1])
def test_a_draft_node_that_slows_its_target_down_is_left_out_most_of_the_time(gain: float) -> None:
    seen = shares(gain, slowdown=1.3)
    assert seen[Speculation.OFF] > 0.85 * 20_000


def test_a_calibration_that_is_too_slow_does_not_hide_that_guesses_gain_nothing() -> None:
    """Such passes alone look as if guesses had made them shorter."""
    seen = shares(1.0, slowdown=1.15, num_passes=300, plain=0.7)
    assert seen[Speculation.OFF] > 100


@pytest.mark.parametrize(("gain", "slowdown"), [(1.8, 1.0), (1.8, 1.4), (1.2, 1.0)])
def test_where_guesses_pay_pauses_are_few(gain: float, slowdown: float) -> None:
    """However slow passes are, to what calibration says of them."""
    seen = shares(gain, slowdown)
    assert seen[Speculation.OFF] == 0
    assert 0 < seen[Speculation.PAUSED] < 0.07 * 20_000


def test_what_was_worse_is_tried_again() -> None:
    """A draft that begins to be good is found, and one that begins to be bad."""
    comparison = Comparison()
    found = []
    for is_good in (False, True, False):
        for _ in range(10_000):
            with_guesses = comparison.speculation is Speculation.ON
            tokens = 2.0 if with_guesses and is_good else 1.0
            comparison.passed(tokens, 1.2 if with_guesses else 1.0, may_pause=True)
        found.append(comparison.speculation)
    assert found == [Speculation.OFF, Speculation.ON, Speculation.OFF]


class Watched:
    """A stream whose passes take what is said; messages to its draft node."""

    def __init__(self, **asked: int) -> None:
        self.scheduler = make_scheduler("d", mode=MODES["auto"])
        self.num_sent: list[object] = []
        self.take(admit(self.scheduler, max_tokens=10_000, **asked))
        ready(self.scheduler)

    def take(self, out: list[Instruction]) -> None:
        self.num_sent += [each.message for each in out if isinstance(each, ToDraft)]

    def decode(self, num_passes: int = 1, *, slowdown: float = 1.2) -> None:
        """Passes without an accepted guess, slower while a draft node is told what they commit."""
        for _ in range(num_passes):
            is_beside = self.is_guessed_for
            pass_s = TARGET_COSTS.decode.at(1) * (slowdown if is_beside else 1.0)
            self.take(commit(self.scheduler, 7, pass_s=pass_s, num_compared=int(is_beside)))

    @property
    def why(self) -> str:
        """The reason why the stream's last pass had no guesses."""
        return self.scheduler.streams[ONE].plain

    @property
    def is_paused(self) -> bool:
        return self.scheduler.speculation is Speculation.PAUSED

    @property
    def is_guessed_for(self) -> bool:
        return self.scheduler.speculation is Speculation.ON


def without_guesses() -> Watched:
    """A target that a draft node slows down by more than its guesses gain."""
    mesh = Watched()
    mesh.decode(60)
    assert not mesh.is_guessed_for
    mesh.num_sent.clear()
    return mesh


def test_a_draft_node_that_costs_more_than_it_gives_is_told_nothing_for_a_while() -> None:
    mesh = without_guesses()
    mesh.decode(100)
    assert mesh.num_sent == []
    assert mesh.why == "slower"
    while not mesh.is_guessed_for:
        mesh.decode()
    mesh.decode()
    # All that it missed.
    (notice,) = mesh.num_sent
    assert len(notice.new_token_ids) > 100


def test_guesses_for_many_streams_are_compared_apart_from_those_for_one() -> None:
    mesh = without_guesses()
    # Nor is it told of streams that come later.
    assert not [i for i in admit(mesh.scheduler, 2) if isinstance(i, ToDraft)]
    mesh.decode()
    assert mesh.is_guessed_for
    # Where there is none, nothing is compared.
    mesh.take(mesh.scheduler.draft_lost("d"))
    mesh.decode()
    assert mesh.why == "no_draft"


def test_the_sum_of_an_answer_tells_what_was_measured_for_its_passes() -> None:
    """The comparison of another number of streams says something else."""
    mesh = without_guesses()
    mesh.decode(10)
    admit(mesh.scheduler, 2)
    stream = mesh.scheduler.streams[ONE]
    assert "(with them 0." in summary(mesh.scheduler, stream)


def test_in_a_pause_a_draft_node_hears_nothing_and_then_all_at_once() -> None:
    mesh = Watched()
    while mesh.is_guessed_for:
        mesh.decode(slowdown=0.99)
    mesh.num_sent.clear()
    num_passes = 0
    while mesh.is_paused:
        assert mesh.num_sent == []
        assert mesh.scheduler.next_deadline() is None
        mesh.decode(slowdown=0.99)
        num_passes += 1
    mesh.decode(slowdown=0.99)
    (notice,) = mesh.num_sent
    # The commit of the pass that the pause followed was told; that of the one after it is new.
    assert len(notice.new_token_ids) == num_passes + 1
    assert mesh.is_guessed_for


def test_who_asks_for_guesses_gets_them_where_others_do_without() -> None:
    mesh = without_guesses()
    mesh.take(admit(mesh.scheduler, 2, gamma=4, max_tokens=1000))
    mesh.decode()
    assert mesh.is_guessed_for
    mesh.decode()
    assert [type(message) for message in mesh.num_sent] == [OpenStreamRequest, CommitNotice]
    # Whatever they give.
    mesh.decode(500, slowdown=2.0)
    assert mesh.is_guessed_for
    late = CommitReply(0.05, (CommitEntry(2, 1, 99, 1, 0, 0, "", b"x"),), (7,))
    mesh.take(mesh.scheduler.cancel(StreamId(2)))
    assert mesh.scheduler.committed(late, 0.0) == []
    mesh.decode()
    assert not mesh.is_guessed_for


@pytest.mark.parametrize("slowdown", [0.8, 1.2], ids=["guesses_pay", "guesses_do_not_pay"])
def test_a_pass_that_stalls_decides_nothing(slowdown: float) -> None:
    """Such as one during which the machine was suspended, or read its model from the disk again."""
    mesh = Watched()
    pays = slowdown < 1.0
    mesh.decode(100, slowdown=slowdown)
    assert mesh.is_guessed_for is pays
    mesh.take(commit(mesh.scheduler, 7, pass_s=3600.0, num_compared=int(pays)))
    with_guesses = 0
    for _ in range(2000):
        mesh.decode(slowdown=slowdown)
        with_guesses += mesh.is_guessed_for
    assert (with_guesses > 1000) is pays
