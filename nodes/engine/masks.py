"""The masks of a stream's next tokens, which may be computed on another thread than the engine's.

A mask depends only on the grammar and the text, so that it can be asked for before the logits are
there, and its time is nobody else's: whoever needs a mask that is missing goes on without it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from airdraft.nodes.engine.grammar import GrammarError, GrammarState, LexerError, Mask
from airdraft.nodes.engine.protocol import common_prefix

# A stream whose masks take longer in processor time is not waited for. Those of schemas, tools and
# common GBNF take up to 2.5 ms with 151,936 tokens (a core of an Intel Xeon, 2026-12-01).
_FAST_S: Final = 0.004


class MaskMissingError(Exception):
    """A mask that is needed has not been computed yet."""


class MaskService(Protocol):
    """Computes masks: calls GrammarText.compute() of each text that was handed to ask().

    A text that is apart may take seconds, so it should delay none that are not.
    """

    def ask(self, text: GrammarText) -> None: ...

    def settle(self, texts: Iterable[GrammarText], seconds: float) -> None:
        """Wait until the masks that these texts asked for are there, but no longer than this."""

    def wake(self) -> None:
        """Have the engine look again: a mask has come that was missing."""


class MasksAtOnce:
    """Computes each mask where it is asked for."""

    def ask(self, text: GrammarText) -> None:
        text.compute()

    def settle(self, texts: Iterable[GrammarText], seconds: float) -> None:
        return

    def wake(self) -> None:
        return


AT_ONCE: Final = MasksAtOnce()


class _Job:
    """Masks that are asked for: of the token after token_ids, and behind each of the guesses.

    masks: those that are there, in this order; an error ends them.
    """

    def __init__(self, token_ids: Sequence[int], guesses: Sequence[int]) -> None:
        self.token_ids = list(token_ids)
        self.guesses = list(guesses)
        self.masks: list[Mask | GrammarError] = []
        self.is_done = False


class GrammarText:
    """The output of a stream with a grammar.

    The grammar's state belongs to compute(), which one thread at a time may call. All else is the
    engine's, and never waits for it. An error of the grammar, also one by a pushed token, is raised
    where the next mask is needed: at the same token, whatever was guessed.

    is_apart: Whether its grammar's lexer has failed, in which others had a part. From then on each
    mask is computed in a lexer of its own that has seen nothing but the text, and whether that one
    fails depends on nothing else.
    """

    def __init__(self, begun: GrammarState, owner: str, service: MaskService = AT_ONCE) -> None:
        """begun: the state of the empty text, which is not changed. owner: of the stream."""
        self.owner = owner
        self._begun = begun
        self._service = service
        self._token_ids: list[int] = []
        # The last job; None if its masks are of no use for the text.
        self._job: _Job | None = None
        # The job that compute() is to do next.
        self._next: _Job | None = None
        self._is_awaited = False
        self._is_slow = False
        self.is_apart = False
        # Of compute(): the job at which the lexer failed.
        self._failed: _Job | None = None
        # The state, None if it has to begin anew, and the text that it stands for.
        self._state: GrammarState | None = None
        self._reached: list[int] = []
        # The mask after it, if it is known.
        self._last: Mask | None = None

    def push(self, token_id: int) -> None:
        job, index = self._job, len(self._token_ids)
        self._token_ids.append(token_id)
        if job is not None:
            index -= len(job.token_ids)
            if index >= len(job.guesses) or job.guesses[index] != token_id:
                self._job = None

    def take_back(self, num_tokens: int) -> None:
        """Forget the last tokens."""
        del self._token_ids[len(self._token_ids) - num_tokens :]
        if self._job is not None and len(self._token_ids) < len(self._job.token_ids):
            self._job = None

    def ask(self, guesses: Sequence[int] = ()) -> None:
        """Ask for the masks of the next token and behind each guess, unless that was done."""
        found, job = self._found(), self._job
        if job is not None and (found is not None or not job.is_done):
            num_guessed = len(self._token_ids) - len(job.token_ids)
            if job.guesses[num_guessed : num_guessed + len(guesses)] == list(guesses):
                return
        self._job = self._next = _Job(self._token_ids, guesses)
        if found is not None:
            self._job.masks.append(found)
        self._service.ask(self)

    def allowed(self) -> Mask:
        """Returns the mask of the next token. Raises GrammarError, or MaskMissingError.

        With the latter the stream counts as slow until its masks come in time.
        """
        self.ask()
        found = self._found()
        if found is None:
            self._is_slow = True
            raise MaskMissingError
        if isinstance(found, GrammarError):
            raise found
        return found

    def _found(self) -> Mask | GrammarError | None:
        job = self._job
        if job is None:
            return None
        found = job.masks[len(self._token_ids) - len(job.token_ids) :]
        return found[0] if found else None

    @property
    def is_settled(self) -> bool:
        """Whether all masks that were asked for are there."""
        return self._job is None or self._job.is_done

    @property
    def is_slow(self) -> bool:
        """Whether its last masks took long, or came too late for a pass."""
        return self._is_slow

    def await_next(self) -> bool:
        """Ask for the next token's mask. Returns whether it is missing.

        If it is, the engine is woken when it comes.
        """
        self.ask()
        if self._found() is not None:
            return False
        self._is_awaited = True
        # It may have come just before that.
        return self._found() is None

    def compute(self) -> None:
        """Do what was asked for last; for the service."""
        job, self._next = self._next, None
        job, self._failed = job or self._failed, None
        if job is None:
            return
        began_at = time.thread_time()
        num_known = len(job.masks)
        try:
            if not self.is_apart:
                state = self._moved(job.token_ids)
                if not num_known:
                    job.masks.append(self._mask(state))
                self._look_ahead(state, job)
            elif not num_known:
                job.masks.append(self._mask_apart(job.token_ids))
        except LexerError as error:
            self._state = None
            if not self.is_apart and not job.masks:
                # Another thread may go on from here.
                self._failed, self._is_slow, self.is_apart = job, True, True
                self._service.ask(self)
                return
            # Masks that are there are right, and the one behind them is asked for again if its
            # guess was right.
            if not job.masks:
                job.masks.append(error)
        except GrammarError as error:
            # A state that has failed cannot go back.
            self._state = None
            job.masks.append(error)
        self._is_slow = time.thread_time() - began_at > _FAST_S * max(1, len(job.masks) - num_known)
        job.is_done = True
        if self._is_awaited:
            self._is_awaited = False
            self._service.wake()

    def _mask_apart(self, token_ids: Sequence[int]) -> Mask:
        state = self._begun.apart()
        for token_id in token_ids:
            state.push(token_id)
        return state.allowed()

    def _look_ahead(self, state: GrammarState, job: _Job) -> None:
        for guess in job.guesses:
            mask = job.masks[-1]
            # A guess that the grammar does not allow is wrong, and so are those behind it.
            if self._next is not None or isinstance(mask, GrammarError) or not mask[guess]:
                return
            self._push(state, guess)
            job.masks.append(self._mask(state))

    def _moved(self, token_ids: Sequence[int]) -> GrammarState:
        """Returns the state after these tokens."""
        if self._state is None:
            self._state, self._reached, self._last = self._begun.copy(), [], None
        num_same = common_prefix(self._reached, token_ids)
        if num_gone := len(self._reached) - num_same:
            self._state.take_back(num_gone)
            del self._reached[num_same:]
            self._last = None
        for token_id in token_ids[num_same:]:
            self._push(self._state, token_id)
        return self._state

    def _push(self, state: GrammarState, token_id: int) -> None:
        state.push(token_id)
        self._reached.append(token_id)
        self._last = None

    def _mask(self, state: GrammarState) -> Mask:
        if self._last is None:
            self._last = state.allowed()
        return self._last
