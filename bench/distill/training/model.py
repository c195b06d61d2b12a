"""The draft as torch sees it: llama.cpp's `llama` architecture, small, embedding and head tied.

Its embedding can be trained as blocks of 32 values, which is what a Q4_0 file will hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a draft. Rows must be multiples of 32 for quantised files, of 256 for K-quants."""

    num_vocab: int
    width: int = 256
    num_layers: int = 4
    num_heads: int = 4
    num_hidden: int = 768
    context_length: int = 8192
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5

    @property
    def head_size(self) -> int:
        return self.width // self.num_heads


class Layer(nn.Module):
    """Attention and gated feed-forward, each added to the stream. Names follow GGUF's."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, hidden = shape.width, shape.num_hidden
        self._head_size = shape.head_size
        self.attn_norm = nn.RMSNorm(width, shape.norm_eps)
        self.attn_q = nn.Linear(width, width, bias=False)
        self.attn_k = nn.Linear(width, width, bias=False)
        self.attn_v = nn.Linear(width, width, bias=False)
        self.attn_output = nn.Linear(width, width, bias=False)
        self.ffn_norm = nn.RMSNorm(width, shape.norm_eps)
        self.ffn_gate = nn.Linear(width, hidden, bias=False)
        self.ffn_up = nn.Linear(width, hidden, bias=False)
        self.ffn_down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        y = self.attn_norm(x)
        q, k, v = (
            linear(y).unflatten(-1, (-1, self._head_size)).transpose(1, 2)
            for linear in (self.attn_q, self.attn_k, self.attn_v)
        )
        q, k = (rotate(each, rotation).to(v.dtype) for each in (q, k))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_output(mixed.transpose(1, 2).flatten(2))
        y = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(y)) * self.ffn_up(y))


def rotations(length: int, size: int, base: float) -> Tensor:
    """(2, length, size / 2): cosines and sines of the angles of each position."""
    exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
    angles = torch.outer(torch.arange(length, dtype=torch.float64), base**-exponents)
    return torch.stack((angles.cos(), angles.sin())).float()


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotary embedding on neighbouring pairs (llama.cpp's NORM kind); x: (..., length, size)."""
    pairs = x.float().view(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = rotation[0], rotation[1]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class DraftModel(nn.Module):
    """forward gives the normed last states; logits are their products with the embedding."""

    def __init__(self, shape: Shape, *, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        generator = torch.Generator().manual_seed(seed)
        self.token_embd = nn.Embedding(shape.num_vocab, shape.width)
        self.blk = nn.ModuleList(Layer(shape) for _ in range(shape.num_layers))
        self.output_norm = nn.RMSNorm(shape.width, shape.norm_eps)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                deviation = 0.06 if name.startswith("token_embd") else shape.width**-0.5 / 2
                if name.endswith(("attn_output.weight", "ffn_down.weight")):
                    deviation /= (2 * shape.num_layers) ** 0.5
                nn.init.normal_(parameter, std=deviation, generator=generator)

    def forward(self, token_ids: Tensor) -> Tensor:
        """(rows, length) ids -> (rows, length, width) states."""
        rotation = rotations(token_ids.shape[1], self.shape.head_size, self.shape.rope_base)
        x = self.token_embd(token_ids)
        for layer in self.blk:
            x = layer(x, rotation)
        states: Tensor = self.output_norm(x)
        return states

    def logits(self, token_ids: Tensor) -> Tensor:
        """(rows, length) ids -> (rows, length, num_vocab)."""
        return self.forward(token_ids) @ self.token_embd.weight.T


def reduced_embedding(rows: Tensor, width: int, *, deviation: float = 0.06) -> Tensor:
    """(vocab, n) rows of the target's embedding on their `width` main axes, scaled.

    Axes of the uncentred second moment, as products of rows are what a tied head uses.
    """
    wide = rows.double()
    _values, axes = torch.linalg.eigh(wide.T @ wide)
    reduced = wide @ axes[:, -width:].flip(1)
    return (reduced * (deviation / reduced.std())).float()


@torch.no_grad()
def round_q4_0(values: Tensor) -> Tensor:
    """The values a Q4_0 file gives back: 4 bits each, a float16 scale a block of 32."""
    blocks = values.reshape(-1, 32)
    place = blocks.abs().argmax(1, keepdim=True)
    scale = blocks.gather(1, place) / -8.0
    inverse = torch.where(scale == 0, torch.zeros_like(scale), 1.0 / scale)
    steps = (blocks * inverse + 8.5).floor().clamp_(0, 15) - 8.0
    return (steps * scale.half().float()).reshape(values.shape)


@contextmanager
def fake_quantised(parameter: Tensor, *, enabled: bool) -> Iterator[None]:
    """Compute with the rounded values inside, update the exact ones after (straight through)."""
    if not enabled:
        yield
        return
    exact = parameter.detach().clone()
    with torch.no_grad():
        parameter.copy_(round_q4_0(exact))
    try:
        yield
    finally:
        with torch.no_grad():
            parameter.copy_(exact)
