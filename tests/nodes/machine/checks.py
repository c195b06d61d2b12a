"""What always holds of a coordinator, whatever its members do."""

from __future__ import annotations

from collections import Counter

from nodes.coordinator.service import Coordinator
from nodes.coordinator.serving import Serving
from nodes.coordinator.state import CoordinatorState
from nodes.scheduler import SchedulerState
from nodes.scheduler.drafting.lookup import LOOKUP
from nodes.scheduler.stream import Drafting, Verifying


def check(coordinator: Coordinator) -> None:
    state = coordinator.state
    check_requests(state)
    check_waiting(state._serving)
    check_drafts(state)
    for scheduler in state.schedulers:
        check_rounds(scheduler)
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
        assert scheduler.num_streams <= node.profile.max_streams
        for stream in scheduler.streams():
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
    parties = Counter((entry.request.model_hash, entry.request.party) for entry in entries)
    assert parties == {key: party.num_waiting for key, party in waiting._parties.items()}
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
    """Loads of draft nodes are the streams that are placed on them."""
    names = {node.name for node in state._roster.nodes("draft")}
    loads: Counter[str] = Counter()
    for scheduler in state.schedulers:
        pool = scheduler._drafts
        assert {node.name for node in pool} <= names
        placements = [s.draft for s in scheduler.streams() if s.draft is not None]
        here = Counter(placement.node for placement in placements)
        assert here.pop(LOOKUP, 0) == pool._by_lookup.num_streams
        assert here == +Counter({node.name: node.num_streams for node in pool})
        loads += here
    assert loads == Counter(state._draft_load.totals)
    assert all(load > 0 for load in state._draft_load.totals.values())


def check_rounds(scheduler: SchedulerState) -> None:
    """Rounds and their streams know each other, and nodes the rounds they draft for."""
    rounds = scheduler._rounds
    away = {
        (stream.phase.round_id, stream.spec.stream_id)
        for stream in scheduler.streams()
        if isinstance(stream.phase, Drafting | Verifying)
    }
    assert away == {(number, s) for number, r in rounds.items() for s in r.stream_ids}
    asked = Counter(name for r in rounds.values() for name in r.shares)
    assert asked == +Counter({node.name: node.num_waiting for node in scheduler._drafts})
    for current in rounds.values():
        is_verifying = [
            isinstance(scheduler.stream(s).phase, Verifying)  # type: ignore[union-attr]
            for s in current.stream_ids
        ]
        assert set(is_verifying) == {current.is_verifying}
        assert not (current.is_verifying and current.shares)


def check_credits(coordinator: Coordinator) -> None:
    credits = coordinator._credits
    assert all(0 <= each.left <= each.size for each in credits._windows.values())
    assert all(each.answer_bytes >= 0 for each in credits._windows.values())


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
    assert state._draft_load.totals == {}
    assert state._uploads.num_under_way == 0
    for scheduler in state.schedulers:
        assert scheduler.num_streams == 0
        assert scheduler._rounds == {} == scheduler._membership.ended
        assert scheduler._lookup is None or scheduler._lookup._texts == {}
        assert all(node.num_waiting == node.num_streams == 0 for node in scheduler._drafts)
