"""The short form of `python -m bench chaos detect`: who dies is noticed, and comes back."""

from __future__ import annotations

from typing import Literal

import pytest

from bench.chaos.detect import LIMITS_S, detect


@pytest.mark.parametrize(
    ("who", "over", "roles"),
    [("members", "tcp-keys", {"target", "draft"}), ("coordinator", "ipc", {"coordinator"})],
)
async def test_who_dies_is_noticed_and_comes_back(
    who: str, over: Literal["tcp-keys", "ipc"], roles: set[str]
) -> None:
    found = await detect(who, over, 1)
    wanted = {(role, fault) for role in roles for fault in LIMITS_S}
    assert found.noticed_s.keys() == found.back_s.keys() == wanted
    assert all(len(times) == 1 for times in found.back_s.values())
    assert all(min(times) > 0.0 for times in found.noticed_s.values())
    # How long something takes is not for tests.
    assert all("was noticed after" in fault for fault in found.faults)
