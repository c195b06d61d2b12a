"""The streams of one target at the coordinator: their journals, who guesses for them, their plan.

A draft node follows a stream and sends guesses ahead of it without being asked. The scheduler
passes them on to the target, and what the target commits on to the draft node. Everything here is
pure: events and `now` in, instructions out; the coordinator and the simulator run the same code.
"""

from nodes.scheduler.scheduler import Scheduler

__all__ = ["Scheduler"]
