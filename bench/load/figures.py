"""Figures of requests that were asked at once. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. asked_s: time when it was sent, seconds of the run. token_s: time of each token;
    tokens of one event have that event's time. error: reason of a failure, or "".
    """

    asked_s: float
    token_s: tuple[float, ...] = ()
    error: str = ""
    text: str = ""

    @property
    def first_token_s(self) -> float:
        """Seconds to the first token; infinite if none came."""
        return self.token_s[0] - self.asked_s if self.token_s else math.inf


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of groups of requests, each asked at once.

    tokens_per_s: while all streams of a group decode, but those that had ended before.
    first_token_s: the median. cpu_s_a_token: processor time of all the system's processes, also
    that for reading prompts. Each is 0.0 if nothing was answered. texts: in the order of the
    requests; None for one that failed. error: the reason of the first failure, or "".
    """

    num_failed: int
    num_tokens: int
    tokens_per_s: float
    first_token_s: float
    cpu_s_a_token: float
    texts: tuple[str | None, ...]
    error: str


def figures_of(groups: Sequence[Sequence[Asked]], cpu_s: float) -> Figures:
    """Returns the figures of groups of requests. cpu_s: what all of them took together."""
    requests = [request for group in groups for request in group]
    whole = [request for request in requests if request.token_s and not request.error]
    errors = [request.error for request in requests if request.error]
    num_tokens = sum(len(request.token_s) for request in requests)
    # With guesses a short answer may end before the last text has been read.
    answered = [[r.token_s for r in group if not r.error] for group in groups]
    times = [together(token_s, ends_early=True) for token_s in answered]
    return Figures(
        num_failed=len(errors),
        num_tokens=num_tokens,
        tokens_per_s=sum(n for n, _ in times) / max(1e-9, sum(seconds for _, seconds in times)),
        first_token_s=median([request.first_token_s for request in whole] or [0.0]),
        cpu_s_a_token=cpu_s / max(1, num_tokens),
        texts=tuple(None if request.error else request.text for request in requests),
        error=errors[0] if errors else "",
    )


def joint_rate(
    token_s: Sequence[Sequence[float]], num_skipped: int = 1, *, ends_early: bool = False
) -> float:
    """Returns the tokens/s of all streams while all decode, as `together` has them; 0.0 if they
    never do."""
    num_tokens, seconds = together(token_s, num_skipped, ends_early=ends_early)
    return num_tokens / seconds if seconds > 0.0 else 0.0


def together(
    token_s: Sequence[Sequence[float]], num_skipped: int = 1, *, ends_early: bool = False
) -> tuple[int, float]:
    """Returns the number of tokens of all streams while all decode, and the seconds of that time.

    token_s: times of each stream's tokens; a stream of num_skipped tokens or fewer does not count.
    The time begins when each other stream has num_skipped tokens, and ends with a stream's last.
    ends_early: a stream that ends before all others have begun does not end the time. Returns 0
    and 0.0 if they never decode at the same time.
    """
    several = [times for times in token_s if len(times) > num_skipped]
    began = max((times[num_skipped - 1] for times in several), default=0.0)
    ends = (times[-1] for times in several if times[-1] > began or not ends_early)
    ended = min(ends, default=0.0)
    if ended <= began:
        return 0, 0.0
    return sum(began < at <= ended for times in several for at in times), ended - began
