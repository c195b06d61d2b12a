"""The cost of a transformer's pass, counted from its shape and a device's data sheet.

It serves simulations of hardware that is not present; live nodes measure (policies.latency).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from airdraft.policies.latency import CostTable, NodeCosts

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerShape:
    """A dense decoder with grouped attention, a feed-forward net, RMS norms and no biases.

    bits_per_weight: mean over the file, 16 for F16, 8.5 for Q8_0, 4.54 for Llama-2-7B Q4_0.
    kv_bits: bits of one number in the cache. heads is a multiple of kv_heads.
    """

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_size: int
    vocab_size: int
    gated_ffn: bool = True
    tied_embeddings: bool = False
    bits_per_weight: float = 16.0
    kv_bits: float = 16.0

    @property
    def layer_matrix_parameters(self) -> int:
        """The number of weights in the matrices of one layer."""
        attention = 2 * self.hidden_size * self.head_dim * (self.heads + self.kv_heads)
        return attention + (3 if self.gated_ffn else 2) * self.hidden_size * self.ffn_size

    @property
    def num_parameters(self) -> int:
        """The number of all weights: matrices, norms, embedding, and an untied output matrix."""
        table = self.vocab_size * self.hidden_size
        norms = (2 * self.layers + 1) * self.hidden_size
        tables = table if self.tied_embeddings else 2 * table
        return self.layers * self.layer_matrix_parameters + norms + tables

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights, in the file and in memory."""
        return self.num_parameters * self.bits_per_weight / 8

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of the keys and values of one cell."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.kv_bits / 8

    @property
    def cell_flops(self) -> int:
        """FLOPs of one token that attends to one cell: q.k and p.v of every head and layer."""
        return 4 * self.layers * self.heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The peak figures of a device by its data sheet, and the shares that llama.cpp reaches.

    flops_per_s: peak in the number format of the kernels. memory_bytes: memory for weights and
    cache together. layer_overhead_s: launches and barriers of each layer in a pass. overlap: the
    share of the shorter of computing and reading that runs beside the longer. 1 gives the roofline.
    0 gives the sum, which meets published passes of 1 to 512 tokens on an RTX 4090 within 8 %,
    where a roofline that fits the longest pass is up to 42 % too low.
    """

    name: str
    flops_per_s: float
    bytes_per_s: float
    compute_efficiency: float
    memory_efficiency: float
    pass_overhead_s: float
    layer_overhead_s: float = 0.0
    overlap: float = 1.0
    memory_bytes: float


def pass_flops(
    shape: TransformerShape, num_tokens: float, attended: float, num_logits: int
) -> float:
    """FLOPs of a pass, two for each multiply-add.

    attended: cells to which the new tokens attend, in all; a token attends to the cells of its
    sequence, the new tokens before it, and itself. num_logits: tokens whose logits are computed.
    Norms, rotations, softmax and activations are not counted (below 1 %). Chowdhery et al. 2022
    (PaLM), appendix B.
    """
    matrices = 2 * num_tokens * shape.layers * shape.layer_matrix_parameters
    output = 2 * num_logits * shape.hidden_size * shape.vocab_size
    return matrices + shape.cell_flops * attended + output


def pass_bytes(shape: TransformerShape, num_tokens: float, cells: float, num_logits: int) -> float:
    """Bytes that a pass moves: it reads all weights and `cells` cells once and writes new cells.

    The output matrix is read only for logits. The few rows that are read of an untied embedding are
    not counted.
    """
    table = shape.vocab_size * shape.hidden_size
    body = shape.num_parameters - (table if shape.tied_embeddings else 2 * table)
    weights = body + (table if num_logits else 0)
    return weights * shape.bits_per_weight / 8 + shape.kv_bytes_per_token * (cells + num_tokens)


def pass_seconds(
    shape: TransformerShape,
    device: Device,
    num_tokens: float,
    attended: float,
    cells: float,
    num_logits: int,
) -> float:
    """Seconds of a pass: overhead + max(compute, memory) + (1 - overlap) min(compute, memory).

    Arguments as for pass_flops and pass_bytes. Roofline: Williams, Waterman, Patterson 2009.
    """
    flops = pass_flops(shape, num_tokens, attended, num_logits)
    moved = pass_bytes(shape, num_tokens, cells, num_logits)
    compute_s = flops / (device.flops_per_s * device.compute_efficiency)
    memory_s = moved / (device.bytes_per_s * device.memory_efficiency)
    exposed_s = (1 - device.overlap) * min(compute_s, memory_s)
    overhead_s = device.pass_overhead_s + shape.layers * device.layer_overhead_s
    return overhead_s + max(compute_s, memory_s) + exposed_s


def cost_table(
    shape: TransformerShape, device: Device, *, logits: bool = True, used_cells: int = 0
) -> CostTable:
    """Returns the table of passes in one shared cache, as a node would have measured it.

    At each size and `used_cells` the table is exact: n (used_cells + 1) cells attended with logits,
    n used_cells + n (n + 1) / 2 without, used_cells read once. Use a typical fill: at another one
    the table lacks the reading of the difference (10 to 12 % for 1,000 cells of Llama-2-7B Q4_0),
    because CostTable charges cells times tokens, which holds only for the computing of attention.
    per_cell_s is that computing, or less where it runs beside the reading, so that passes with an
    empty cache still rise with their size.
    """
    per_cell_s = shape.cell_flops / (device.flops_per_s * device.compute_efficiency)
    whole_s = []
    for size in SIZES:
        attended = size * used_cells + (size if logits else size * (size + 1) / 2)
        num_logits = size if logits else 0
        whole_s.append(pass_seconds(shape, device, size, attended, used_cells, num_logits))
    if used_cells:
        rises = np.diff(whole_s) / (used_cells * np.diff(SIZES))
        per_cell_s = min([per_cell_s, *rises.tolist()])
    seconds = [t - per_cell_s * used_cells * n for t, n in zip(whole_s, SIZES, strict=True)]
    return CostTable(SIZES, tuple(seconds), per_cell_s)


def node_costs(shape: TransformerShape, device: Device, *, used_cells: int = 0) -> NodeCosts:
    """Returns both tables of a node that runs the model on the device, exact at `used_cells`."""
    return NodeCosts(
        decode=cost_table(shape, device, used_cells=used_cells),
        prefill=cost_table(shape, device, logits=False, used_cells=used_cells),
    )


def max_cells(shape: TransformerShape, device: Device) -> int:
    """Returns the cells of the cache that fit beside the weights; 0 if the weights do not fit."""
    return max(0, int((device.memory_bytes - shape.weight_bytes) // shape.kv_bytes_per_token))
