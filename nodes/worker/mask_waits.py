"""How an engine's passes deal with masks of grammars that are not there yet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from airdraft.nodes.engine.masks import AT_ONCE, MaskService
from airdraft.nodes.engine.sampler import Sampler

# All streams of a pass wait this long for the masks of some of them, as a part of the last pass's
# time: a quarter leaves room below the half by which nobody may slow others. Masks are computed
# while a pass runs, so this is needed only where passes are as short as masks.
_PART_OF_PASS: Final = 0.25


class MaskWaits:
    """Streams whose masks are slow sit passes out; fast ones are waited for a little.

    service: computes masks. can_take_back: of the engine. If it cannot run a token again, a stream
    has to have its mask before the pass.
    """

    def __init__(self, *, can_take_back: bool, service: MaskService = AT_ONCE) -> None:
        self.service = service
        self._can_take_back = can_take_back
        # Seconds of the last pass.
        self.pass_s = 0.0

    def sits_out(self, sampler: Sampler) -> bool:
        """Whether a stream is not in the next pass. The engine is woken when its mask comes."""
        grammar = sampler.grammar
        if grammar is None or (self._can_take_back and not grammar.is_slow):
            return False
        return grammar.await_next()

    def settle(self, samplers: Iterable[Sampler]) -> None:
        """Wait a little for the masks that the streams of a pass need, but not for slow ones."""
        grammars = (sampler.grammar for sampler in samplers)
        fast = [grammar for grammar in grammars if grammar is not None and not grammar.is_slow]
        self.service.settle(fast, _PART_OF_PASS * self.pass_s)
