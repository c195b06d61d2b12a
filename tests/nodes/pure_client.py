"""The client of a pure cluster: its requests, and what it takes of each, compared on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mesh.codec import encode
from mesh.messages import Ping, Welcome
from nodes.client.journal import Event, Journal
from nodes.client.upload import Upload
from nodes.messages import (
    CancelRequest,
    FinishedNotice,
    LinkFields,
    PromptLogprobsNotice,
    RequestFailedNotice,
    StartedNotice,
    TokenScores,
    TokensNotice,
    UploadGrant,
)
from tests.nodes.builders import make_submit
from tests.nodes.cluster_case import ClusterCase
from tests.nodes.pure_mesh import Chooser, reference_of
from tests.nodes.reference import Reference

_AIR = LinkFields("air", 1e6, 0.0)


class PureClient:
    """Of one case. say: to the coordinator; on_failed: a request has ended with an error."""

    def __init__(
        self,
        case: ClusterCase,
        choose: Chooser,
        say: Callable[[Any], None],
        on_failed: Callable[[RequestFailedNotice], None],
    ) -> None:
        self._case, self._choose, self._say, self._on_failed = case, choose, say, on_failed
        self.inbox: deque[Any] = deque()
        self.to_submit = deque(range(len(case.streams)))
        self.to_cancel = [i for i, stream in enumerate(case.streams) if stream.is_cancelled]
        self.num_submitted = 0
        # Requests of which some pieces are still to be sent.
        self.uploads: dict[int, Upload] = {}
        # What it has of each request that it still wants.
        self.journals: dict[int, Journal] = {}
        # Of the next token that a coordinator is to send.
        self.positions: dict[tuple[int, int], int] = {}
        self.token_ids: dict[tuple[int, int], list[int]] = {}
        self.text: dict[tuple[int, int], bytes] = {}
        self.prompt_scores: dict[int, tuple[TokenScores, ...]] = {}
        self.started: set[int] = set()
        self.ended: dict[tuple[int, int], str] = {}
        self._references: dict[tuple[int, int], Reference] = {}

    def submit(self) -> None:
        index = self.to_submit.popleft()
        stream, num_choices = self._case.streams[index], self._case.num_choices[index]
        for choice in range(num_choices):
            self.token_ids[index, choice], self.text[index, choice] = [], b""
            self.positions[index, choice] = 0
        is_text, is_uploaded = self._case.ways[index]
        sampling = stream.sampling
        submit = make_submit(
            index,
            num_choices=num_choices,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            seed=sampling.seed,
            max_tokens=stream.max_tokens,
            stops=stream.stops,
            ignore_eog=stream.ignore_eog,
            gamma=-1 if stream.gamma is None else stream.gamma,
            priority=1 + index % 10,
            prompt=str(index) if is_text else "",
            prompt_token_ids=() if is_text else stream.prompt,
            model="toy-1" if index % 3 else "",
            user=f"user {index % 2}",
            rules=sampling.rules,
            num_logprobs=stream.num_logprobs,
            scores_prompt=stream.scores_prompt,
        )
        self.journals[index] = journal = Journal(submit)
        submit = journal.request(index, 0.0)
        if is_uploaded:
            self.uploads[index] = upload = Upload(index, [*encode(submit), b""][:2])
            self._say(upload.offer(5, _AIR))
        else:
            self.num_submitted += 1
            self._say(submit)

    def upload(self, index: int) -> None:
        """Some more of a request, whatever was granted."""
        upload = self.uploads[index]
        piece = upload.piece(1 + self._choose.below(300))
        if upload.is_over:
            del self.uploads[index]
            self.num_submitted += 1
        self._say(piece)

    def cancel(self, index: int) -> None:
        self.to_cancel.remove(index)
        self.read_all()
        self.journals.pop(index, None)
        for choice in range(self._case.num_choices[index]):
            self.ended.setdefault((index, choice), "cancelled")
        self.uploads.pop(index, None)
        self._say(CancelRequest(index))

    def lose_coordinator(self) -> None:
        """Some of what it had sent was read, the rest is gone."""
        for _ in range(self._choose.below(len(self.inbox) + 1)):
            self.read()
        self.inbox.clear()
        self.uploads.clear()

    def resume(self) -> None:
        """Ask another coordinator for the rest of what it has."""
        for index, journal in self.journals.items():
            submit = journal.request(index, 0.0)
            for choice, count in enumerate(submit.resume_from):
                self.positions[index, choice] = count
            self._say(submit)

    def read_all(self) -> None:
        while self.inbox:
            self.read()

    def read(self) -> None:
        message = self.inbox.popleft()
        journal = self.journals.get(getattr(message, "request_id", -1))
        if isinstance(message, Welcome | Ping | UploadGrant):
            return
        if journal is None:
            assert isinstance(message, FinishedNotice), f"unexpected {message}"
            assert message.finish_reason == "cancelled"
            return
        if isinstance(message, RequestFailedNotice):
            del self.journals[message.request_id]
            self._on_failed(message)
            return
        if isinstance(message, TokensNotice):
            key = message.request_id, message.choice
            assert message.position == self.positions[key], "a token is missing or repeated"
            self.positions[key] += len(message.token_ids)
        for event in journal.take(message):
            self._take(event)
        if journal.is_over:
            del self.journals[message.request_id]

    def _take(self, message: Event) -> None:
        match message:
            case TokensNotice(request_id=index, choice=choice):
                key = index, choice
                known = self.token_ids[key]
                assert message.position == len(known), "a token is missing or repeated"
                expected = self._alone(*key)
                assert self.prompt_scores.get(index, ()) == expected.prompt_scores
                num_known = len(known)
                known += message.token_ids
                self.text[key] += message.text
                assert message.scores == expected.scores[num_known:][: len(message.scores)]
                assert len(message.scores) in (0, len(message.token_ids))
                assert bool(message.scores) == bool(message.token_ids and expected.scores)
                assert tuple(known) == expected.token_ids[: len(known)]
                assert expected.text.startswith(self.text[key])
            case PromptLogprobsNotice(request_id=index, position=position, scores=scores):
                known_scores = self.prompt_scores.get(index, ())
                assert position == 1 + len(known_scores), "a score is missing or repeated"
                self.prompt_scores[index] = known_scores + scores
            case FinishedNotice(request_id=index, choice=choice, finish_reason=reason):
                assert self.ended.setdefault((index, choice), reason) == reason
                expected = self._alone(index, choice)
                assert self.prompt_scores.get(index, ()) == expected.prompt_scores
                assert tuple(self.token_ids[index, choice]) == expected.token_ids
                assert self.text[index, choice] == expected.text
                assert reason == expected.finish_reason
            case StartedNotice(request_id=index):
                assert index not in self.started, "it began twice"
                self.started.add(index)

    def _alone(self, index: int, choice: int) -> Reference:
        if (index, choice) not in self._references:
            stream = self._case.streams[index]
            sampling = replace(stream.sampling, choice=choice)
            alone = reference_of(replace(stream, sampling=sampling), self._case.target)
            self._references[index, choice] = alone
        return self._references[index, choice]
