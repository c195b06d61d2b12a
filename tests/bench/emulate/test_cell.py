"""Descriptions of cells, and what a path loses, beside closed forms."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.emulate.cell import Path, PathState

BURST = Path(enter=0.01, leave=0.2, loss_inside=0.5)
BAD = Path(enter=0.02, leave=0.1, loss_inside=0.8)
MIXED = Path(loss=0.05, enter=0.1, leave=0.3, loss_inside=0.6)
COUNT = 100_000


def losses(path: Path, seed: int = 1) -> list[bool]:
    state = PathState(path, Random(seed))
    return [state.loses() for _ in range(COUNT)]


def bad_share(path: Path) -> float:
    """The share of packets in the bad state, in the long run."""
    return path.enter / (path.enter + path.leave)


def mean_loss(path: Path) -> float:
    """The share of packets that are lost, in the long run."""
    return bad_share(path) * path.loss_inside + (1.0 - bad_share(path)) * path.loss


def both_lost(path: Path, apart: int) -> float:
    """P(a packet and the one so many later are lost) in the long run.

    The state is remembered with factor 1 - enter - leave a packet.
    """
    bad, remembered = bad_share(path), (1.0 - path.enter - path.leave) ** apart
    spread = bad * (1.0 - bad) * (path.loss_inside - path.loss) ** 2
    return mean_loss(path) ** 2 + remembered * spread


@pytest.mark.parametrize("path", [Path(loss=0.1), BURST, BAD, MIXED])
def test_losses_are_as_many_and_come_together_as_the_chain_says(path: Path) -> None:
    lost = losses(path)
    # Packets of a burst are lost together, so fewer draws are independent than there are packets.
    memory = 1.0 / (path.enter + path.leave) if path.enter else 1.0
    sigma = math.sqrt(2 * memory * mean_loss(path) / COUNT)
    assert abs(sum(lost) / COUNT - mean_loss(path)) < 4 * sigma
    for apart in (1, 3, 10):
        both = sum(a and b for a, b in zip(lost, lost[apart:], strict=False)) / (COUNT - apart)
        assert both == pytest.approx(both_lost(path, apart), rel=0.15)


def test_a_good_path_loses_nothing_and_a_cut_one_all_and_a_seed_is_a_sequence() -> None:
    assert losses(BAD, 3) == losses(BAD, 3) != losses(BAD, 4)
    state = PathState(Path(), Random(1))
    assert not any(state.loses() for _ in range(100))
    state.is_cut = True
    assert all(state.loses() for _ in range(100))


@given(st.lists(st.floats(0.0, 1.0), min_size=1), st.floats(0.0, 0.5), st.integers(0, 99))
def test_jitter_makes_late_and_changes_no_order(
    gaps: list[float], jitter: float, seed: int
) -> None:
    state = PathState(Path(jitter_s=jitter), Random(seed))
    at, last = 0.0, 0.0
    for gap in gaps:
        at += gap
        arrives = state.arrives_s(at)
        assert max(at, last) <= arrives <= max(last, at + jitter)
        last = arrives
