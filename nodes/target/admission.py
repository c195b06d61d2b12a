"""Which streams a target refuses."""

from __future__ import annotations

from nodes.engine.protocol import EngineInfo
from nodes.worker.stream import StreamSpec, cells_needed


def refusal(spec: StreamSpec, info: EngineInfo, num_streams: int) -> str:
    """Returns the reason why a stream cannot be served beside num_streams others, or ""."""
    if not spec.token_ids or not 0 < spec.num_prompt_tokens <= len(spec.token_ids):
        return "the prompt is empty"
    if max(spec.token_ids) >= info.num_vocab:
        return "the prompt has token ids outside the model's vocabulary"
    if num_streams >= info.max_sequences:
        return f"all {info.max_sequences} sequences of {info.model} are taken"
    needed = cells_needed(spec)
    if needed > info.num_cells:
        return f"the request needs {needed} cells, {info.model} has {info.num_cells}"
    return ""
