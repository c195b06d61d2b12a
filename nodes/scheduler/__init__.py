"""The coordinator's part for one target: journals of its streams, their draft nodes, their plan.

A draft node follows a stream and sends guesses ahead of it without a request for each. The
scheduler forwards guesses to the target and commits to the draft node. Everything here is pure: it
takes events and `now` and returns instructions. The coordinator and the simulator run this code.
"""

from nodes.scheduler.scheduler import Scheduler

__all__ = ["Scheduler"]
