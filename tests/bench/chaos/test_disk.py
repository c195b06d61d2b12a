"""The short form of `python -m bench chaos disk`."""

from __future__ import annotations

import pytest

from bench.chaos.endurance.disk import DiskFound, NoDiskError, run_disk


def played(*scenes: str) -> DiskFound:
    try:
        return run_disk(*scenes)
    except NoDiskError as error:
        if "cannot be mounted" not in str(error):
            raise
        pytest.skip(str(error))


def in_time(fault: str) -> bool:
    """How long things take is the machine's, here."""
    return "after space was freed" not in fault


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_on_a_disk_that_takes_nothing_all_is_served_and_nothing_is_damaged(kind: str) -> None:
    found = played(kind)
    assert [fault for fault in found.faults if in_time(fault)] == []
    assert len(found.refused) == 6
    says = {"full": "No space left on device", "read-only": "Read-only file system"}[kind]
    assert all(says in line for line in found.refused.values()), found.refused
    assert len(found.recovered_s) == 1


def test_without_standard_error_all_is_served() -> None:
    found = played("stderr")
    assert found.faults == []
    assert len(found.lines) == 2
