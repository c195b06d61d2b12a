"""What a target computes is asked, not believed: each one that joins answers a probe. Pure.

The first answer of a model and numerics class is what others of that class must answer, too: the
probe of a class is the same for all of them, and nobody knows it before this coordinator's epoch.
Who answers otherwise is of another class for all that the coordinator does.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.sends import Send
from nodes.messages import APART, ProbeReply, ProbeRequest

logger = logging.getLogger(__name__)

# A message may be lost on a link that lives.
_ASK_AGAIN_S: Final = 5.0
# Of the time after which a node without progress is gone: a first pass may read its model from a
# slow disk.
_PATIENCE: Final = 2.0
_MAX_CLASSES: Final = 1024
_MAX_CLASS_CHARS: Final = 240
_NUM_DIGITS: Final = 8


class Challenges:
    """epoch: of the coordinator, drawn at random when it started."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        # By model hash and class: the first answer, and who gave it.
        self._first: OrderedDict[tuple[str, str], tuple[str, str]] = OrderedDict()

    def ask(self, node: NodeRecord, now: float) -> Send:
        """Its probe, for a target that has just joined. It gets no streams before it answers."""
        node.unproved_since = now
        return self._ask(node, now)

    def _ask(self, node: NodeRecord, now: float) -> Send:
        node.probed_at = now
        return Send(node.peer, ProbeRequest(self._seed(node)))

    def _seed(self, node: NodeRecord) -> int:
        profile = node.profile
        drawn = repr((self._epoch, profile.model_hash, profile.numerics_class)).encode()
        return int.from_bytes(hashlib.sha256(drawn).digest()[:8]) >> 1

    def answered(self, node: NodeRecord, reply: ProbeReply) -> bool:
        """Take a target's answer; False if none, or another one, was asked for.

        A target that promises no equal bits is let in whatever they are.
        """
        if node.unproved_since is None or reply.seed != self._seed(node):
            return False
        node.unproved_since = None
        if node.profile.exact:
            self._compare(node, reply.digest)
        return True

    def _compare(self, node: NodeRecord, digest: str) -> None:
        profile = node.profile
        key = profile.model_hash, profile.numerics_class
        first, by = self._first.setdefault(key, (digest, node.name))
        self._first.move_to_end(key)
        if len(self._first) > _MAX_CLASSES:
            self._first.popitem(last=False)
        if digest == first:
            return
        name = f"{profile.numerics_class[:_MAX_CLASS_CHARS]}{APART}{digest[:_NUM_DIGITS]}"
        logger.warning(
            "target %s computes other bits than %s, although both say that they are of class %s: "
            "it is taken as one of class %s",
            *(node.name, by, profile.numerics_class, name),
        )
        node.profile = replace(profile, numerics_class=name)

    def due(self, nodes: Iterable[NodeRecord], now: float) -> list[Send]:
        """For targets that have not answered for a while: their probes again."""
        waiting = [node for node in nodes if node.unproved_since is not None]
        return [self._ask(node, now) for node in waiting if now - node.probed_at >= _ASK_AGAIN_S]

    def overdue(self, nodes: Iterable[NodeRecord], now: float) -> list[NodeRecord]:
        """Targets that have not answered for so long that they are to go."""
        return [
            node
            for node in nodes
            if node.unproved_since is not None
            and now - node.unproved_since > _PATIENCE * node.progress_timeout_s
        ]
