"""Writes a small Qwen 3.5 of random weights: recurrent layers, one of attention, and a head."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.engine.kernels.tiny_models import Shape, metadata_of, write_file

_SHAPE = Shape(width=256, heads=2, kv_heads=2, head_size=128, feed_forward=384)
_INNER, _GROUPS, _STATE = 256, 2, 128


def write_model_with_head(path: Path, num_groups: int = 1) -> None:
    """Write it as a GGUF file in Q8_0. num_groups: of four layers, of which one is of attention."""
    # The head is a layer behind them.
    head = 4 * num_groups
    recurrent = [layer for layer in range(head) if layer % 4 < 3]
    attention = [*range(3, head, 4), head]
    draw, width, vocab = np.random.default_rng(3), _SHAPE.width, 300

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (draw.standard_normal((rows, columns)) * columns**-0.5).astype(np.float32)

    def norm(size: int = width) -> np.ndarray:
        return (1 + draw.standard_normal(size) / 10).astype(np.float32)

    metadata = metadata_of(replace(_SHAPE, layers=head + 1), "qwen35") | {
        "qwen35.nextn_predict_layers": 1,
        "qwen35.full_attention_interval": 4,
        "qwen35.rope.dimension_sections": [16, 16, 16, 16],
        "qwen35.ssm.inner_size": _INNER,
        "qwen35.ssm.conv_kernel": 4,
        "qwen35.ssm.state_size": _STATE,
        "qwen35.ssm.time_step_rank": _GROUPS,
        "qwen35.ssm.group_count": _GROUPS,
    }
    mixed = _INNER + 2 * _GROUPS * _STATE
    heads = _SHAPE.heads * _SHAPE.head_size
    tensors = {
        "token_embd.weight": matrix(vocab, width),
        "output_norm.weight": norm(),
        "output.weight": matrix(vocab, width),
    }
    for layer in (*recurrent, *attention):
        block = f"blk.{layer}"
        tensors |= {
            f"{block}.attn_norm.weight": norm(),
            f"{block}.post_attention_norm.weight": norm(),
            f"{block}.ffn_gate.weight": matrix(_SHAPE.feed_forward, width),
            f"{block}.ffn_up.weight": matrix(_SHAPE.feed_forward, width),
            f"{block}.ffn_down.weight": matrix(width, _SHAPE.feed_forward),
        }
    for layer in recurrent:
        block = f"blk.{layer}"
        tensors |= {
            f"{block}.attn_qkv.weight": matrix(mixed, width),
            f"{block}.attn_gate.weight": matrix(_INNER, width),
            f"{block}.ssm_norm.weight": norm(_STATE),
            f"{block}.ssm_dt.bias": norm(_GROUPS),
            f"{block}.ssm_a": -norm(_GROUPS),
            f"{block}.ssm_conv1d.weight": matrix(mixed, 4),
            f"{block}.ssm_alpha.weight": matrix(_GROUPS, width),
            f"{block}.ssm_beta.weight": matrix(_GROUPS, width),
            f"{block}.ssm_out.weight": matrix(width, _INNER),
        }
    for layer in attention:
        block = f"blk.{layer}"
        tensors |= {
            # Queries and their gates.
            f"{block}.attn_q.weight": matrix(2 * heads, width),
            f"{block}.attn_k.weight": matrix(heads, width),
            f"{block}.attn_v.weight": matrix(heads, width),
            f"{block}.attn_output.weight": matrix(width, heads),
            f"{block}.attn_q_norm.weight": norm(_SHAPE.head_size),
            f"{block}.attn_k_norm.weight": norm(_SHAPE.head_size),
        }
    tensors |= {
        f"blk.{head}.nextn.eh_proj.weight": matrix(width, 2 * width),
        f"blk.{head}.nextn.enorm.weight": norm(),
        f"blk.{head}.nextn.hnorm.weight": norm(),
        f"blk.{head}.nextn.shared_head_norm.weight": norm(),
    }
    write_file(path, metadata, tensors, "Q8_0")
