"""Verifies the numerics class of each target that joins with a probe. Pure.

The probe is the same for all targets of a model and numerics class, and cannot be known before the
coordinator has drawn its epoch. The first answer is the reference: a target of the class with
another answer is treated as one of another class.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from airdraft.mesh.latest import Latest
from airdraft.nodes.coordinator.members.record import TargetRecord
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.messages import APART, ProbeReply, ProbeRequest

logger = logging.getLogger(__name__)

# A probe may be lost although its link works; it is sent again after this time.
_ASK_AGAIN_S: Final = 5.0
# The limit for an answer, as a multiple of the progress timeout: a first pass may read the model
# from a slow disk.
_PATIENCE: Final = 2.0
_MAX_CLASSES: Final = 1024
_MAX_CLASS_CHARS: Final = 240
_NUM_DIGITS: Final = 8


class Challenges:
    """Sends probes and compares answers. epoch: the coordinator's, drawn at random."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        # The first answer, and the node that gave it, by model hash and class.
        self._first = Latest[tuple[str, str], tuple[str, str]](_MAX_CLASSES)

    def ask(self, node: TargetRecord, now: float) -> Send:
        """Returns the probe for a target, which gets no streams before it answers."""
        if node.unverified_since is None:
            node.unverified_since = now
        node.probed_at = now
        return Send(node.peer, ProbeRequest(self._seed(node)))

    def _seed(self, node: TargetRecord) -> int:
        profile = node.profile
        drawn = repr((self._epoch, profile.model_hash, profile.numerics_class)).encode()
        return int.from_bytes(hashlib.sha256(drawn).digest()[:8]) >> 1

    def answered(self, node: TargetRecord, reply: ProbeReply) -> bool:
        """Take a target's answer; False if it matches no outstanding probe.

        A target that does not promise equal bits is accepted with any answer.
        """
        if node.unverified_since is None or reply.seed != self._seed(node):
            return False
        node.unverified_since = None
        if node.profile.exact:
            self._compare(node, reply.digest)
        return True

    def _compare(self, node: TargetRecord, digest: str) -> None:
        profile = node.profile
        key = profile.model_hash, profile.numerics_class
        first, by = self._first[key] = self._first.get(key, (digest, node.name))
        if digest == first:
            return
        name = f"{profile.numerics_class[:_MAX_CLASS_CHARS]}{APART}{digest[:_NUM_DIGITS]}"
        logger.warning(
            "target %s computes other bits than %s although both declare class %s: "
            "it is treated as one of class %s",
            *(node.name, by, profile.numerics_class, name),
        )
        node.profile = replace(profile, numerics_class=name)

    def due(self, nodes: Iterable[TargetRecord], now: float) -> list[Send]:
        """Returns the probes to repeat to targets that have not answered for a while."""
        waiting = [node for node in nodes if node.unverified_since is not None]
        return [self.ask(node, now) for node in waiting if now - node.probed_at >= _ASK_AGAIN_S]

    def overdue(self, nodes: Iterable[TargetRecord], now: float) -> list[TargetRecord]:
        """Returns the targets whose answer is so late that they must leave."""
        return [
            node
            for node in nodes
            if node.unverified_since is not None
            and now - node.unverified_since > _PATIENCE * node.progress_timeout_s
        ]
