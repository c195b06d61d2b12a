"""The messages of the wire protocol, from their declarations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Final, get_args, get_origin, get_type_hints

import airdraft.nodes.messages as of_nodes
from airdraft.mesh.messages import (
    MAX_TAG,
    Bye,
    EnrolReply,
    MaxLen,
    MessageSpec,
    Ping,
    Pong,
    Range,
    Refuse,
    Welcome,
    spec_of_tag,
)
from airdraft.mesh.schema import TokenIdsMarker, unwrapped
from airdraft.nodes.coordinator.dispatch import kinds_of
from airdraft.nodes.messages.access import Role
from bench.pages.markdown import code, item, number, table

_ALL: Final = "all members"
# What the coordinator sends, by who takes it; who sends what to the coordinator is declared in
# nodes.coordinator.dispatch.
_TAKERS: Final[dict[type, str]] = {
    **dict.fromkeys((Welcome, Refuse, Ping, Pong, Bye, EnrolReply), _ALL),
    **dict.fromkeys((of_nodes.OpenStreamRequest, of_nodes.CloseStreamNotice), "target, draft"),
    of_nodes.TokenizeRequest: "target",
    of_nodes.LeaseRequest: "target",
    of_nodes.ProbeRequest: "target",
    of_nodes.GuessNotice: "target",
    of_nodes.HoldNotice: "target",
    of_nodes.CommitNotice: "draft",
    of_nodes.NodeCommandReply: "admin",
    **dict.fromkeys(
        (
            of_nodes.StartedNotice,
            of_nodes.TokensNotice,
            of_nodes.OutputNotice,
            of_nodes.FinishedNotice,
            of_nodes.RequestFailedNotice,
            of_nodes.NodesReply,
            of_nodes.PromptLogprobsNotice,
            of_nodes.UploadGrant,
            of_nodes.ReadNotice,
        ),
        "client, gateway, admin",
    ),
    of_nodes.StatusReply: "gateway, admin",
    of_nodes.TraceReply: "admin",
    of_nodes.StagesReply: "target",
    of_nodes.StageUserNotice: "stage",
    of_nodes.OwnersNotice: "target",
}
# Bounds that many fields have, by the names that the page explains.
_NAMES: Final[dict[tuple[type, Any], str]] = {
    (int, Range(0, 2**63 - 1)): "id",
    (int, Range(0, 2**31 - 1)): "count",
    (int, Range(0, of_nodes.MAX_GAMMA)): "gamma",
}


# On the links between a target and its stages.
_BY_TARGETS: Final = frozenset(
    {
        *(of_nodes.StageOpenRequest, of_nodes.StagePassRequest),
        *(of_nodes.StageFactsRequest, of_nodes.StageFileReply),
    }
)
_OF_STAGES: Final = _BY_TARGETS | {
    *(of_nodes.StageOpenReply, of_nodes.StagePassReply),
    *(of_nodes.StageFactsReply, of_nodes.StageFileRequest),
}


def specs() -> Iterator[MessageSpec]:
    """Every message that is shipped, by its tag."""
    for tag in range(1, MAX_TAG + 1):
        spec = spec_of_tag(tag)
        # Tests declare some of their own.
        if spec is not None and spec.layout.cls.__module__.startswith("airdraft."):
            yield spec


def messages() -> str:
    head = ("tag", "message", "sent by", "sent to", "frame 0, bytes", "token ids")
    return table(head, (_row(spec) for spec in specs()))


def _row(spec: MessageSpec) -> tuple[str, ...]:
    cls = spec.layout.cls
    roles = [str(role) for role in Role if cls in kinds_of(role)]
    senders = [_ALL] if len(roles) == len(Role) else roles
    takers = []
    if roles:
        takers.append("coordinator")
    if cls in _TAKERS:
        takers.append(_TAKERS[cls])
        senders = [*senders, "coordinator"]
    if cls in _OF_STAGES:
        senders, takers = (["target"], ["stage"]) if cls in _BY_TARGETS else (["stage"], ["target"])
    if not takers:
        raise LookupError(f"{cls.__name__}: say in {__name__} who is sent it")
    tokens = number(spec.max_tokens) if spec.max_tokens else ""
    cells = (str(spec.tag), code(cls.__name__), ", ".join(senders), ", ".join(takers))
    return (*cells, f"{spec.max_bytes:,}", tokens)


def fields() -> str:
    """The fields of each message, and of the structs in them."""
    structs = dict[type, None]()
    lines = [item(_fields_of(spec.layout.cls, structs)) for spec in specs()]
    # A Hello carries one packed, so that its declaration does not name it.
    structs.setdefault(of_nodes.EngineProfile)
    told = dict[type, str]()
    while rest := structs.keys() - told:
        told |= {cls: item(_fields_of(cls, structs)) for cls in rest}
    return "\n".join([*lines, "", "Structs:", "", *sorted(told.values())])


def _fields_of(cls: type, structs: dict[type, None]) -> str:
    hints = get_type_hints(cls, include_extras=True)
    said = [
        f"{code(field.name)} {_kind(hints[field.name], structs)}"
        for field in dataclasses.fields(cls)
    ]
    return f"**{cls.__name__}**: {', '.join(said)}."


def _kind(hint: Any, structs: dict[type, None]) -> str:
    hint, marks = unwrapped(hint)
    if TokenIdsMarker in marks:
        return "token frame"
    bounds = next(iter(marks.values()), None)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        most = f" of at most {number(bounds.n)}" if isinstance(bounds, MaxLen) else ""
        return f"list{most} ({_kind(arguments[0], structs)})"
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        structs.setdefault(hint)
        return hint.__name__
    if (hint, bounds) in _NAMES:
        return _NAMES[hint, bounds]
    if isinstance(bounds, MaxLen):
        return f"{hint.__name__} ≤ {number(bounds.n)}"
    if isinstance(bounds, Range):
        return f"{hint.__name__} {number(bounds.lo)} to {number(bounds.hi)}"
    return str(hint.__name__)
