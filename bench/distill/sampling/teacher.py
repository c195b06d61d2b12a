"""A target of the `llama` architecture in torch, for sampling on processors without AMX.

Without AMX, float32 products of many rows sampled nearly twice as fast as libllama's of 8 bits. The
weights are the same, dequantised. Logits differ from libllama's by rounding, so an answer is the
target's, but not to the bit. It implements of the engine's protocol what the sampler uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench.decoding import tokenizer_of
from bench.distill.training.model import DraftModel, Shape, rotations
from nodes.engine.llama_abi import hash_file
from nodes.engine.protocol import EngineError, EngineInfo, InvalidInputError, Logits, Span


class TorchTarget:
    """Weights in float32 and a cache with room for `max_length` tokens of every sequence."""

    num_threads = 1

    def __init__(self, path: Path, *, max_sequences: int, max_length: int, threads: int) -> None:
        torch.set_num_threads(threads)
        reader = gguf.GGUFReader(path)
        shape, num_kv_heads = _read_shape(reader, path)
        weights = {
            tensor.name: torch.from_numpy(
                np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
            )
            for tensor in reader.tensors
        }
        self._model = DraftModel(shape, num_kv_heads=num_kv_heads)
        self._model.load_state_dict({name: weights[name] for name in self._model.state_dict()})
        self._head = weights.get("output.weight", weights["token_embd.weight"])
        cache = (shape.num_layers, max_sequences, num_kv_heads, max_length, shape.head_size)
        self._keys, self._values = torch.zeros(cache), torch.zeros(cache)
        self._lengths = [0] * max_sequences
        self._rotation = rotations(max_length, shape.head_size, shape.rope_base)
        self.tokenizer = tokenizer_of(path)
        self.info = EngineInfo(
            engine="torch",
            model=path.name,
            model_hash=hash_file(path),
            vocab_hash=self.tokenizer.content_hash(),
            num_vocab=self.tokenizer.num_vocab,
            num_cells=max_sequences * max_length,
            max_sequences=max_sequences,
            max_batch_tokens=max_length,
            context_length=max_length,
            eog_token_ids=self.tokenizer.eog_token_ids(),
            exact=False,
            numerics_class="torch",
            can_roll_back=True,
        )

    @torch.inference_mode()
    def forward(self, spans: Sequence[Span]) -> Logits:
        """One token of many sequences, or several of one; (rows, num_vocab) of the outputs."""
        if len(spans) > 1 and any(len(span.token_ids) != 1 for span in spans):
            raise InvalidInputError("one token of many sequences, or many tokens of one")
        count = len(spans[0].token_ids)
        seqs = torch.tensor([span.seq_id for span in spans])
        starts = torch.tensor([span.start for span in spans])
        ids = torch.tensor([span.token_ids for span in spans])
        x = self._model.token_embd(ids)
        places = starts[:, None] + torch.arange(count)
        rotation = self._rotation[:, places].unsqueeze(2)
        for index, layer in enumerate(self._model.blk):
            x = layer(x, rotation, partial(self._attend, index, seqs, places))
        for span in spans:
            self._lengths[span.seq_id] = span.start + count
        num_outputs = max(span.num_outputs for span in spans)
        if not num_outputs:
            return np.empty((0, self.info.num_vocab), dtype=np.float32)
        states = self._model.output_norm(x[:, count - num_outputs :])
        logits: Logits = (states.flatten(0, 1) @ self._head.T).numpy()
        return logits

    def _attend(
        self, layer: int, seqs: Tensor, places: Tensor, q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        """Put keys and values into a layer's cache, and attend to all that is there."""
        keys, values = self._keys[layer], self._values[layer]
        keys[seqs[:, None], :, places] = k.transpose(1, 2)
        values[seqs[:, None], :, places] = v.transpose(1, 2)
        mixed = []
        for row, seq_id in enumerate(seqs.tolist()):
            # A query sees itself and what is before. Slices of the cache are not copied.
            length = int(places[row, -1]) + 1
            sees = torch.arange(length) <= places[row, :, None]
            k, v = keys[seq_id, None, :, :length], values[seq_id, None, :, :length]
            mixed.append(
                scaled_dot_product_attention(q[row, None], k, v, attn_mask=sees, enable_gqa=True)
            )
        return torch.cat(mixed)

    def truncate(self, seq_id: int, length: int) -> None:
        self._lengths[seq_id] = length

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        for cache in (self._keys, self._values):
            cache[:, target, :, :length] = cache[:, source, :, :length]
        self._lengths[target] = length

    def shortest(self, seq_id: int) -> int:
        return 0

    def length(self, seq_id: int) -> int:
        return self._lengths[seq_id]

    def free_cells(self) -> int:
        return self.info.num_cells - sum(self._lengths)

    def close(self) -> None:
        del self._model, self._head


def _read_shape(reader: gguf.GGUFReader, path: Path) -> tuple[Shape, int]:
    """Return the shape of a model, and its number of heads for keys and values."""

    def value(key: str) -> Any:
        field = reader.fields.get(key)
        return field.contents() if field is not None else None

    architecture = value("general.architecture")
    if architecture != "llama" or value("llama.rope.scaling.type") not in (None, "none"):
        raise EngineError(
            f"{path.name} is no plain llama model ({architecture}): use --engine llama.cpp"
        )
    heads = value("llama.attention.head_count")
    embedding = next(t for t in reader.tensors if t.name == "token_embd.weight")
    shape = Shape(
        num_vocab=int(embedding.shape[1]),
        width=value("llama.embedding_length"),
        num_layers=value("llama.block_count"),
        num_heads=heads,
        num_hidden=value("llama.feed_forward_length"),
        norm_eps=value("llama.attention.layer_norm_rms_epsilon"),
        rope_base=value("llama.rope.freq_base") or 10_000.0,
    )
    return shape, value("llama.attention.head_count_kv") or heads
