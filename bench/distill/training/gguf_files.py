"""Reading a target's embedding and writing a draft, with the target's vocabulary, as GGUF."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from bench.distill.training.model import DraftModel
from nodes.engine.llama_abi import library, take_last_error
from nodes.engine.protocol import EngineError
from policies.acceptance import CALIBRATION_KEY

_EMBEDDING = "token_embd.weight"
# Drafts stand on the shoulders of the target's tokenizer: every key of it is copied.
_COPIED_PREFIX = "tokenizer."


def read_embedding(path: Path) -> npt.NDArray[np.float32]:
    """(vocab, width) float32 rows of a GGUF's token embedding."""
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == _EMBEDDING:
            rows = gguf.dequantize(tensor.data, tensor.tensor_type)
            return np.array(rows, dtype=np.float32)
    raise EngineError(f"{path} has no {_EMBEDDING}: it is not a model of a known kind")


def write_draft(
    model: DraftModel,
    target: Path,
    out: Path,
    *,
    name: str,
    licence: str,
    dtype: type[np.floating[Any]] = np.float32,
    calibration: str = "",
) -> None:
    """Write a model in float32 or float16; norms stay float32, the head is the embedding.

    calibration: of its confidence, as policies.acceptance writes it.
    """
    shape = model.shape
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name(name)
    writer.add_license(licence)
    writer.add_block_count(shape.num_layers)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.num_hidden)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_heads)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.num_vocab)
    if calibration:
        writer.add_string(CALIBRATION_KEY, calibration)
    _copy_vocabulary(gguf.GGUFReader(target), writer)
    for parameter_name, parameter in model.named_parameters():
        values = parameter.detach().float().numpy()
        # A matrix may be smaller in the file, a norm must be float32.
        writer.add_tensor(parameter_name, values.astype(dtype) if values.ndim == 2 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_vocabulary(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for field in reader.fields.values():
        if not field.name.startswith(_COPIED_PREFIX):
            continue
        kind = field.types[0]
        if kind == gguf.GGUFValueType.ARRAY:
            writer.add_key_value(field.name, field.contents(), kind, sub_type=field.types[-1])
        else:
            writer.add_key_value(field.name, field.contents(), kind)


def quantise_draft(source: Path, out: Path, *, embedding: str, layers: str) -> None:
    """Quantise a draft: types by their GGML names, for the embedding and for the layers."""
    llama = library()
    params = llama.llama_model_quantize_default_params()
    types = {name: gguf.GGMLQuantizationType[name].value for name in (embedding, layers)}
    params.ftype = gguf.LlamaFileType[f"MOSTLY_{layers}"].value
    params.nthread = 1
    # Without `pure` libllama would pick other types for some tensors.
    params.pure = True
    params.token_embedding_type = types[embedding]
    params.output_tensor_type = types[embedding]
    take_last_error()
    code = llama.llama_model_quantize(os.fsencode(source), os.fsencode(out), ctypes.byref(params))
    if code != 0:
        reason = take_last_error() or "libllama gave no reason"
        raise EngineError(f"cannot quantise {source}: {reason}")
