"""A role in front of a service manager: starting, serving, stuck."""

import asyncio
import time

from nodes.service.systemd import Manager


async def test_time_is_asked_for_while_a_model_loads(fake):
    async with Manager(fake.environ()).patient("loading the model"):
        await fake.until("EXTEND_TIMEOUT_USEC=30000000")
    assert "STATUS=loading the model" in fake.lines


async def test_ready_is_said_once_it_is_and_not_before(fake):
    is_ready = False
    attending = asyncio.create_task(Manager(fake.environ()).attend(lambda: is_ready))
    await fake.until("STATUS=joining the mesh")
    assert "READY=1" not in fake.lines
    is_ready = True
    await fake.until("READY=1")
    await attending
    assert fake.lines.count("READY=1") == 1


async def test_pings_come_while_all_is_well_and_only_then(fake, eventually):
    is_stuck = False
    asked = []

    def is_well(limit_s):
        asked.append(limit_s)
        return not is_stuck

    manager = Manager(fake.environ(watchdog_s=0.2))
    attending = asyncio.create_task(manager.attend(lambda: True, is_well))
    await fake.until("WATCHDOG=1")
    await fake.until("WATCHDOG=1")
    is_stuck = True
    fake.hear()
    asked_so_far = len(asked)
    await eventually(lambda: len(asked) > asked_so_far + 3)
    assert "WATCHDOG=1" not in fake.hear()
    is_stuck = False
    await fake.until("WATCHDOG=1")
    assert set(asked) == {0.1}
    attending.cancel()


async def test_a_blocked_event_loop_is_silent_for_as_long(fake):
    attending = asyncio.create_task(Manager(fake.environ(watchdog_s=0.2)).attend(lambda: True))
    await fake.until("WATCHDOG=1")
    fake.hear()
    time.sleep(0.5)  # noqa: ASYNC251 - this is the fault
    assert fake.hear() == []
    await fake.until("WATCHDOG=1")
    attending.cancel()


async def test_without_a_manager_there_is_nothing_to_do():
    manager = Manager({})
    async with asyncio.timeout(60):
        await manager.attend(lambda: False)
        async with manager.patient("loading the model"):
            pass
