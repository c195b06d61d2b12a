"""A thread with a large stack, for libraries that call themselves once for each letter."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

# Some tokenizers use a std::regex that recurses once for each letter, with 310 bytes each (measured
# with libstdc++ 12). A message on the wire holds some 600,000 letters. Only used pages take memory.
STACK_BYTES: Final = 256 << 20
# pthread_attr_t has 56 bytes on x86-64 and 64 on arm64.
_ATTRIBUTES_BYTES: Final = 256
_Start = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)


class LargeStack:
    """Does one piece of work at a time in a thread that has a large stack.

    The stack of one of Python's threads is freed some time after it was joined. On a busy core the
    next question then had no memory, and 6 of 4,000 prompts were refused. So it is a thread of the
    C library, whose stack is free as soon as it is joined.
    """

    def __init__(self) -> None:
        self._work: Callable[[], None] = lambda: None
        # One callback for all threads, because none can be made after jail.confine().
        self._start = _Start(self._do)
        self._libc = ctypes.CDLL(None)

    def run(self, work: Callable[[], None]) -> None:
        """Do the work. Raises MemoryError if there is no memory for the stack."""
        self._work = work
        thread, attributes = ctypes.c_ulong(), ctypes.create_string_buffer(_ATTRIBUTES_BYTES)
        libc = self._libc
        libc.pthread_attr_init(attributes)
        libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(STACK_BYTES))
        if libc.pthread_create(ctypes.byref(thread), attributes, self._start, None) != 0:
            raise MemoryError("no memory for a thread's stack")
        libc.pthread_join(thread, None)

    def _do(self, _: int | None) -> None:
        self._work()
