"""The paper's model: times linear in FLOPs, padded batches, and a pipeline of two steps.

In a decode stage every batch is drafted and then verified once. The draft node works on the next
batch while the target verifies the one before. All outputs count as long as the longest, which
decides the number of stages. Before the first stage both models read each batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.paper.setting import Model, Number, Setting, TaskSet
from policies.problem import Ints


class Pair(NamedTuple):
    """A draft and a target model by their names."""

    draft: str
    target: str


@dataclass(frozen=True, slots=True)
class Stages:
    """Times of batches by the longest input and the number of tasks in them.

    length: the speculation length. Times of drafting and verifying are those of one decode stage.
    """

    setting: Setting
    draft: Model
    target: Model
    length: int

    @property
    def num(self) -> int:
        alpha, length = self.setting.alpha, self.length
        tokens = (1.0 - alpha ** (1 + length)) / (1.0 - alpha) if alpha < 1.0 else 1.0 + length
        return math.ceil(self.setting.max_output / tokens)

    def draft_s(self, longest: float, size: Number) -> Number:
        """Return the seconds of drafting: one pass for each guess."""
        flops = self.draft.decode_flops(longest + self.setting.max_output / 2)
        pass_s = flops * size / self.setting.draft_flops_per_s + self._draft_c2_s
        return self.length * pass_s

    def verify_s(self, longest: float, size: Number) -> Number:
        """Return the seconds of a pass of all guesses and one more token."""
        flops = self.target.decode_flops(longest + self.setting.max_output / 2)
        tokens_s = flops * (1 + self.length) * size / self.setting.target_flops_per_s
        return tokens_s + self._target_c2_s

    def read_s(self, longest: float, size: Number) -> Number:
        """Return the seconds in which both models read a batch's prompts, one after the other."""
        target_s = self.target.prefill_flops(longest) * size / self.setting.target_flops_per_s
        if not self.length:
            return target_s + self._target_c2_s
        draft_s = self.draft.prefill_flops(longest) * size / self.setting.draft_flops_per_s
        return draft_s + target_s + self._draft_c2_s + self._target_c2_s

    def most(self, longest: float) -> float:
        """Return how many tasks with all outputs at full length the draft node's memory holds."""
        room = self.setting.draft_memory_bytes - self.draft.weight_bytes
        return room / ((longest + self.setting.max_output) * self.draft.cache_bytes)

    @property
    def _draft_c2_s(self) -> float:
        return self.setting.c2_factor * self.draft.weight_bytes / self.setting.draft_bytes_per_s

    @property
    def _target_c2_s(self) -> float:
        return self.setting.c2_factor * self.target.weight_bytes / self.setting.target_bytes_per_s


def stages_of(setting: Setting, pair: Pair, length: int) -> Stages:
    return Stages(setting, setting.models[pair.draft], setting.models[pair.target], length)


def total_s(
    stages: Stages, inputs: Ints, bounds: Sequence[int], *, has_pipeline: bool = True
) -> float:
    """Return the seconds from the first prompt to the last token, without uploads.

    inputs: (K,) in the order in which bounds, from 0 to K, cut them into batches. has_pipeline:
    whether the draft node continues with the next batch while the target verifies.
    """
    drafted_s = verified_s = read_s = 0.0
    for first, last in itertools.pairwise(bounds):
        longest, size = float(inputs[first:last].max()), last - first
        read_s += float(stages.read_s(longest, size))
        if not has_pipeline:
            drafted_s = verified_s
        drafted_s += float(stages.draft_s(longest, size))
        verified_s = max(verified_s, drafted_s) + float(stages.verify_s(longest, size))
    return read_s + stages.num * verified_s


def upload_s(setting: Setting, tasks: TaskSet, *, is_uniform: bool = False) -> float:
    """Return the seconds until the last prompt has arrived, with bands that let all end together
    (the paper's closed form), or with the same band for all if is_uniform."""
    hertz_seconds = tasks.inputs * setting.bits_a_token / tasks.efficiency
    most = len(tasks.inputs) * hertz_seconds.max() if is_uniform else hertz_seconds.sum()
    return float(most / setting.bandwidth_hz)
