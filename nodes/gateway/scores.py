"""Bounds the scores (log-probabilities of tokens) that answers hold at once. Pure.

A score takes some 25 bytes until it is sent, and 5 us of the loop in all. Without a bound one body
could ask for 5 million.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from airdraft.nodes.gateway.errors import ApiError, failed
from airdraft.nodes.gateway.fields import Job

# So many of the largest answers may be held of all keys, and of one key: 80 MB and 40 MB.
_MOST_ANSWERS: Final = 16
_MOST_ANSWERS_OF_KEY: Final = 8


class HeldScores:
    """The scores that a gateway holds, by API key. max_scores: the limit for one answer."""

    def __init__(self, max_scores: int) -> None:
        self._max_scores = max_scores
        self._of_keys = Counter[str]()

    @contextlib.contextmanager
    def entered(self, job: Job, key: str) -> Iterator["ScoresOfAnswer"]:
        """Raises ApiError if the answer may hold more than there is room for."""
        held = ScoresOfAnswer(self, job, key, self._max_scores)
        try:
            held.count(0, 0)
            yield held
        finally:
            self._of_keys[key] -= held.num_scores
            if not self._of_keys[key]:
                del self._of_keys[key]

    def add(self, key: str, num_scores: int) -> None:
        """Raises ApiError if there is no room for them."""
        all_of_key = self._of_keys[key] + num_scores
        has_room = self._of_keys.total() + num_scores <= _MOST_ANSWERS * self._max_scores
        if not has_room or all_of_key > _MOST_ANSWERS_OF_KEY * self._max_scores:
            reason = "the log-probabilities of other answers fill the memory: try again later"
            raise failed("overloaded", reason)
        self._of_keys[key] = all_of_key


class ScoresOfAnswer:
    """The most scores that one answer may hold: num_scores."""

    def __init__(self, held: HeldScores, job: Job, key: str, max_scores: int) -> None:
        self._held = held
        self._job = job
        self._key = key
        self._max_scores = max_scores
        self._num_prompt_tokens = {
            index: len(prompt)
            for index, prompt in enumerate(job.prompts)
            if isinstance(prompt[0], int)
        }
        self.num_scores = 0

    def count(self, prompt_index: int, num_prompt_tokens: int) -> None:
        """Count a prompt whose length is known by now. Raises ApiError if it is too much."""
        known = self._num_prompt_tokens.get(prompt_index, 0)
        self._num_prompt_tokens[prompt_index] = max(known, num_prompt_tokens)
        wanted = num_scores_of(self._job, sum(self._num_prompt_tokens.values()))
        if wanted > self._max_scores:
            raise ApiError(
                400,
                f"logprobs: prompts, n, max_tokens and logprobs ask for {wanted} log-probabilities "
                f"in one answer, and at most {self._max_scores} are accepted: ask for fewer, or in "
                "several bodies",
                param="logprobs",
                code="invalid_value",
            )
        if wanted > self.num_scores:
            self._held.add(self._key, wanted - self.num_scores)
            self.num_scores = wanted


def num_scores_of(job: Job, num_prompt_tokens: int) -> int:
    """The most scores that are held at once. num_prompt_tokens: of all prompts together.

    Those of a prompt are held until its choices begin, and those of an answer that is not streamed
    until it is whole, with the prompt's once more for each choice.
    """
    options = job.options
    if options.num_logprobs is None:
        return 0
    num_tokens = num_prompt_tokens if options.scores_prompt else 0
    if not job.stream:
        num_new = len(job.prompts) * options.max_tokens
        num_tokens = options.num_choices * (num_tokens + num_new)
    return num_tokens * (1 + options.num_logprobs)


def fitted(job: Job, max_scores: int) -> Job:
    """Lower max_tokens to what may be scored, if the body leaves it open."""
    options = job.options
    if not options.fits or job.stream or options.num_logprobs is None:
        return job
    most = max_scores // (len(job.prompts) * options.num_choices * (1 + options.num_logprobs))
    return replace(job, options=replace(options, max_tokens=min(options.max_tokens, max(most, 1))))
