"""The large stack of a question's thread."""

import threading

from airdraft.nodes.engine.sandbox.stack import LargeStack


def test_each_work_is_done_in_a_thread_of_its_own_before_run_returns() -> None:
    stack, done = LargeStack(), []
    for i in range(3):
        stack.run(lambda i=i: done.append((i, threading.get_native_id())))  # type: ignore[misc]
    assert [i for i, _ in done] == [0, 1, 2]
    assert threading.get_native_id() not in {thread for _, thread in done}
