"""llama.cpp's server of the wheel xllamacpp, as a process with its settings as JSON."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any


def main(settings: dict[str, Any]) -> None:
    """Serve until a signal ends the process."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["target"]
    params.hostnames = ["127.0.0.1"]
    params.port = settings["port"]
    params.n_parallel = settings["num_slots"]
    params.n_ctx = settings["num_cells"]
    params.cpuparams.n_threads = settings["num_threads"]
    params.cpuparams_batch.n_threads = settings["num_threads"]
    kinds = xllamacpp.common_speculative_type
    if settings["mode"] == "draft":
        params.speculative.draft.mparams.path = settings["draft"]
        params.speculative.draft.n_max = settings["num_guesses"]
        params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
    elif settings["mode"] == "ngram":
        params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
    _server = xllamacpp.Server(params)
    signal.pause()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
