from nodes.messages import TraceReply
from nodes.telemetry.trace.records import GuessRecord, Ring, from_line, to_line
from tests.nodes.telemetry.trace.examples import guessing, plan_record

ALL = 10**9


def message(number: int) -> GuessRecord:
    """The record with this number, which it tells as its number of tokens."""
    return GuessRecord(float(number), "t", "d", 1, number)


SIZE = len(to_line(10, message(10)))


def filled(count: int, max_bytes: int = ALL) -> Ring:
    ring = Ring(max_bytes)
    for number in range(1, count + 1):
        ring.add(message(number))
    return ring


def numbers(part: TraceReply) -> list[int]:
    found = [from_line(line) for line in part.records.splitlines()]
    return [record.num_tokens for record in found if isinstance(record, GuessRecord)]


def test_records_are_numbered_from_1_and_asked_for_by_number() -> None:
    ring = filled(5)
    assert ring.last == 5
    assert numbers(ring.after(0, ALL)) == [1, 2, 3, 4, 5]
    assert numbers(ring.after(3, ALL)) == [4, 5]
    assert ring.after(3, ALL).last == 5
    assert ring.after(5, ALL) == TraceReply(0, 5, 0, False, b"")
    # Twice the same.
    assert ring.after(3, ALL) == ring.after(3, ALL)
    # A number that was not given yet.
    assert ring.after(99, ALL) == TraceReply(0, 5, 0, False, b"")
    assert Ring().after(0, ALL) == TraceReply(0, 0, 0, False, b"")


def test_the_oldest_are_forgotten_and_counted() -> None:
    ring = filled(25, 10 * SIZE)
    part = ring.after(3, ALL)
    assert (numbers(part), part.num_lost) == (list(range(16, 26)), 12)
    # A large record takes the room of several.
    ring.add(plan_record(guessing(1)))
    assert 1 < len(ring) < 8
    ring.add(plan_record(guessing(50)))
    assert ring.after(0, ALL) == TraceReply(0, 27, 27, False, b"")


def test_a_part_holds_whole_records_up_to_a_size() -> None:
    ring = filled(5)
    size = len(to_line(1, message(1)))
    for max_bytes in (2 * size, 3 * size - 1):
        part = ring.after(0, max_bytes)
        assert (numbers(part), part.last, part.has_more) == ([1, 2], 2, True)
    assert not ring.after(3, 2 * size).has_more
    found: list[int] = []
    part = ring.after(0, size)
    while part.records:
        found += numbers(part)
        part = ring.after(part.last, size)
    assert found == [1, 2, 3, 4, 5]


def test_a_record_larger_than_a_part_is_left_out_and_counted() -> None:
    ring = filled(2)
    ring.add(plan_record(guessing(50)))
    ring.add(message(4))
    size = 2 * len(to_line(1, message(1)))
    first = ring.after(0, size)
    assert (numbers(first), first.last, first.num_lost, first.has_more) == ([1, 2], 3, 1, True)
    second = ring.after(first.last, size)
    assert (numbers(second), second.last, second.num_lost, second.has_more) == ([4], 4, 0, False)


def test_numbers_go_on_after_everything_was_forgotten() -> None:
    ring = filled(5)
    ring.clear()
    assert len(ring) == 0
    ring.add(message(6))
    part = ring.after(5, ALL)
    assert (numbers(part), part.last, part.num_lost) == ([6], 6, 0)
    assert ring.after(2, ALL).num_lost == 3
