"""The threads that compute the masks of grammars: a dear one delays only its own stream."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Final

from airdraft.nodes.engine.masks import GrammarText
from airdraft.nodes.worker.stream import tenant_of

# The threads yield to those of the engine: with 10 one gets a tenth of a core that they want.
_NICENESS: Final = 10


class MaskThread:
    """Computes masks for one key after the other, at a lower priority than the engine's threads.

    Texts that are apart have a second thread, because they may compile their grammars anew. wake:
    called on a thread when a mask has come that the engine missed.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self._changed = threading.Condition()
        # By whether they are apart, the texts of each key that wait, oldest first; the keys in the
        # order of their turns. A stream that has ended in the meantime needs no mask.
        self._waiting: dict[bool, dict[str, dict[int, weakref.ref[GrammarText]]]] = {
            False: {},
            True: {},
        }
        self._is_over = False
        self.num_computed = 0

    async def run(self) -> None:
        """Serve until cancelled; the masks that are being computed are finished first."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        threads = [
            threading.Thread(target=self._run, args=(loop, ended, apart), name=name, daemon=True)
            for apart, name in ((False, "masks"), (True, "masks apart"))
        ]
        for thread in threads:
            thread.start()
        try:
            await ended
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()
            for thread in threads:
                await asyncio.to_thread(thread.join)

    def _run(
        self, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None], apart: bool
    ) -> None:
        try:
            self._serve(apart)
        except BaseException as error:  # noqa: BLE001 - handed to run(), which raises it
            loop.call_soon_threadsafe(_fail, ended, error)

    def ask(self, text: GrammarText) -> None:
        with self._changed:
            texts = self._waiting[text.is_apart].setdefault(tenant_of(text.owner), {})
            texts[id(text)] = weakref.ref(text)
            self._changed.notify_all()

    def settle(self, texts: Iterable[GrammarText], seconds: float) -> None:
        until = time.monotonic() + seconds
        for text in texts:
            with self._changed:
                while not text.is_settled and (left := until - time.monotonic()) > 0.0:
                    self._changed.wait(left)

    def _serve(self, apart: bool) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while (text := self._next(apart)) is not None:
            if text.is_apart is not apart:
                # It has left this thread since it was asked for.
                self.ask(text)
                continue
            text.compute()
            with self._changed:
                self.num_computed += 1
                self._changed.notify_all()

    def _next(self, apart: bool) -> GrammarText | None:
        """Returns the next text, and None once the thread is to end."""
        waiting = self._waiting[apart]
        with self._changed:
            while True:
                self._changed.wait_for(lambda: waiting or self._is_over)
                if self._is_over:
                    return None
                tenant = next(iter(waiting))
                texts = waiting.pop(tenant)
                text = texts.pop(next(iter(texts)))()
                if texts:
                    # The next turn is that of another key.
                    waiting[tenant] = texts
                if text is not None:
                    return text


def _fail(ended: asyncio.Future[None], error: BaseException) -> None:
    if not ended.done():
        ended.set_exception(error)
