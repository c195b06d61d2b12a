"""What a client is told of a request, held against what each of its choices becomes alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nodes.messages import FinishedNotice, PromptLogprobsNotice, TokenScores, TokensNotice
from tests.nodes.reference import Reference


class Heard:
    """One request. alone: what a choice becomes where nothing disturbs it."""

    def __init__(self, num_choices: int, alone: Callable[[int], Reference]) -> None:
        self._alone = alone
        self.token_ids: list[list[int]] = [[] for _ in range(num_choices)]
        self.text = [b""] * num_choices
        self.prompt_scores: tuple[TokenScores, ...] = ()
        # Why each choice ended, of those that have.
        self.ended: dict[int, str] = {}

    @property
    def is_over(self) -> bool:
        return len(self.ended) == len(self.token_ids)

    def cancel(self) -> None:
        """Its client does not want the rest."""
        for choice in range(len(self.token_ids)):
            self.ended.setdefault(choice, "cancelled")

    def take(self, message: Any) -> None:
        match message:
            case TokensNotice():
                self._take_tokens(message)
            case PromptLogprobsNotice(position=position, scores=scores):
                assert position == 1 + len(self.prompt_scores), "a score is missing or repeated"
                self.prompt_scores += scores
            case FinishedNotice(choice=choice, finish_reason=reason):
                was = self.ended.setdefault(choice, reason)
                assert was in (reason, "cancelled")
                if reason != "cancelled":
                    expected = self._alone(choice)
                    assert self.prompt_scores == expected.prompt_scores
                    assert tuple(self.token_ids[choice]) == expected.token_ids
                    assert message.num_tokens == len(expected.token_ids)
                    assert self.text[choice] == expected.text
                    assert reason == expected.finish_reason
            case _:
                raise AssertionError(f"unexpected {message}")

    def check_journal(self, choice: int, output: Sequence[int]) -> None:
        """output: all that the mesh has of a choice by now."""
        assert tuple(output) == self._alone(choice).token_ids[: len(output)]
        heard = self.token_ids[choice]
        assert heard == list(output[: len(heard)]), "the client has what the mesh has not"

    def _take_tokens(self, message: TokensNotice) -> None:
        choice = message.choice
        assert self.ended.get(choice) in (None, "cancelled"), "tokens after the end"
        known = self.token_ids[choice]
        assert message.position == len(known), "a token is missing or repeated"
        expected = self._alone(choice)
        assert self.prompt_scores == expected.prompt_scores
        num_known = len(known)
        known += message.token_ids
        self.text[choice] += message.text
        assert message.scores == expected.scores[num_known:][: len(message.scores)]
        assert len(message.scores) in (0, len(message.token_ids))
        assert bool(message.scores) == bool(message.token_ids and expected.scores)
        assert tuple(known) == expected.token_ids[: len(known)]
        assert expected.text.startswith(self.text[choice])
