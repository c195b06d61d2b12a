"""A short form of `python -m bench chaos soak`."""

from __future__ import annotations

from itertools import pairwise

from bench.chaos.endurance.soak import Figures, Soak, run_soak


async def test_requests_of_every_kind_leave_nothing_behind() -> None:
    num_requests = 200
    found = await run_soak(4 * num_requests, num_requests)
    assert found.outcomes["failed"] == 0, found
    assert {"whole", "streamed", "left", "refused", "looked"} <= found.outcomes.keys()
    for name in found.figures[found.last]:
        # What is made once, when first it is wanted, is growth in one step; a leak is in all.
        steps = [
            (after.tasks - before.tasks, after.files - before.files, after.objects - before.objects)
            for before, after in pairwise(figures[name] for figures in found.figures.values())
        ]
        assert len(steps) == 3
        tasks, files, objects = (min(more) for more in zip(*steps, strict=True))
        assert tasks <= 0, found
        assert files <= 0, found
        # Less than one a request.
        assert objects < num_requests, found


def test_growth_is_a_fault() -> None:
    before = Figures(50_000, 20, 5, 7, 60_000, 1.0)
    after = Figures(53_000, 21, 5, 7, 99_000, 2.0)
    found = Soak(figures={10: {"a": before, "b": before}, 20: {"a": after, "b": before}})
    found.check()
    assert found.faults == ["a: 3000 more rss_kib, 2048 allowed", "a: 1 more files, 0 allowed"]
    assert "| a | 50000 | 53000 | +3000 | 20 +1 |" in str(found)
