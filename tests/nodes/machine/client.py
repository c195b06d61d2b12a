"""A client in virtual time: its requests, and what it hears of each, compared on the way."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from airdraft.mesh.codec import encode
from airdraft.mesh.messages import Hello
from airdraft.nodes.client.journal import Event, Journal
from airdraft.nodes.client.upload import ANSWER_LIMIT_S, GRANT_LIMIT_S, Upload
from airdraft.nodes.messages import (
    CancelRequest,
    FinishedNotice,
    LinkFields,
    NodeCommandReply,
    OutputNotice,
    PromptLogprobsNotice,
    RequestFailedNotice,
    StartedNotice,
    SubmitRequest,
    TokenScores,
    TokensNotice,
    UploadGrant,
    notices_of,
)
from tests.nodes.machine.network import Network
from tests.nodes.machine.process import Process
from tests.nodes.reference import Reference

_AIR = LinkFields("air", 1e6, 0.0)


class Asked:
    """A request, held against what each of its choices becomes alone.

    alone: what a choice becomes where nothing disturbs it. upload: what of it is still to be sent.
    ended: why each choice has ended, of those that have. failure: code and reason, if it failed.
    is_lost: the client gave its connection up, or left.
    """

    def __init__(self, submit: SubmitRequest, alone: Callable[[int], Reference]) -> None:
        self.submit = submit
        self.upload: Upload | None = None
        self.waits_until = 0.0
        self.ended: dict[int, str] = {}
        self.failure: tuple[str, str] | None = None
        self.is_cancelled = self.is_lost = False
        self.token_ids: list[list[int]] = [[] for _ in range(submit.num_choices)]
        self._alone = cache(alone)
        self._journal = Journal(submit)
        self._text = [b""] * submit.num_choices
        self._prompt_scores: tuple[TokenScores, ...] = ()
        # Of the next token that this coordinator is to send, by choice.
        self._positions: list[int] = []

    @property
    def is_whole(self) -> bool:
        """Whether every choice has ended as it should."""
        return len(self.ended) == len(self.token_ids)

    @property
    def is_over(self) -> bool:
        return self.is_whole or self.is_cancelled or self.failure is not None or self.is_lost

    def request(self) -> SubmitRequest:
        """What is asked of a coordinator: all of it, or what the ones before have left."""
        submit = self._journal.request(self.submit.request_id, self.submit.deadline_s)
        self._positions = list(submit.resume_from or [0] * submit.num_choices)
        return submit

    def take(self, message: Event, *, is_lenient: bool) -> None:
        """is_lenient: the request may have come more than once, and may be answered anew."""
        if isinstance(message, TokensNotice) and not is_lenient:
            position = self._positions[message.choice]
            assert message.position == position, "a token is missing or repeated"
            self._positions[message.choice] += len(message.token_ids)
        for event in self._journal.take(message):
            self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case StartedNotice(seed=seed):
                assert seed == self.submit.seed
            case TokensNotice():
                self._take_tokens(event)
            case PromptLogprobsNotice(position=position, scores=scores):
                assert position == 1 + len(self._prompt_scores), "a score is missing or repeated"
                self._prompt_scores += scores
            case FinishedNotice(choice=choice, finish_reason=reason):
                assert choice not in self.ended, "it ends twice"
                self.ended[choice] = reason
                expected = self._alone(choice)
                assert self._prompt_scores == expected.prompt_scores
                assert tuple(self.token_ids[choice]) == expected.token_ids
                assert event.num_tokens == len(expected.token_ids)
                assert (self._text[choice], reason) == (expected.text, expected.finish_reason)

    def _take_tokens(self, message: TokensNotice) -> None:
        choice = message.choice
        assert choice not in self.ended, "tokens after the end"
        known, expected = self.token_ids[choice], self._alone(choice)
        assert message.position == len(known), "a token is missing or repeated"
        assert self._prompt_scores == expected.prompt_scores
        num_known = len(known)
        known += message.token_ids
        self._text[choice] += message.text
        assert message.scores == expected.scores[num_known:][: len(message.scores)]
        assert len(message.scores) in (0, len(message.token_ids))
        assert bool(message.scores) == bool(message.token_ids and expected.scores)
        assert message.num_accepted_tokens <= message.num_draft_tokens
        assert tuple(known) == expected.token_ids[: len(known)]
        assert expected.text.startswith(self._text[choice])


class ClientProcess(Process):
    """Who asks. One that rejoins has the next coordinator go on with what it asked the last one.

    on_failure: hears of each request that the mesh ends. is_lenient: whether what it sends may come
    more than once, so that it is answered again.
    """

    def __init__(
        self,
        network: Network,
        clock: Callable[[], float],
        hello: Hello,
        *,
        rejoins: bool,
        on_failure: Callable[[ClientProcess, Asked], None],
        is_lenient: Callable[[], bool],
    ) -> None:
        super().__init__(network, clock, hello, rejoins=rejoins)
        self.asked: dict[int, Asked] = {}
        self._on_failure = on_failure
        self._is_lenient = is_lenient

    def submit(
        self, submit: SubmitRequest, alone: Callable[[int], Reference], *, is_uploaded: bool
    ) -> None:
        asked = self.asked[submit.request_id] = Asked(submit, alone)
        submit = asked.request()
        if is_uploaded:
            asked.upload = upload = Upload(submit.request_id, [*encode(submit), b""][:2])
            asked.waits_until = self.clock() + ANSWER_LIMIT_S
            self.send(upload.offer(submit.priority, _AIR))
        else:
            self.send(submit)

    def cancel(self, asked: Asked) -> None:
        asked.upload, asked.is_cancelled = None, True
        self.send(CancelRequest(asked.submit.request_id))

    def open_requests(self) -> list[Asked]:
        return [asked for asked in self.asked.values() if not asked.is_over]

    def read(self) -> None:
        """Who has nothing else to do reads all there is."""
        super().read()
        while not self.pace_s and not self.has_ended and self.can_read():
            super().read()

    def on_joined(self) -> None:
        for asked in self.open_requests():
            asked.upload = None
            self.send(asked.request())

    def on_lost(self) -> None:
        for asked in self.open_requests() if self.has_ended else ():
            asked.is_lost = True

    def tick(self) -> None:
        super().tick()
        for asked in self.open_requests() if not self.is_stopped else ():
            if asked.upload is not None and self.clock() >= asked.waits_until:
                self._send_pieces(asked, asked.upload.rest())

    def _send_pieces(self, asked: Asked, pieces: list[Any]) -> None:
        assert asked.upload is not None
        for piece in pieces:
            self.send(piece)
        asked.waits_until = self.clock() + GRANT_LIMIT_S
        if asked.upload.is_over:
            asked.upload = None

    def on_message(self, message: Any) -> None:
        if isinstance(message, OutputNotice):
            for notice in notices_of(message):
                self._take(notice)
        elif not isinstance(message, NodeCommandReply):
            self._take(message)

    def _take(self, message: Any) -> None:
        asked = self.asked[message.request_id]
        is_lenient = self._is_lenient()
        if asked.failure is not None or asked.is_cancelled or (is_lenient and asked.is_over):
            return
        match message:
            case RequestFailedNotice(code=code, reason=reason):
                if not asked.is_whole:
                    asked.failure = code, reason
                    self._on_failure(self, asked)
            case UploadGrant(num_bytes=num_bytes):
                if asked.upload is not None and num_bytes:
                    self._send_pieces(asked, [asked.upload.piece(num_bytes)])
            case StartedNotice() | TokensNotice() | PromptLogprobsNotice() | FinishedNotice():
                asked.take(message, is_lenient=is_lenient)
            case _:
                raise AssertionError(f"unexpected {message}")
