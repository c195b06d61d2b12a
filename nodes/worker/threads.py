"""Runs a function in a thread to its end, even if the task that waits for it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def run_to_end(function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Returns what the function returns. A cancellation is raised once the thread has ended, so
    that whatever the function reads may be closed then."""
    running = asyncio.create_task(asyncio.to_thread(function, *args, **options))
    try:
        return await asyncio.shield(running)
    finally:
        await asyncio.wait([running])
        # An error that nobody reads would be logged as a fault if this is cancelled.
        running.exception()
