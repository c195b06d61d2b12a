"""Short forms of `python -m bench chaos soak`, `scarce` and `detect`."""

from itertools import pairwise
from typing import Literal

import click
import pytest

from bench.chaos.detect import LIMITS_S, detect
from bench.chaos.endurance import clocks
from bench.chaos.endurance.disk import run_disk
from bench.chaos.endurance.fds import coordinator_starved, gateway_starved, judge
from bench.chaos.endurance.half_open import half_open, replaced
from bench.chaos.endurance.node_files import node_starved, texts_starved
from bench.chaos.endurance.soak import Soak, run_soak
from bench.harness.report import Findings
from bench.netns import NamespacesError


def lasting(faults: list[str]) -> list[str]:
    """Faults but for how long something took, which is the machine's affair here."""
    times = ("after space was freed", "a new client", "only after")
    return [fault for fault in faults if not any(text in fault for text in times)]


# -- soak ------------------------------------------------------------------------------------------


async def test_requests_of_every_kind_leave_nothing_behind() -> None:
    num_requests = 200
    found = await run_soak(4 * num_requests, num_requests)
    assert found.outcomes["failed"] == 0, found
    assert {"whole", "streamed", "left", "refused", "looked"} <= found.outcomes.keys()
    for name in found.figures[4 * num_requests]:
        # What is made once, when first it is wanted, is growth in one step; a leak is in all.
        steps = list(pairwise(figures[name] for figures in found.figures.values()))
        assert len(steps) == 3
        # Less than one object a request. A gateway remembers about 60 keys of 200 requests, for an
        # hour.
        for what, most in (("tasks", 0), ("files", 0), ("objects", num_requests - 1)):
            assert min(after[what] - before[what] for before, after in steps) <= most, found


def test_growth_is_a_fault() -> None:
    before = {"rss_kib": 50_000, "files": 20, "threads": 5, "tasks": 7, "objects": 9, "cpu_s": 1.0}
    after = {**before, "rss_kib": 53_000, "files": 21, "objects": 99_000}
    found = Soak(figures={10: {"a": before, "b": before}, 20: {"a": after, "b": before}})
    found.check()
    assert found.faults == ["a: 3000 more rss_kib, 2048 allowed", "a: 1 more files, 0 allowed"]


# -- disk ------------------------------------------------------------------------------------------


def on_a_disk(scene: str) -> Findings:
    try:
        return run_disk(scene)
    except click.ClickException as error:
        if "unshare failed" not in error.message:
            raise
        pytest.skip(error.message)


@pytest.mark.parametrize(
    ("kind", "says"), [("full", "No space left on device"), ("read-only", "Read-only file system")]
)
def test_on_a_disk_that_takes_nothing_all_is_served_and_nothing_is_damaged(
    kind: str, says: str
) -> None:
    found = on_a_disk(kind)
    assert lasting(found.faults) == []
    assert sum(says in line for line in found.lines) == 5, found


def test_with_all_files_on_a_full_disk_every_role_serves_and_starts_again() -> None:
    found = on_a_disk("full-mesh")
    assert lasting(found.faults) == []


@pytest.mark.model
def test_a_node_that_cannot_keep_its_calibration_serves_all_the_same() -> None:
    assert on_a_disk("full-cache").faults == []


@pytest.mark.model
def test_commands_that_write_models_say_that_the_disk_is_full_and_leave_nothing() -> None:
    found = on_a_disk("full-commands")
    assert found.faults == []
    assert len(found.lines) == 2


def test_without_standard_error_all_is_served() -> None:
    found = on_a_disk("stderr")
    assert found.faults == []
    assert len(found.lines) == 2


# -- files -----------------------------------------------------------------------------------------


async def test_a_coordinator_without_files_serves_who_is_in_and_lets_others_in_later() -> None:
    found = await coordinator_starved(64, 1.0)
    assert lasting(found.faults) == []
    # After the strangers, and after the members.
    assert len(found.lines) == 2


async def test_a_gateway_without_files_says_so_to_some_and_serves_the_others() -> None:
    assert lasting((await gateway_starved(128, 150, 1.0)).faults) == []


@pytest.mark.parametrize("role", ["target", "draft"])
async def test_a_node_that_can_open_nothing_serves_on_and_joins_the_next_coordinator(
    role: str,
) -> None:
    found = await node_starved(role, 0.5)
    assert lasting(found.faults) == []


@pytest.mark.model
async def test_a_target_that_cannot_read_texts_ends_requests_in_time_and_goes_on() -> None:
    assert (await texts_starved(1.0)).faults == []


def test_what_takes_long_or_much_is_a_fault() -> None:
    found = Findings()
    judge(found, 0.9, 3.0, "gateway")
    assert [fault.split()[2] for fault in found.faults] == ["took", "served"]


# -- clocks ----------------------------------------------------------------------------------------


async def test_clocks_that_differ_or_jump_change_nothing() -> None:
    try:
        found = await clocks.run_clocks((clocks.DAY_S, -clocks.DAY_S))
    except click.ClickException as error:
        pytest.skip(error.message)
    assert found.faults == []


async def test_a_clock_that_jumps_alone_changes_nothing() -> None:
    try:
        found = await clocks.run_alone((clocks.DAY_S,))
    except click.ClickException as error:
        pytest.skip(error.message)
    assert found.faults == []


# -- half-open links -------------------------------------------------------------------------------


async def test_a_gateway_whose_packets_vanish_is_missed_and_serves_again() -> None:
    try:
        found = await half_open("gateway", 3.0)
    except NamespacesError as error:
        pytest.skip(str(error))
    assert lasting(found.faults) == []


async def test_a_twin_serves_on_for_a_target_whose_packets_vanish_for_good() -> None:
    try:
        found = await replaced("target")
    except NamespacesError as error:
        pytest.skip(str(error))
    assert lasting(found.faults) == []


# -- detect ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "over", "roles"),
    [("members", "tcp-keys", {"target", "draft"}), ("coordinator", "ipc", {"coordinator"})],
)
async def test_who_dies_is_noticed_and_comes_back(
    who: str, over: Literal["tcp-keys", "ipc"], roles: set[str]
) -> None:
    found = await detect(who, over, 1)
    rows = [line.split("|")[1:5] for line in found.lines]
    wanted = {(role, fault) for role in roles for fault in LIMITS_S}
    assert sorted((role.strip(), fault.strip()) for role, fault, *_ in rows) == sorted(wanted)
    assert all(int(times) == 1 and float(noticed_s) > 0.0 for *_, times, noticed_s in rows)
    # How long something takes is not for tests.
    assert all("was noticed after" in fault for fault in found.faults)
