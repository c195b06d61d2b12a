"""What always holds of a coordinator, whatever its members do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mesh import credits
from nodes.coordinator.service import Coordinator
from nodes.coordinator.serving import Serving
from nodes.coordinator.state import CoordinatorState
from nodes.scheduler import Scheduler
from nodes.scheduler.stream import Running, Stream
from nodes.worker.stream import StreamId
from tests.nodes.machine.processes import ClientProcess, NodeProcess


def check(coordinator: Coordinator) -> None:
    state = coordinator.state
    check_requests(state)
    check_waiting(state._serving)
    check_drafts(state)
    for scheduler in state.schedulers:
        check_streams(scheduler)
    check_credits(coordinator)


def check_requests(state: CoordinatorState) -> None:
    """Every request is a member's; every stream is in one place, and nobody knows another."""
    serving, roster = state._serving, state._roster
    members = set(roster.peers())
    numbers: dict[bytes, set[int]] = {}
    of_requests = {}
    for (client, number), request in serving.ledger.requests.items():
        assert client in members, "a request of a client that is gone"
        numbers.setdefault(client, set()).add(number)
        of_requests.update(dict.fromkeys(request.choices, request))
        # A request has no streams until its text is tokens, and while it waits for a first target.
        is_read = (client, number) not in serving.ledger.tokenizing._number_of
        has_target_to_come = request in list(serving.ledger.returning)
        assert bool(request.choices) == (is_read and not has_target_to_come)
        is_noted = serving.placement.stranded._requests.get((client, number)) is request
        assert is_noted == (request.stranded_at is not None)
    assert numbers == serving.ledger._ids_of_client
    assert serving.ledger.streams == of_requests
    owners: dict[int, str] = {}
    for node, scheduler in roster.schedulers():
        assert len(scheduler.streams) <= node.profile.max_streams
        for stream in scheduler.streams.values():
            stream_id = stream.spec.stream_id
            assert stream_id not in owners, "a stream has two targets"
            owners[stream_id] = node.name
    assert owners.keys() <= of_requests.keys(), "a scheduler has a stream of no request"
    for stream_id, request in of_requests.items():
        choice = request.choices[stream_id]
        assert choice.target == owners.get(stream_id, "")
        is_waiting = stream_id in serving.placement.waiting
        awaits_scores = request.awaits_scores and not choice.spec.scores_prompt
        assert is_waiting + bool(choice.target) + awaits_scores == 1, "a stream is nowhere"
        # A journal is with whoever goes on from it.
        assert choice.journal is None or not choice.target


def check_waiting(serving: Serving) -> None:
    """The line, counted in each of its ways, and the texts that are tokenized."""
    waiting = serving.placement.waiting
    entries = waiting._entries.values()
    roles = Counter(entry.request.role for entry in entries)
    assert roles == +waiting._num_of_role
    tenants = Counter((entry.request.model_hash, entry.request.tenant) for entry in entries)
    assert tenants == {key: tenant.num_waiting for key, tenant in waiting._tenants.items()}
    in_lines = [place for line in waiting._lines.values() for place in line._places.values()]
    assert sum(map(len, in_lines)) == len(waiting)
    assert all(in_lines)
    tokenizing = serving.ledger.tokenizing
    texts = tokenizing._texts.values()
    assert Counter(text.request.role for text in texts) == +tokenizing._num_of_role
    holdings = serving.ledger.holdings
    assert set(holdings._of_request) == set(serving.ledger.requests)
    assert sum(holdings._of_request.values()) == holdings._of_all
    assert set(holdings._of_connection) == {client for client, _ in serving.ledger.requests}
    assert all(num >= 0 for num in tokenizing._under_way.values())


