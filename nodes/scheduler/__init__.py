"""The round scheduler of one target: pure, run by the live coordinator and by the simulator."""

from nodes.scheduler.leases import LEASE_LOW_TOKENS, LEASE_TOKENS, LEASE_WHILE_OPENING_TOKENS
from nodes.scheduler.state import SchedulerState

__all__ = [
    "LEASE_LOW_TOKENS",
    "LEASE_TOKENS",
    "LEASE_WHILE_OPENING_TOKENS",
    "SchedulerState",
]
