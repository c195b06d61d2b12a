"""Who gets which layers, by what machines tell, and when that changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from airdraft.nodes.config.settings import ConfigError, TargetEngine
from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.service.across import fixed_parts, named_stages, planned_parts
from airdraft.nodes.stage.asking import Facts, StageAddress
from airdraft.nodes.stage.parts import Part
from airdraft.policies.latency import CostTable
from airdraft.policies.layers import Layers, Machine

GB = 10**9
# Ten blocks of a GB each.
SIZES = [GB] * 10


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return tmp_path / "0123" / "plan.json"


def machine(rate: float, room: float) -> Machine:
    return Machine(room, CostTable((1, 16), (1 / (rate * GB),) * 2), 0.001)


def ends(
    plan: Path, *rates: float, room: int = 12 * GB, names: tuple[str, ...] = ("nano-1", "nano-2")
) -> list[int]:
    """The first block behind each stage. rates: GB/s of the stages; this machine has 10."""
    machines = {name: machine(rate, room) for name, rate in zip(names, rates, strict=True)}
    machines["this machine"] = machine(10, room)
    told = list[str]()
    parts = planned_parts(
        Path("m.gguf"),
        "ab" * 32,
        Layers(SIZES, 0, range(1, len(SIZES))),
        machines,
        plan,
        told.append,
    )
    assert f"{names[0]} has the blocks 0 to {parts[0].end - 1}" in told[0]
    assert [part.first for part in parts] == [0, *(part.end for part in parts[:-1])]
    assert [part.file for part in parts] == [f"m-{p.first}-{p.end}.gguf" for p in parts]
    return [part.end for part in parts]


def test_faster_machines_get_more_layers(plan: Path) -> None:
    assert ends(plan, 10, 30) == [2, 8]


def test_parts_stay_unless_others_are_much_better(plan: Path) -> None:
    assert ends(plan, 10, 30) == [2, 8]
    # At first the slowest takes 0.2 s; with these rates it would be 0.25 and 0.2.
    assert ends(plan, 8, 30) == [2, 8]
    assert ends(plan, 4, 30) != [2, 8]
    # So others need no other files if a machine takes the place of one that is about as fast.
    plan.unlink()
    assert ends(plan, 8, 30) != [2, 8]
    plan.unlink()
    assert ends(plan, 10, 30) == [2, 8]
    assert ends(plan, 8, 30, names=("nano-3", "nano-2")) == [2, 8]
    plan.write_text("damaged")
    assert ends(plan, 10, 30) == [2, 8]


def test_what_no_longer_fits_is_given_anew_or_refused(plan: Path) -> None:
    assert ends(plan, 10, 30) == [2, 8]
    first, second = ends(plan, 10, 30, room=4 * GB)
    assert second - first == 4
    with pytest.raises(ConfigError, match=r"10 blocks of 10.0 GB in all.*nano-1 1.0 GB, nano-2"):
        ends(plan, 10, 30, room=GB)


HASH = "ab" * 32


def fixed(*blocks: tuple[int, int] | None, model_hash: str = HASH) -> list[tuple[int, int]]:
    """What a target takes where stages were started with these blocks; None for any."""
    parts = [Part(model_hash, "", *each) if each else None for each in blocks]
    facts = [Facts(16 * GB, None, 0.001, part) for part in parts]
    stages = [StageAddress("", None, f"nano-{number}") for number in range(1, 1 + len(facts))]
    return [(part.first, part.end) for part in fixed_parts(stages, facts, HASH)]


def test_stages_keep_the_parts_with_which_they_were_started() -> None:
    assert fixed((0, 4), (4, 9)) == [(0, 4), (4, 9)]
    assert fixed(None, None) == []


@pytest.mark.parametrize(
    ("blocks", "why"),
    [
        (((4, 9), (0, 4)), "stage nano-1 begins with block 4 and not 0: name the stages in the"),
        (((0, 4), (5, 9)), "stage nano-2 begins with block 5 and not 4"),
        (((0, 4), None), "stage nano-2 has no part, and others have: start all with --part"),
    ],
)
def test_parts_that_do_not_follow_each_other_are_refused(
    blocks: tuple[tuple[int, int] | None, ...], why: str
) -> None:
    with pytest.raises((EngineError, ConfigError), match=why):
        fixed(*blocks)


def test_a_part_of_another_model_is_refused() -> None:
    with pytest.raises(EngineError, match="stage nano-1: this is a stage of another model"):
        fixed((0, 4), model_hash="cd" * 32)


@pytest.mark.parametrize("value", ["a,", "a, a", ",".join(map(str, range(17)))])
def test_stages_have_different_names(value: str) -> None:
    assert named_stages("across", "a, b") == ["a", "b"]
    with pytest.raises(ConfigError, match=r"engine.across = .*1 to 16 different names are accept"):
        named_stages("across", value)
    with pytest.raises(ConfigError, match=r"engine.spare = 'b': 1 to 14 different names are accep"):
        named_stages("spare", "b", ["a", "b"])
    with pytest.raises(ConfigError, match=r"engine.spare = .b.: accepted with engine.across only"):
        TargetEngine(model="m", spare="b")