def check_drafts(state: CoordinatorState) -> None:
    """Draft nodes and the streams that they follow know each other, of whichever target."""
    drafts = state._drafts
    names = {node.name for node in state._roster.nodes("draft")}
    followers: dict[str, set[StreamId]] = {}
    is_reading: set[str] = set()
    for scheduler in state.schedulers:
        held = scheduler
        assert held.drafts is drafts
        assert held.usable <= names
        for stream in scheduler.streams.values():
            follow = stream.follow
            if follow is None:
                assert stream.plain_reason or not stream.wants_follower
                continue
            assert follow.node in held.usable
            followers.setdefault(follow.node, set()).add(stream.spec.stream_id)
            if not follow.is_ready:
                is_reading.add(follow.node)
    assert {node.name for node in drafts} <= names
    for node in drafts:
        assert node.followed == followers.pop(node.name, set())
        assert len(node.followed) <= node.max_streams
        assert node.num_unread == 0 or node.name in is_reading
    assert followers == {}, "a draft node that is gone follows streams"


def check_streams(state: Scheduler) -> None:
    """No stream waits for what nobody will say: its target may go on, its draft node is told."""
    assert state.waits.keys() <= state.streams.keys(), "a stream waits that is not here"
    assert state.ended == {}, "what an ended stream did was not asked for"
    for stream in state.streams.values():
        length = len(stream.token_ids)
        phase, follow = stream.phase, stream.follow
        assert stream.tokens_left > 0 or not stream.num_output
        if isinstance(phase, Running):
            assert phase.until > length, "the target may not go on"
        if follow is None:
            continue
        assert follow.number == stream.last_number
        assert follow.compared_at <= length
        assert follow.told <= length, "a draft node was told more than there is"
        is_noted = stream.spec.stream_id in state.untold.get(follow.node, {})
        assert follow.told == length or is_noted, "nobody tells a draft node the rest"


def journals_of(state: CoordinatorState) -> dict[StreamId, Stream]:
    """All streams, those that wait for another target included."""
    found = {
        s.spec.stream_id: s for scheduler in state.schedulers for s in scheduler.streams.values()
    }
    for request in state._serving.ledger.requests.values():
        for stream_id, choice in request.choices.items():
            if choice.journal is not None:
                assert choice.journal.follow is None, "a draft node follows what nobody decodes"
                found[stream_id] = choice.journal
    return found


def check_texts(
    coordinator: Coordinator, nodes: Iterable[NodeProcess], clients: Iterable[ClientProcess]
) -> None:
    """A journal is what its stream becomes alone; clients and draft nodes know none but its first
    tokens, a target may be ahead of it."""
    state = coordinator.state
    journals = journals_of(state)
    for node in nodes:
        # In another life of the coordinator other streams had these numbers.
        if node.welcome is None or node.welcome.epoch != state.epoch:
            continue
        for stream_id, token_ids in node.node.texts().items():
            if (journal := journals.get(stream_id)) is not None:
                known = journal.token_ids
                assert token_ids[: len(known)] == known[: len(token_ids)]
                assert node.role == "target" or len(token_ids) <= len(known)
    requests = state._serving.ledger.requests
    for client in clients:
        for asked in client.open_requests():
            request = requests.get((client.connection.peer, asked.submit.request_id))
            for stream_id, choice in request.choices.items() if request is not None else ():
                journal = journals.get(stream_id)
                output = journal.token_ids[journal.spec.num_prompt_tokens :] if journal else []
                assert choice.num_tokens == len(output)
                asked.heard.check_journal(choice.spec.sampling.choice, output)


def check_credits(coordinator: Coordinator) -> None:
    windows = coordinator._credits._windows.values()
    assert all(0 <= each.left <= credits.WINDOW_MESSAGES for each in windows)
    assert all(each.answer_bytes >= 0 for each in windows)


def check_empty(coordinator: Coordinator) -> None:
    """Nobody asks for anything any more: nothing is left of what was asked for."""
    state = coordinator.state
    serving = state._serving
    assert serving.ledger.requests == {} == serving.ledger.streams == serving.ledger._ids_of_client
    assert len(serving.placement.waiting) == 0
    assert serving.placement.stranded._requests == {}
    assert len(serving.ledger.tokenizing) == 0
    assert not +serving.ledger.tokenizing._under_way
    assert not any(serving.ledger.tokenizing._queues.values())
    assert not any(node.followed or node.num_unread for node in state._drafts)
    assert state._uploads.num_under_way == 0
    for scheduler in state.schedulers:
        assert len(scheduler.streams) == 0
        assert scheduler.waits == {} == scheduler.ended
