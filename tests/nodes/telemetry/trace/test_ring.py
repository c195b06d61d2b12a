from itertools import accumulate

from hypothesis import example, given
from hypothesis import strategies as st

from airdraft.nodes.messages import TraceReply
from airdraft.nodes.telemetry.trace.records import (
    FollowRecord,
    GuessRecord,
    Ring,
    from_line,
    to_line,
)

ALL = 10**9


def record_of(length: int) -> FollowRecord:
    return FollowRecord(0.0, "t", 1, "", "x" * length)


SIZE = len(to_line(1, record_of(0)))


def test_records_are_numbered_from_1_and_asked_for_by_number() -> None:
    ring = Ring()
    assert ring.after(0, ALL) == TraceReply(0, 0, 0, False, b"")
    for number in range(1, 6):
        ring.add(GuessRecord(float(number), "t", "d", 1, number))
    for after, expected in ((0, [1, 2, 3, 4, 5]), (3, [4, 5])):
        part = ring.after(after, ALL)
        records = [from_line(line) for line in part.records.splitlines()]
        assert [r.num_tokens for r in records if isinstance(r, GuessRecord)] == expected
        assert part == TraceReply(0, 5, 0, False, part.records)
    # The last one, and a number that was not given yet.
    assert ring.after(5, ALL) == ring.after(99, ALL) == TraceReply(0, 5, 0, False, b"")


@given(
    lengths=st.lists(st.integers(0, 300), max_size=30),
    num_cleared=st.integers(0, 5),
    after=st.integers(0, 40),
    ring_bytes=st.integers(0, 5000),
    part_bytes=st.integers(0, 1000),
)
# Exactly one record fits, and exactly two.
@example(lengths=[0, 1, 0], num_cleared=0, after=0, ring_bytes=ALL, part_bytes=SIZE)
@example(lengths=[0, 0, 0], num_cleared=1, after=0, ring_bytes=2 * SIZE, part_bytes=2 * SIZE)
def test_who_asks_until_there_is_no_more_gets_or_is_told_to_have_lost_every_record(
    lengths: list[int], num_cleared: int, after: int, ring_bytes: int, part_bytes: int
) -> None:
    ring, lines = Ring(ring_bytes), list[bytes]()
    for number, length in enumerate([0] * num_cleared + lengths, 1):
        record = record_of(length)
        ring.add(record)
        lines.append(to_line(number, record))
        if number == num_cleared:
            ring.clear()
    # The oldest records make room for the last ones.
    sizes = accumulate(len(line) for line in reversed(lines[num_cleared:]))
    num_kept = sum(size <= ring_bytes for size in sizes)
    kept = lines[len(lines) - num_kept :]
    found = list[bytes]()
    last, num_lost, has_more = after, 0, True
    while has_more:
        part = ring.after(last, part_bytes)
        assert len(part.records) <= part_bytes
        assert part == ring.after(last, part_bytes)
        # All that fit are in it.
        assert not part.has_more or len(part.records) + len(lines[part.last]) > part_bytes
        found += part.records.splitlines(keepends=True)
        num_lost += part.num_lost
        last, has_more = part.last, part.has_more
    first_kept = len(lines) - num_kept
    asked = kept[max(0, after - first_kept) :]
    assert found == [line for line in asked if len(line) <= part_bytes]
    assert last == len(lines)
    assert len(found) + num_lost == max(0, len(lines) - after)
