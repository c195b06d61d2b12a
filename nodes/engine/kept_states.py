"""The states that libllama keeps of sequences whose models have recurrent layers."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from airdraft.nodes.engine.cores import available_memory
from airdraft.nodes.engine.protocol import Bytes, EngineError

logger = logging.getLogger(__name__)

# No text reaches this position. If a sequence is copied from here on, libllama copies no cells of
# attention, but always the state, since one state is of all positions. A copy shares the state, and
# the next pass writes the new state elsewhere, so neither costs time.
_BEYOND: Final = 1 << 30
# llama.h: LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY, the state without the cells of attention.
_STATE_ALONE: Final = 1


# Second states take at most this share of the free memory: prefixes of texts need some, too.
_MOST_OF_FREE: Final = 0.5


def have_room(num_states: int, state_bytes: int) -> bool:
    """Whether memory is left for so many states; says so in the log."""
    wanted, free = num_states * state_bytes, available_memory()
    told = num_states, wanted / 1e6, free / 1e6
    if wanted > _MOST_OF_FREE * free:
        logger.warning(
            "no guesses: second states of %d streams take %.0f MB, and %.0f MB are free; "
            "lower engine.max_streams, or free memory",
            *told,
        )
        return False
    logger.info("second states of %d streams take %.0f MB of %.0f MB that are free", *told)
    return True


class KeptStates:
    """One kept state for each of max_sequences, in spare sequences behind `first`."""

    def __init__(self, llama: Any, context: Any, first: int) -> None:
        self._llama = llama
        self._context = context
        self._memory = llama.llama_get_memory(context)
        self._first = first

    def keep(self, seq_id: int) -> None:
        """Keep the state of a sequence as it is now, in place of the one kept before."""
        self._copy(seq_id, self._first + seq_id)

    def put_back(self, seq_id: int) -> None:
        """Give a sequence its kept state."""
        self._copy(self._first + seq_id, seq_id)

    def _copy(self, source: int, target: int) -> None:
        self._llama.llama_memory_seq_cp(self._memory, source, target, _BEYOND, -1)

    def save(self, seq_ids: Iterable[int]) -> dict[int, Bytes]:
        """Returns copies of the kept states of some sequences in host memory."""
        return {seq_id: self._saved(self._first + seq_id) for seq_id in seq_ids}

    def _saved(self, spare: int) -> Bytes:
        state = np.empty(state_size(self._llama, self._context, spare), np.uint8)
        self._llama.llama_state_seq_get_data_ext(
            self._context, pointer_to(state), len(state), spare, _STATE_ALONE
        )
        return state

    def restore(self, states: dict[int, Bytes]) -> None:
        for seq_id, state in states.items():
            read = self._llama.llama_state_seq_set_data_ext(
                self._context, pointer_to(state), len(state), self._first + seq_id, _STATE_ALONE
            )
            if read != len(state):
                raise EngineError(f"the kept state of sequence {seq_id} could not be restored")


def state_size(llama: Any, context: Any, seq_id: int) -> int:
    """Returns the bytes of a sequence's state, without its cells of attention."""
    return int(llama.llama_state_seq_get_size_ext(context, seq_id, _STATE_ALONE))


def pointer_to(state: Bytes) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
