"""Writes the metrics of the mesh and of this gateway in Prometheus' text format."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from nodes.client.client import RequestFailedError
from nodes.telemetry.metrics.gateway import GatewayMetrics
from nodes.telemetry.metrics.mesh import MeshMetrics
from nodes.telemetry.status import Status

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
# A scrape must not wait long for a coordinator that is unreachable.
_STATUS_LIMIT_S: Final = 2.0


async def render_metrics(
    status: Callable[[], Awaitable[Status]],
    gateway: GatewayMetrics,
    limit_s: float = _STATUS_LIMIT_S,
) -> bytes:
    """The body of /metrics, of type CONTENT_TYPE. status: fetches the status, as Client.status.

    Without an answer from the coordinator, airdraft_coordinator_up is 0 and the metrics of the mesh
    are missing.
    """
    found: Status | None = None
    try:
        async with asyncio.timeout(limit_s):
            found = await status()
    except (RequestFailedError, TimeoutError) as error:
        logger.debug("no status for metrics: %s", error)
    return generate_latest(MeshMetrics(found)) + generate_latest(gateway.registry)
