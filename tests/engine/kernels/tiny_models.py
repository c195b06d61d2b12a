"""Writes small models of random weights in any format, including those no catalogue model has."""

import ctypes
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from airdraft.nodes.engine.llama_abi import kernels, library

_ALIGNMENT = 32
_NUM_VOCAB = 300
# The tokens that a short convolution sees.
_CONVOLVED = 3
# llama.h: files "mostly" of that format; which tensor gets which is llama.cpp's business.
FILE_TYPES = {
    "F16": 1,
    "Q4_0": 2,
    "Q8_0": 7,
    "Q5_0": 8,
    "IQ4_NL": 25,
    "Q4_K_M": 15,
    "Q5_K_M": 17,
    "Q6_K": 18,
}


@dataclass(frozen=True)
class Shape:
    """num_vocab, 300, is no multiple of the sixteen rows that lie side by side."""

    width: int
    heads: int
    kv_heads: int
    head_size: int
    feed_forward: int
    layers: int = 2


SHAPES = {
    # K-quants throughout, and heads of 128 that share keys six to one.
    "width 512": Shape(512, 6, 1, 128, 768),
    # 896 is no multiple of 256: K-quant files have other formats there.
    "width 896": Shape(896, 14, 2, 64, 1056),
}


def write_model(
    path: Path,
    shape: Shape,
    file_type: str,
    *,
    architecture: str = "llama",
    pooling: int = 0,
    window: int = 0,
    is_hybrid: bool = False,
    has_factors: bool = False,
    template: str = "",
) -> None:
    """Write a model of that shape as a GGUF file of that type.

    pooling: how it makes vectors of texts, as llama.h numbers it; 0 for a model that does not.
    window: the tokens that attention sees in a model of Cohere's; 0 for all. is_hybrid: every other
    layer is recurrent, as in LFM2. has_factors: matrices have a scale beside them, as those of
    BitNet have. template: the chat template, if it has one.
    """
    metadata, tensors = metadata_of(shape, architecture), _tensors(shape)
    if template:
        metadata["tokenizer.chat_template"] = template
    if pooling:
        metadata[f"{architecture}.pooling_type"] = pooling
    if has_factors:
        factors = [name.replace(".weight", ".scale") for name in tensors if ".ffn_up." in name]
        tensors |= {name: np.full(1, 0.5, dtype=np.float32) for name in factors}
    if window:
        metadata |= {
            f"{architecture}.attention.sliding_window": window,
            f"{architecture}.attention.layer_norm_epsilon": 1e-5,
            f"{architecture}.logit_scale": 1.0,
        }
        # Its output layer is its embedding, and it has one norm a layer.
        tensors = {n: t for n, t in tensors.items() if n != "output.weight" and "ffn_norm" not in n}
    if is_hybrid:
        metadata, tensors = _hybrid(shape, metadata, tensors)
    write_file(path, metadata, tensors, file_type)


def write_file(
    path: Path, metadata: dict[str, Any], tensors: dict[str, np.ndarray], file_type: str
) -> None:
    # libllama crashes in loading a model if the kernels are registered after another was loaded.
    kernels()
    plain = path.with_suffix(".f32")
    plain.write_bytes(_gguf(metadata, tensors))
    llama = library()
    params = llama.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[file_type]
    params.nthread = 1
    code = llama.llama_model_quantize(os.fsencode(plain), os.fsencode(path), ctypes.byref(params))
    plain.unlink()
    assert code == 0


def write_header(path: Path, metadata: dict[str, Any]) -> None:
    """A file without tensors."""
    path.write_bytes(_gguf(metadata, {}))


