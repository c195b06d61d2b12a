"""Whether streams that cannot guess yet ride in the passes of their batch, or have their own. Pure.

A stream whose text is still on its way to a draft node is decoded plainly meanwhile. With a lease
it has a token in the passes of all batches, and in passes of its own where the target would be
idle: a round that comes in one of these waits for half of it, on average, and with it all streams
of its batch. One that rides has a token of its own batch's pass, and nobody waits. Where plain
streams are planned beside the batches such passes are run anyway, and the plan has paid for them.
"""

from __future__ import annotations

from policies.plan import Plan


def should_ride(plan: Plan, num_waiting: int, num_planned: int) -> bool:
    """Whether so many of the streams in all of a plan's batches have fewer tokens more by leases,
    in a cycle, than the others have fewer."""
    made = plan.prediction
    if made is None or not made.batches or plan.plain or not num_waiting:
        return False
    verifies_s = [batch.verify_s for batch in made.batches]
    # Of few tokens: no longer than the shortest with guesses.
    pass_s = min(verifies_s)
    num_own = max(0.0, made.cycle_s - sum(verifies_s)) / pass_s
    num_gained = num_waiting * (len(verifies_s) - 1 + num_own)
    # Each batch waits for one of them in its lap, if there are as many.
    parts_s = min(1.0, num_own / len(verifies_s)) * pass_s / 2
    guessing = 1.0 - num_waiting / max(num_planned, num_waiting)
    return num_gained < parts_s * made.tokens_per_s * guessing
