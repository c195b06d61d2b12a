"""Loads the compiled kernels, checks them, and registers them with llama.cpp."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

PATH = Path(__file__).parent / "libairdraft-kernels.so"
# Switches the tiles in ggml's kernels, which compute the types that ours do not. Tiles add up in
# another order, so a row's result would depend on the number of rows.
_TILES = "GGML_CPU_TILED_MM"
# The name of an instruction set, or "none" for ggml's kernels, for comparisons and debugging.
VARIABLE = "AIRDRAFT_KERNELS"
_BUILD = "python -m airdraft.nodes.engine.kernels.build"


@dataclass(frozen=True, slots=True)
class Kernels:
    """The registered kernels.

    name: The instruction set. missing: Why there are no kernels; "" if there are.
    """

    name: str
    missing: str = ""


@functools.cache
def library() -> ctypes.CDLL | None:
    """Load the library; None if it is not built, or for another machine or an older airdraft."""
    if not PATH.is_file():
        return None
    try:
        found = ctypes.CDLL(str(PATH))
        found.airdraft_built_for.restype = ctypes.c_char_p
        found.airdraft_register.restype = ctypes.c_char_p
        found.airdraft_register.argtypes = [ctypes.c_char_p, ctypes.c_bool]
        found.airdraft_limit_output.argtypes = [ctypes.c_int]
        found.airdraft_left_attention.restype = ctypes.c_bool
        found.airdraft_take_rows.restype = ctypes.c_bool
    except (OSError, AttributeError) as error:
        logger.warning("the kernels cannot be used, `%s` builds them again: %s", _BUILD, error)
        return None
    return found


def limit_output(num_tokens: int) -> None:
    """Let the next passes of this process compute the logits of the first num_tokens tokens only.

    0 stands for all tokens. The logits of the others become -1e30.
    """
    found = library()
    if found is not None:
        found.airdraft_limit_output(num_tokens)


def rows_callback() -> Any:
    """Returns what takes the rows of a stage out of its passes; None without kernels."""
    found = library()
    return found.airdraft_take_rows if found is not None else None


def left_attention() -> bool:
    """Whether passes of this process since the last call had attention that ggml computed.

    Our kernels lack some forms of it, such as heads of 80 columns or a limit on scores.
    """
    found = library()
    return found is not None and bool(found.airdraft_left_attention())


def built_for() -> str:
    """Returns the version of llama-cpp-python that the library fits; "" if there is none."""
    found = library()
    return found.airdraft_built_for().decode() if found is not None else ""


_registered: Kernels | None = None


def register(version: str, *, kernels: str = "", keeps_others: bool = False) -> Kernels:
    """Make llama.cpp use the kernels for models that this process loads from now on.

    Only the first call in a process has an effect. version: That of llama-cpp-python, whose
    libraries must be loaded. kernels: The instruction set, or "none"; "" for the one that
    AIRDRAFT_KERNELS names, or otherwise the best of this CPU. keeps_others: Whether weights of
    other types may have ggml's own layouts, which are fast, but whose results depend on the batch.
    """
    global _registered
    if _registered is None:
        _registered = _register(version, kernels, keeps_others)
    return _registered


def _register(version: str, kernels: str, keeps_others: bool) -> Kernels:
    if not keeps_others:
        os.environ.setdefault(_TILES, "0")
    kernels = kernels or os.environ.get(VARIABLE, "")
    if kernels == "none":
        return Kernels("", "switched off")
    found = library()
    if found is None:
        return Kernels("", f"not built for this machine: `{_BUILD}`")
    if built_for() != version:
        return Kernels("", f"built for llama-cpp-python {built_for()}, not {version}: build again")
    name = found.airdraft_register(kernels.encode(), keeps_others)
    if name is None:
        return Kernels("", f"no kernels {kernels!r} for this processor and this build of llama.cpp")
    logger.debug("kernels for %s", name.decode())
    return Kernels(name.decode())
