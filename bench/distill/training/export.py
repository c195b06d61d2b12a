"""The step `export`: a checkpoint as a GGUF, with how far its confidence can be trusted."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_abi import hash_file, library, take_last_error
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.protocol import EngineError
from airdraft.policies.acceptance import CALIBRATION_KEY
from bench.decoding import guesses_of
from bench.distill.report import Reporter
from bench.distill.sampling.answers import AnswerFolder
from bench.distill.training.bins import binned, calibration_json
from bench.distill.training.data import split_answers
from bench.distill.training.model import DraftModel
from bench.distill.training.train import load_draft

# Drafts stand on the shoulders of the target's tokenizer: every key of it is copied.
_COPIED_PREFIX = "tokenizer."
# Of each folder.
_MAX_ANSWERS = 160
# The embedding has the type that it was trained for.
EMBEDDING, LAYERS = "Q4_0", "Q6_K"


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


def export_draft(
    target: Path, run: Path, out: Path, *, answers: Sequence[Path], name: str, licence: str
) -> str:
    """The checkpoint of a training folder as a quantised GGUF.

    answers: where there are any, those held out of training calibrate the draft's confidence.
    """
    model = load_draft(run)
    whole = out.with_suffix(".f16.gguf")
    out.parent.mkdir(parents=True, exist_ok=True)

    def write(calibration: str) -> None:
        write_draft(
            model,
            target,
            whole,
            name=name,
            licence=licence,
            dtype=np.float16,
            calibration=calibration,
        )
        quantise_draft(whole, out, embedding=EMBEDDING, layers=LAYERS)
        whole.unlink()

    write("")
    said = ""
    if answers:
        # The file as it will be used is what is calibrated: quantisation is part of it.
        calibration, said = _calibration(out, answers)
        write(calibration)
    return f"{out}: {out.stat().st_size} bytes, SHA-256 {hash_file(out)}{said}"


def _calibration(draft: Path, folders: Sequence[Path]) -> tuple[str, str]:
    """What the draft's file shall say: how sure it is of its guesses, and how often rightly.

    Returns with it the shares of guesses that were right, in words.
    """
    chosen = [
        answer
        for folder in folders
        for answer in split_answers([AnswerFolder(folder)])[1][:_MAX_ANSWERS]
    ]
    if not chosen:
        raise EngineError("no answers are held out: sample more of them")
    # Confidences, and whether the guesses were right: of greedy answers, and of sampled ones.
    found: tuple[tuple[list[float], list[bool]], ...] = (([], []), ([], []))
    config = LlamaConfig(path=draft, num_cells=2048, max_sequences=1)
    with contextlib.closing(LlamaModel(config)) as model, Reporter() as reporter:
        for done, answer in enumerate(chosen, 1):
            output_ids = answer.answer_ids.tolist()
            asked = answer.prompt_ids.tolist(), output_ids, answer.sampling
            token_ids, shares, _ = guesses_of(model, *asked)
            confidences, are_right = found[answer.temperature > 0]
            confidences += shares
            are_right += [a == b for a, b in zip(token_ids, output_ids, strict=True)]
            reporter("guesses of held-out answers", done, len(chosen))
    greedy, sampled = (sum(right) / max(1, len(right)) for _, right in found)
    said = f"; accepted of held-out answers: {greedy:.3f} greedy, {sampled:.3f} sampled"
    return calibration_json(*(binned(*each) for each in found)), said
