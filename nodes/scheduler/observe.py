"""What a policy is told: the scheduler's streams and nodes as numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from nodes.messages import CommitEntry, GuessEntry
from nodes.scheduler.drafting.drafts import DraftPool
from nodes.scheduler.stream import Opening, Stream
from nodes.scheduler.target import TargetCosts
from policies.plan import Observation


def used_cells(streams: Collection[Stream]) -> int:
    """Cells of the target's cache that streams occupy."""
    return sum(len(stream.token_ids) for stream in streams)


def own_cells(streams: Collection[Stream]) -> float:
    """Cells of the target's cache that a stream has, on average."""
    return used_cells(streams) / max(1, len(streams))


def pass_size(entries: Iterable[CommitEntry | GuessEntry]) -> tuple[int, float]:
    """Tokens of a target pass, and the cells of its own stream that one has, on average."""
    num_tokens, attended = 0, 0
    for entry in entries:
        num_tokens += entry.num_draft_tokens + 1
        attended += (entry.num_draft_tokens + 1) * entry.prefix_len
    return num_tokens, attended / max(1, num_tokens)


def unread(streams: Iterable[Stream]) -> list[int]:
    """Lengths of the texts that the target has yet to read."""
    return [len(stream.token_ids) for stream in streams if isinstance(stream.phase, Opening)]


def cells_of_unread(streams: Collection[Stream]) -> float:
    """Cells of its own text that a piece of a prompt attends to, on average; 0.0 without prompts.

    A piece is as often near the end of its text as near the beginning.
    """
    lengths = unread(streams)
    return sum(lengths) / len(lengths) / 2 if lengths else 0.0


def observe(
    streams: Collection[Stream],
    drafts: DraftPool,
    target: TargetCosts | None,
    now: float,
    *,
    is_ahead: bool = False,
) -> Observation:
    """All streams that the target has read, and what passes and draft nodes cost now.

    is_ahead: those that it has yet to read, too.
    """
    num_ready = Counter[str]()
    for node in drafts:
        node.used_cells = node.num_unread = 0
        node.pace.forget(now)
    for stream in streams:
        placement = stream.draft
        if placement is None or stream.is_by_lookup:
            continue
        node = drafts[placement.node]
        if placement.is_ready:
            node.used_cells += len(stream.token_ids)
            num_ready[node.name] += 1
        else:
            node.num_unread += placement.known
    for node in drafts:
        node.own_cells = node.used_cells / max(1, num_ready[node.name])
    decoding = [s for s in streams if is_ahead or not isinstance(s.phase, Opening)]
    mean = own_cells(decoding)
    extra_s = {}
    if target is not None:
        extra_s = {s.spec.stream_id: target.extra_s(len(s.token_ids) - mean) for s in decoding}
    views, target_link = drafts.views(now)
    return Observation(
        streams=tuple(s.view(extra_s.get(s.spec.stream_id, 0.0)) for s in decoding),
        target=target.now(mean) if target is not None else None,
        drafts=views,
        used_cells=used_cells(streams),
        prefill_share=target.prefill_share(now) if target is not None else 0.0,
        target_link=target_link,
    )
