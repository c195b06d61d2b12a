"""Whether streams that cannot guess yet ride in the passes of their batch, or have their own. Pure.

A stream whose text is still on its way to a draft node is decoded plainly meanwhile. A pass of its
own gives it a token, and makes rounds wait that come while the target runs it: for half of it, on
average, and with them all streams that guess. Where plain streams are planned beside the batches
such passes are run anyway, and the plan has paid for them.
"""

from __future__ import annotations

from policies.plan import Plan


def should_ride(plan: Plan, num_waiting: int) -> bool:
    """Whether so many streams of a plan's batches gain less in a cycle by passes of their own than
    the others lose by them."""
    made = plan.prediction
    if made is None or not made.batches or plan.plain:
        return False
    verifies_s = [batch.verify_s for batch in made.batches]
    # Of few tokens: no longer than the shortest with guesses.
    pass_s = min(verifies_s)
    free_s = max(0.0, made.cycle_s - sum(verifies_s))
    num_lost = pass_s / 2 * made.tokens_per_s
    return num_waiting * free_s < num_lost * pass_s
