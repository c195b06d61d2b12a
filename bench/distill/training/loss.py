"""Cross-entropy against a teacher's best tokens, over the whole vocabulary or a sample of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.distill.training.data import Batch

# Rows of logits at once: bounds the memory, not the result.
_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Candidates:
    """The part of the vocabulary that a step's softmax is over.

    token_ids: (c,); log_weights: (c,), how many tokens each stands for; places: the teacher's ids
    as indices into token_ids.
    """

    token_ids: Tensor
    log_weights: Tensor
    places: Tensor


def choose_candidates(
    batch: Batch, num_vocab: int, num_negatives: int, generator: np.random.Generator
) -> Candidates:
    """All ids the teacher names in the batch, and a random sample of the others.

    A sampled id stands for its share of the others, so the expected denominator is that of the
    full softmax. With num_negatives = num_vocab it is the full softmax.
    """
    named, places = np.unique(batch.teacher_ids, return_inverse=True)
    others = np.setdiff1d(np.arange(num_vocab), named, assume_unique=True)
    count = min(num_negatives, len(others))
    sampled = generator.choice(others, count, replace=False)
    weights = np.zeros(len(named) + count, dtype=np.float32)
    if count:
        weights[len(named) :] = math.log(len(others) / count)
    return Candidates(
        torch.from_numpy(np.concatenate([named, sampled])),
        torch.from_numpy(weights),
        torch.from_numpy(places.reshape(batch.teacher_ids.shape)),
    )


@torch.no_grad()
def backward_head(
    states: Tensor,
    embedding: Tensor,
    batch: Batch,
    candidates: Candidates,
    temperature: float,
    dtype: torch.dtype,
) -> tuple[float, float, Tensor]:
    """Loss per position, share of positions whose best token is the teacher's, gradient of states.

    states: (n, width); the embedding's gradient is added to embedding.grad. The gradient of a
    cross-entropy is (softmax - teacher), written out here: autograd would read and write the
    logits, which are most of the work, twice as often. dtype: of the products.
    """
    weights = torch.from_numpy(batch.teacher_weights)
    ids = candidates.token_ids
    head = embedding[ids].to(dtype)
    head_grad = torch.zeros(head.shape)
    state_grads = torch.empty_like(states)
    total_loss = 0.0
    num_agreed = 0
    factor = 1.0 / (temperature * len(states))
    for start in range(0, len(states), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        x = states[chunk].to(dtype)
        places, teacher = candidates.places[chunk], weights[chunk]
        logits = (x @ head.T).float().div_(temperature).add_(candidates.log_weights)
        picked = logits.gather(1, places)
        best, best_places = logits.max(1, keepdim=True)
        softmax = logits.sub_(best).exp_()
        total = softmax.sum(1, keepdim=True)
        total_loss += float(((total.log() + best - picked) * teacher).sum())
        num_agreed += int((best_places[:, 0] == places[:, 0]).sum())
        gradient = softmax.div_(total).scatter_add_(1, places, -teacher).to(dtype)
        state_grads[chunk] = (gradient @ head).float() * factor
        head_grad += (gradient.T @ x).float() * factor
    if embedding.grad is None:
        embedding.grad = torch.zeros_like(embedding)
    embedding.grad.index_add_(0, ids, head_grad)
    return total_loss / len(states), num_agreed / len(states), state_grads
