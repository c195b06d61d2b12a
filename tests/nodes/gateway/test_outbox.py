from __future__ import annotations

import pytest

from nodes.gateway.exchange import Outbox, SlowReaderError


async def everything(outbox: Outbox) -> list[bytes]:
    parts = []
    while part := await outbox.take():
        parts.append(part)
    return parts


@pytest.mark.parametrize(("sizes", "is_dropped"), [((60, 60, 60), True), ((50_000, 100), False)])
async def test_too_much_is_dropped_but_one_large_event_is_not_too_much(
    sizes: tuple[int, ...], is_dropped: bool
) -> None:
    outbox = Outbox(100)
    *events, last = sizes
    for size in events:
        outbox.put(b"x" * size)
    if is_dropped:
        with pytest.raises(SlowReaderError):
            outbox.put(b"x" * last)
    else:
        outbox.put(b"x" * last)
        outbox.close()
    assert outbox.was_dropped is is_dropped
    assert sum(map(len, await everything(outbox))) == (0 if is_dropped else sum(sizes))
