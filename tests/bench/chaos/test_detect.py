"""The short form of `python -m bench chaos detect`: who dies is noticed, and comes back."""

from __future__ import annotations

from typing import Literal

import pytest

from bench.chaos.detect import HEAD, LIMITS_S, detect


@pytest.mark.parametrize(
    ("who", "over", "roles"),
    [("members", "tcp-keys", {"target", "draft"}), ("coordinator", "ipc", {"coordinator"})],
)
async def test_who_dies_is_noticed_and_comes_back(
    who: str, over: Literal["tcp-keys", "ipc"], roles: set[str]
) -> None:
    found = await detect(who, over, list(LIMITS_S), 1)
    assert set(found.times) == {(role, fault) for role in roles for fault in LIMITS_S}
    for times in found.times.values():
        assert [len(times.noticed_s), len(times.back_s)] == [1, 1]
        assert min(times.noticed_s) > 0.0
    assert {line.count("|") for line in found.lines} == {HEAD.splitlines()[0].count("|")}
    # How long something takes is not for tests.
    assert all("was noticed after" in fault for fault in found.faults)
