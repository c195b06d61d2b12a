"""The states that libllama gives of sequences, whole or of their recurrent layers alone."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from airdraft.nodes.engine.cores import available_memory
from airdraft.nodes.engine.llama_abi import metadata_of, take_last_error
from airdraft.nodes.engine.llama_batch import PassBatch
from airdraft.nodes.engine.protocol import Bytes, EngineError, Span

logger = logging.getLogger(__name__)

# No text reaches this position. If a sequence is copied from here on, libllama copies no cells of
# attention, but always the state, since one state is of all positions. A copy shares the state, and
# the next pass writes the new state elsewhere, so neither costs time.
_BEYOND: Final = 1 << 30
# llama.h: LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY, the state without the cells of attention.
_STATE_ALONE: Final = 1
_WHOLE: Final = 0
# libllama ends the process if a part of a sequence of DeepSeek V4 is copied.
_ONE_STATE_ONLY: Final = "deepseek4"


# Second states take at most this share of the free memory: prefixes of texts need some, too.
_MOST_OF_FREE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Probed:
    """What is found out by running some tokens.

    can_cut: Whether the last position of a sequence can be removed, which recurrent models cannot
    do. state_bytes, cell_bytes: The memory of a sequence's state, and of one of its cells.
    """

    can_cut: bool
    state_bytes: int
    cell_bytes: int


def probe(llama: Any, context: Any, batch: PassBatch, name: str) -> Probed:
    """Run some tokens in an empty context, which is empty again afterwards.

    batch: For two tokens at least. name: The file's. Raises EngineError.
    """
    sizes = list[int]()
    for start in (0, 2):
        batch.fill([Span(0, start, (0, 0))])
        if llama.llama_decode(context, batch.native) != 0:
            raise EngineError(f"{name} cannot run two tokens: {take_last_error()}")
        sizes.append(int(llama.llama_state_seq_get_size(context, 0)))
    state_bytes = int(llama.llama_state_seq_get_size_ext(context, 0, _STATE_ALONE))
    memory = llama.llama_get_memory(context)
    can_cut = bool(llama.llama_memory_seq_rm(memory, 0, 3, -1))
    llama.llama_memory_clear(memory, True)
    return Probed(can_cut, state_bytes, (sizes[1] - sizes[0]) // 2)


def can_be_kept(llama: Any, model: Any, num_states: int, state_bytes: int) -> bool:
    """Whether a model has states and memory is left for so many more; says so in the log."""
    has_states = llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model)
    if not has_states or metadata_of(model, "general.architecture") == _ONE_STATE_ONLY:
        return False
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
        self.context = context
        self._first = first

    def keep(self, seq_id: int) -> None:
        """Keep the state of a sequence as it is now, in place of the one kept before."""
        self._copy(seq_id, self._first + seq_id)

    def put_back(self, seq_id: int) -> None:
        """Give a sequence its kept state."""
        self._copy(self._first + seq_id, seq_id)

    def _copy(self, source: int, target: int) -> None:
        memory = self._llama.llama_get_memory(self.context)
        self._llama.llama_memory_seq_cp(memory, source, target, _BEYOND, -1)

    def save(self, seq_ids: Iterable[int]) -> dict[int, Bytes]:
        """Returns copies of the kept states of some sequences in host memory."""
        return {
            seq_id: saved_state(self._llama, self.context, self._first + seq_id, _STATE_ALONE)
            for seq_id in seq_ids
        }

    def restore(self, states: dict[int, Bytes]) -> None:
        for seq_id, state in states.items():
            spare = self._first + seq_id
            read_state(self._llama, self.context, spare, state, _STATE_ALONE)


def saved_state(llama: Any, context: Any, seq_id: int, flags: int = _WHOLE) -> Bytes:
    """Returns a copy of a sequence's state in host memory. Raises EngineError."""
    size = llama.llama_state_seq_get_size_ext(context, seq_id, flags)
    state = np.empty(size, np.uint8)
    written = llama.llama_state_seq_get_data_ext(
        context, _pointer_to(state), len(state), seq_id, flags
    )
    if written == 0:
        raise EngineError(f"sequence {seq_id} could not be saved: {take_last_error()}")
    return state[:written]


def read_state(llama: Any, context: Any, seq_id: int, state: Bytes, flags: int = _WHOLE) -> None:
    """Give a sequence a saved state. Raises EngineError."""
    read = llama.llama_state_seq_set_data_ext(
        context, _pointer_to(state), len(state), seq_id, flags
    )
    if read != len(state):
        raise EngineError(f"sequence {seq_id} could not be restored: {take_last_error()}")


def saved_states(llama: Any, context: Any, lengths: Sequence[int]) -> dict[int, Bytes]:
    """Returns copies of all sequences that have positions. lengths: Those of all sequences."""
    alive = (seq_id for seq_id, length in enumerate(lengths) if length)
    return {seq_id: saved_state(llama, context, seq_id) for seq_id in alive}


def read_states(llama: Any, context: Any, states: Mapping[int, Bytes]) -> None:
    for seq_id, state in states.items():
        read_state(llama, context, seq_id, state)


def _pointer_to(state: Bytes) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
