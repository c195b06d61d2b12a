"""Shared numbers, also where several threads ask for them at once."""

import importlib
import sys
import threading

import pytest

from mesh import shared_numbers

SMALLER, LARGER, LARGEST = (tuple(range(length)) for length in (100, 3000, 4000))


@pytest.mark.parametrize("num_calls", range(8))
def test_another_thread_between_any_two_calls_changes_no_number(num_calls):
    """Before the call of a builtin with this number, another thread shares a longer list."""
    importlib.reload(shared_numbers)
    found = []
    other = threading.Thread(target=lambda: found.append(shared_numbers.shared(LARGER)))
    left = iter(range(num_calls))

    def profile(_frame, event, _function):
        if event == "c_call" and next(left, None) is None and other.ident is None:
            other.start()
            # Where this thread holds a lock, the other one is only waiting.
            other.join(0.2)

    sys.setprofile(profile)
    try:
        found.append(shared_numbers.shared(SMALLER))
    finally:
        sys.setprofile(None)
    other.join()
    assert sorted(found) == [SMALLER, LARGER]
    assert shared_numbers.shared(LARGEST) == LARGEST