def metadata_of(shape: Shape, architecture: str) -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [f"word{n}" for n in range(_NUM_VOCAB - len(tokens))]
    # Unknown, control, bytes, normal ones.
    kinds = [2, 3, 3, *[6] * 256, *[1] * (_NUM_VOCAB - 259)]
    return {
        "general.architecture": architecture,
        "general.alignment": _ALIGNMENT,
        f"{architecture}.context_length": 4096,
        f"{architecture}.embedding_length": shape.width,
        f"{architecture}.block_count": shape.layers,
        f"{architecture}.feed_forward_length": shape.feed_forward,
        f"{architecture}.attention.head_count": shape.heads,
        f"{architecture}.attention.head_count_kv": shape.kv_heads,
        f"{architecture}.attention.key_length": shape.head_size,
        f"{architecture}.attention.value_length": shape.head_size,
        f"{architecture}.rope.dimension_count": shape.head_size,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * _NUM_VOCAB,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def _tensors(shape: Shape) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(shape.width)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (draw.standard_normal((rows, columns)) * columns**-0.5).astype(np.float32)

    def norm() -> np.ndarray:
        return (1 + draw.standard_normal(shape.width) / 10).astype(np.float32)

    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    out = {
        "token_embd.weight": matrix(_NUM_VOCAB, shape.width),
        "output_norm.weight": norm(),
        "output.weight": matrix(_NUM_VOCAB, shape.width),
    }
    for layer in range(shape.layers):
        sizes = {
            "attn_q": (queries, shape.width),
            "attn_k": (keys, shape.width),
            "attn_v": (keys, shape.width),
            "attn_output": (shape.width, queries),
            "ffn_gate": (shape.feed_forward, shape.width),
            "ffn_up": (shape.feed_forward, shape.width),
            "ffn_down": (shape.width, shape.feed_forward),
        }
        out |= {f"blk.{layer}.{name}.weight": matrix(*size) for name, size in sizes.items()}
        out |= {f"blk.{layer}.{name}.weight": norm() for name in ("attn_norm", "ffn_norm")}
    return out


def _hybrid(
    shape: Shape, metadata: dict[str, Any], tensors: dict[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The same model as an LFM2 whose even layers are short convolutions."""
    draw, width = np.random.default_rng(1), shape.width
    named = {key.replace("llama.", "lfm2."): value for key, value in metadata.items()}
    named |= {
        "general.architecture": "lfm2",
        "lfm2.shortconv.l_cache": _CONVOLVED,
        "lfm2.attention.head_count_kv": [shape.kv_heads * (n % 2) for n in range(shape.layers)],
    }
    out = {n.replace("output_norm", "token_embd_norm"): t for n, t in tensors.items()}
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        if layer % 2:
            norm = np.ones(shape.head_size, dtype=np.float32)
            out |= {f"{block}.attn_{name}_norm.weight": norm for name in "qk"}
            continue
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            del out[f"{block}.{name}.weight"]
        sizes = {
            "conv": (width, _CONVOLVED),
            "in_proj": (3 * width, width),
            "out_proj": (width, width),
        }
        for name, (rows, columns) in sizes.items():
            weights = draw.standard_normal((rows, columns)) * columns**-0.5
            out[f"{block}.shortconv.{name}.weight"] = weights.astype(np.float32)
    return named, out


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _value(value: Any) -> bytes:
    """Its type, as GGUF numbers them, and the value itself."""
    match value:
        case str():
            return struct.pack("<I", 8) + _string(value)
        case float():
            return struct.pack("<If", 6, value)
        case int():
            return struct.pack("<II", 4, value)
    # Whole numbers of a list are signed.
    kind = {str: 8, float: 6, int: 5}[type(value[0])]
    return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(_value(item)[4:] for item in value)


def _gguf(metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> bytes:
    """A file of version 3 with tensors of 32-bit floats."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    head += b"".join(_string(key) + _value(value) for key, value in metadata.items())
    body = b""
    for name, tensor in tensors.items():
        sizes = struct.pack(f"<{tensor.ndim}Q", *reversed(tensor.shape))
        head += _string(name) + struct.pack("<I", tensor.ndim) + sizes
        head += struct.pack("<IQ", 0, len(body))
        body += tensor.tobytes() + bytes(-tensor.nbytes % _ALIGNMENT)
    return head + bytes(-len(head) % _ALIGNMENT) + body
