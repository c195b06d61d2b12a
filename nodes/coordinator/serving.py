"""Serves requests on targets, from the token ids of the prompt to the last notice."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from copy import deepcopy
from functools import partial

from mesh.json_form import copied_from
from mesh.messages import Ping
from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.members.roster import MAX_MODEL_CHARS, PROOF, NodeOut, Roster
from nodes.coordinator.placing.choosing import is_of_kind
from nodes.coordinator.placing.placement import Move, Placement
from nodes.coordinator.placing.remembered import Remembered
from nodes.coordinator.placing.suspects import Process, suspect
from nodes.coordinator.requests.ledger import STRANDED_LIMIT_S, Ledger
from nodes.coordinator.requests.prompt_hash import prompt_hash
from nodes.coordinator.requests.request import (
    BadRequestError,
    Choice,
    Request,
    finished_notice,
    specs_of,
    started_notice,
    tokens_notice,
)
from nodes.coordinator.sends import Send
from nodes.messages import PromptScoresNotice, ReadNotice, RequestFailedNotice, TokenizeReply
from nodes.messages.fingerprint import fingerprint
from nodes.scheduler.instructions import Abort, Emit, Finish, Instruction, ToDraft, ToTarget
from nodes.scheduler.stream import Stream
from nodes.worker.stream import StreamId

logger = logging.getLogger(__name__)

_MAX_REASON = 1024


class Serving:
    """Places the streams of accepted requests, moves them and ends them."""

    def __init__(self, roster: Roster) -> None:
        self.ledger = Ledger()
        self.placement = Placement(roster, self.ledger)
        self.choosing = self.placement.choosing
        self._roster = roster
        self._next_id = 1
        # Moves of requests to another target so far.
        self.num_moved = 0
        self.remembered = Remembered()

    def make_streams(
        self, request: Request, target: NodeRecord, prompt: tuple[int, ...], now: float
    ) -> list[Send]:
        """Make the streams of a request whose token ids are known; they wait for places."""
        try:
            profile = self.placement.profile_to_fit(request, target, len(prompt))
            specs = specs_of(request, self._next_id, prompt, profile)
        except BadRequestError as error:
            return self.fail(request, "bad_request", str(error), now)
        request.prompt_hash = prompt_hash(prompt)
        if request.submit.prompt_hash not in ("", request.prompt_hash):
            reason = "the prompt has other token ids than when the request began: submit it again"
            return self.fail(request, "internal", reason, now)
        self._next_id += len(specs)
        request.forget_text()
        # Choices without tokens of their own share the prompt's ids; each other one has a copy.
        kept = {id(spec.token_ids): len(spec.token_ids) for spec in specs}
        self.ledger.holdings.charge(request, request.num_submitted + sum(kept.values()))
        request.model_hash = target.profile.model_hash
        request.num_prompt_tokens = len(prompt)
        for spec in specs:
            choice = Choice(request, spec, num_tokens=spec.num_committed)
            # Each has its own copy, because its own tokens clear it.
            choice.suspicion = deepcopy(request.suspicion)
            request.choices[spec.stream_id] = self.ledger.streams[spec.stream_id] = choice
            # The client gets the scores of the prompt before any token of any choice.
            if spec.scores_prompt or not request.awaits_scores:
                self.placement.wait(choice, now)
        return self.admit_waiting(now)

    def was_read(self, request: Request, target: NodeRecord, reply: TokenizeReply) -> Send:
        """End a request that only wants its prompt tokenized, decoded or embedded."""
        self.ledger.forget(request, "done")
        notice = copied_from(
            reply,
            ReadNotice,
            request_id=request.request_id,
            model=target.profile.model[:MAX_MODEL_CHARS],
            model_hash=target.profile.model_hash,
        )
        return Send(request.client, notice)

    def prompt_scored(
        self, target: NodeRecord, notice: PromptScoresNotice, now: float
    ) -> list[Send] | None:
        """Pass prompt scores on to the client; None if they are stale."""
        stream_id = StreamId(notice.stream_id)
        scored, stream = self.ledger.streams.get(stream_id), target.streams.get(stream_id)
        if scored is None or stream is None or stream.spec.generation != notice.generation:
            return None
        if not stream.spec.scores_prompt:
            # These were not requested, and the request's other choices do not wait for them.
            return None
        request = scored.request
        try:
            fresh = request.scored(notice)
        except ValueError as error:
            # With this code the client submits again what was lost.
            return self.fail(request, "left", str(error), now)
        if fresh is None:
            return []
        if not request.awaits_scores:
            for choice in request.choices.values():
                if not choice.spec.scores_prompt:
                    self.placement.wait(choice, now)
        return [Send(request.client, fresh), *self.admit_waiting(now)]

    def admit_waiting(self, now: float) -> list[Send]:
        """Place waiting streams while there is room."""
        out: list[Send] = []
        while (placed := self.placement.next_placed(now)) is not None:
            out += self._place(*placed, now)
        return out

    def _place(self, choice: Choice, target: NodeRecord, now: float) -> list[Send]:
        request, out = choice.request, list[Send]()
        self.placement.bind(choice, target, now)
        # A request that lost its target before any output may begin again with another class.
        if request.told_class != target.profile.numerics_class:
            request.told_class = target.profile.numerics_class
            drafts = [n.profile for n in self._roster.nodes("draft")]
            notice = started_notice(choice, target.profile, drafts, now)
            out.append(Send(request.client, notice))
        return out + self._open(choice, target, now)

    def _open(self, choice: Choice, target: NodeRecord, now: float) -> list[Send]:
        """Open a stream on a target, as a new one or from its journal."""
        choice.target = target.name
        choice.is_new, choice.opened_at = True, now
        assert target.scheduler is not None
        journal, choice.journal = choice.journal, None
        if journal is None:
            opened = target.scheduler.admit(choice.spec)
        else:
            opened = target.scheduler.adopt(journal)
        proof = [Send(target.peer, Ping(PROOF, 0))] if choice.suspicion is not None else []
        return [*proof, *self.carry_out(target, opened, now)]

    def _unplace(self, journal: Stream) -> Choice:
        """Keep the journal of a stream that its target no longer serves; return whose it is."""
        choice = self.ledger.streams[journal.spec.stream_id]
        choice.target, choice.journal = "", journal
        return choice

    def _move(self, move: Move, now: float) -> list[Send]:
        """Close a stream on its target and open it on another one from its journal."""
        self.num_moved += 1
        source = self._roster.node(move.choice.target)
        assert source is not None
        assert source.scheduler is not None
        journal, released = source.scheduler.release(move.choice.spec.stream_id)
        self._unplace(journal)
        out = self.carry_out(source, released, now)
        return [*out, *self._open(move.choice, move.target, now), *self.admit_waiting(now)]

    def target_gone(self, gone: NodeOut, now: float) -> list[Send]:
        """Queue the streams of a lost target for other targets, with their journals."""
        target = gone.record
        assert target.scheduler is not None
        self.choosing.left(gone, now)
        released, instructions = target.scheduler.release_all()
        out = self.carry_out(target, instructions, now)
        # Requests of a client that fell silent at the same time have ended already, although this
        # target was not notified.
        held = [self._unplace(s) for s in released if s.spec.stream_id in self.ledger.streams]
        if gone.has_died:
            suspect(gone, held, now)
            self.remembered.target_died((target.name, target.member.incarnation), now)
        for choice in held:
            choice.request.unbind()
            self.placement.wait(choice, now)
        texts = self.targets_changed(now, target.name)
        for request in {*(choice.request for choice in held), *texts}:
            request.num_losses += 1
            request.last_loss = f"target {target.name} left: {gone.reason}"
            if (spent := request.spent_suspicion) is not None:
                request.last_loss = (
                    f"the targets {spent.names} were lost while they read this request, perhaps "
                    "because of it: it is tried on no other"
                )
        return [*out, *self.admit_waiting(now)]

    def target_lives(self, process: Process, now: float) -> list[Send]:
        """Take it that a process lives, because it has asked to join: it did not die of a request,
        but the process before it did. Ends requests of which that is the proof."""
        self.remembered.target_lives(process)
        convicted = self.placement.target_lives(process, now).items()
        why = "this request ended the targets {}: it is not tried again"
        return self._fail_all(
            ((request, "internal", why.format(each.names)) for request, each in convicted), now
        )

    def evacuate(self, now: float) -> list[Send]:
        """Move streams off drained targets where other targets have room for them. Streams that
        wait for a numerics class that takes nothing new go to the next class."""
        out: list[Send] = []
        for choice in list(self.ledger.streams.values()):
            move = self.placement.evacuated(choice, now)
            out += [] if move is None else self._move(move, now)
        return out + self.admit_waiting(now)

    def targets_changed(self, now: float, gone: str = "") -> list[Request]:
        """Update what waits after a target joined or left.

        Returns the requests whose texts the target that left was to tokenize.
        """
        lost = self.ledger.tokenizing.targets_changed(partial(self._tokenizer_of, now), gone)
        for request, name in self.ledger.tokenizing:
            self.ledger.note_targets(request, is_able=bool(name), now=now)
        self.placement.targets_changed(now)
        return lost

    def reader_of(self, request: Request, now: float) -> NodeRecord | None:
        """Return the target that reads the prompt of a request, if there is one."""
        return self.choosing.reader_of(request, now, self.ledger.tokenizing)

    def _tokenizer_of(self, now: float, request: Request) -> str:
        target = self.reader_of(request, now)
        return "" if target is None else target.name

    def wait_for_return(self, request: Request, now: float) -> None:
        """Queue a request that no present target can serve, as if it had lost its target."""
        request.last_loss = "the target of this request has left"
        if request.is_resumed:
            request.last_loss = "no present target can continue this request"
        elif request.is_pinned:
            wanted = fingerprint(request.model_hash, request.numerics_class)
            request.last_loss = f"no target with fingerprint {wanted} is present"
        self.ledger.tokenizing.add(request, "")
        self.ledger.note_targets(request, is_able=False, now=now)

    def tick(self, now: float) -> list[Send]:
        """Move a stuck stream if one is due; fail requests past their deadline, and those that
        have waited too long for a target."""
        late = "the request was not done within its"
        overdue = [
            (r, "deadline", f"{late} {round(r.limit_s, 2):g} s") for r in self.ledger.overdue(now)
        ]
        out = self._fail_all(overdue, now)
        move = self.placement.next_move(now)
        out += [] if move is None else self._move(move, now)
        unread = "no target has tokenized the text of this request after several attempts"
        silent = self.ledger.tokenizing.overdue(partial(self._tokenizer_of, now), now)
        given_up = [(r, "unavailable", unread) for r in silent]
        given_up += [(r, "unavailable", self._loss_of(r)) for r in self.ledger.stranded(now)]
        out += self._fail_all(given_up, now)
        self.placement.tick(now)
        # Where a stream leaves the line without a place, one behind it may fit. It gets its place
        # here: when a client is gone, all of its streams leave, and none of them may get a place
        # in between.
        return [*out, *self.admit_waiting(now)]

    def _loss_of(self, request: Request) -> str:
        """Return why a request is given up that no target could serve."""
        loss, targets = request.last_loss, self._roster.nodes("target")
        draining = any(n.is_draining and is_of_kind(n.profile, request) for n in targets)
        if draining and not request.num_losses:
            loss = "all targets that could serve this request are draining"
        return f"{loss}; no other suitable target joined within {STRANDED_LIMIT_S:.0f} s"

    def _fail_all(self, failures: Iterable[tuple[Request, str, str]], now: float) -> list[Send]:
        """End requests, each with its code and reason, unless they have ended already: a failure
        frees room, which may end other requests before their turn.

        Those without a place end first, so that none of them gets one that another leaves.
        """
        out: list[Send] = []
        for request, code, reason in sorted(failures, key=lambda each: each[0].has_place):
            if self.ledger.holds(request):
                out += self.fail(request, code, reason, now)
        return out

    def carry_out(
        self, target: NodeRecord, instructions: Sequence[Instruction], now: float
    ) -> list[Send]:
        """Return a scheduler's instructions as messages, and end requests as they say."""
        out, freed = list[Send](), False
        for instruction in instructions:
            match instruction:
                case ToTarget(message=message):
                    out.append(Send(target.peer, message))
                case ToDraft(node=name, message=message):
                    draft = self._roster.node(name)
                    if draft is not None:
                        out.append(Send(draft.peer, message))
                case Emit(stream_id=stream_id):
                    choice = self.ledger.streams.get(stream_id)
                    if choice is not None:
                        # A suspect that made progress is cleared, and the next one may be tried.
                        freed |= choice.note_tokens(len(instruction.token_ids))
                        choice.num_tokens = instruction.position + len(instruction.token_ids)
                        notice = tokens_notice(choice, instruction)
                        out.append(Send(choice.request.client, notice))
                case Finish():
                    out += self._finish(instruction)
                    freed = True
                case Abort(stream_id=stream_id, error=error, code=code):
                    choice = self.ledger.streams.get(stream_id)
                    if choice is not None:
                        out += self.fail(choice.request, code, error, now)
                        freed = True
        if freed:
            out += self.admit_waiting(now)
        return out

    def _finish(self, finish: Finish) -> list[Send]:
        choice = self.ledger.streams.pop(finish.stream_id, None)
        if choice is None:
            return []
        request = choice.request
        del request.choices[finish.stream_id]
        if not request.choices:
            self.ledger.forget(request, "cancelled" if finish.reason == "cancelled" else "done")
        logger.info("stream %d finished: %s", finish.stream_id, finish.reason)
        return [Send(request.client, finished_notice(choice, finish))]

    def cancel(self, request: Request, now: float) -> list[Send]:
        self._remember(request, now)
        out = self._close(request, now)
        self.ledger.forget(request, "cancelled")
        return out

    def fail(self, request: Request, code: str, reason: str, now: float) -> list[Send]:
        """End a whole request with an error and close its streams."""
        self._remember(request, now)
        self.ledger.forget(request, code)
        for stream_id in request.choices:
            # The client gets the error and not the end of each stream.
            self.ledger.streams.pop(stream_id, None)
        notice = RequestFailedNotice(request.request_id, code, reason[:_MAX_REASON])
        return [*self._close(request, now), Send(request.client, notice)]

    def _close(self, request: Request, now: float) -> list[Send]:
        """Close a request's streams, the waiting ones first, so that none of them gets a place that
        another one leaves."""
        out: list[Send] = []
        for choice in sorted(request.choices.values(), key=lambda each: bool(each.target)):
            stream_id = choice.spec.stream_id
            target = self._roster.node(choice.target)
            if target is not None and target.scheduler is not None:
                out += self.carry_out(target, target.scheduler.cancel(stream_id), now)
            request.choices.pop(stream_id, None)
            self.ledger.streams.pop(stream_id, None)
            if stream_id in self.placement.waiting:
                self.placement.waiting.remove(choice)
        return out

    def _remember(self, request: Request, now: float) -> None:
        """Remember of a request that ends early which deaths of targets it may cause.

        It may be submitted again. A suspicion with which it began, and to which nothing was added,
        is as old as it was: otherwise it would last for as long as clients retry.
        """
        known = 0 if request.suspicion is None else len(request.suspicion.accused_by)
        found = [c.suspicion for c in request.choices.values() if c.suspicion is not None]
        if added := [each for each in found if len(each.accused_by) > known]:
            worst = max(added, key=lambda each: (each.is_proven, len(each.accused_by)))
            self.remembered.note(request.digest, worst, now)
        for choice in request.choices.values():
            if choice.target and choice.is_new:
                self.remembered.cancelled(request.digest, choice.target, now)

    def client_gone(self, client: bytes, now: float) -> list[Send]:
        # A client that still reads gets an error: it must not take its text for complete.
        why = "left", "the client left or was silent"
        return self._fail_all(((r, *why) for r in self.ledger.of_client(client)), now)
