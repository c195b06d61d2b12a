"""Samples one stream by law 1, and keeps the state that the stream's rules need of its text.

raw logits -> logit bias -> penalties -> grammar mask happen here; sampling.py does the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from airdraft.nodes.engine.grammar import GrammarError, Grammars
from airdraft.nodes.engine.masks import AT_ONCE, GrammarText, MaskMissingError, MaskService
from airdraft.nodes.engine.protocol import Logits, StreamError
from airdraft.nodes.engine.rules import NO_RULES, LogitRules
from airdraft.nodes.engine.sampling import Sampling, sample

_OUT = np.float32(-np.inf)


class Sampler:
    """Samples one stream and records its text, including guesses that are not committed yet.

    The text consists of the tokens that the constructor got and all that were pushed since. It is
    recorded only if there are rules; without rules a sampler costs as little as `sample`.
    """

    def __init__(
        self,
        sampling: Sampling,
        *,
        num_vocab: int = 0,
        token_ids: Sequence[int] = (),
        num_prompt_tokens: int = 0,
        grammars: Grammars | None = None,
        masks: MaskService = AT_ONCE,
        owner: str = "",
    ) -> None:
        """Begin with `token_ids` as the text.

        num_vocab: The size of the logits. num_prompt_tokens: The length of the prompt, of which
        `token_ids` may hold only a part so far. grammars: None on a node without grammars. masks:
        Computes the grammar's masks. owner: Of the stream.

        Raises GrammarError if the grammar cannot be used.
        """
        self.sampling = sampling
        rules = sampling.rules
        self._has_rules = rules != NO_RULES
        # The output, if there is a grammar.
        self.grammar: GrammarText | None = None
        if not self._has_rules:
            return
        self.grammar = _begin(rules, grammars, masks, owner)
        self._num_prompt_tokens = num_prompt_tokens
        self._text = list(token_ids[:num_prompt_tokens])
        self._bias: dict[int, float] = {}
        for entry in rules.logit_bias:
            # A draft's vocabulary may lack the padding at the end of its target's.
            if entry.token_id < num_vocab:
                self._bias[entry.token_id] = self._bias.get(entry.token_id, 0.0) + entry.bias
        self._penalizes = rules.presence_penalty != 0.0 or rules.frequency_penalty != 0.0
        self._counts = Counter(self._text) if self._penalizes else Counter[int]()
        # (num_vocab,) the number to add to each logit; dense because adding rows is fast.
        self._shifts: Logits | None = None
        if self._penalizes or self._bias:
            self._shifts = np.zeros(num_vocab, dtype=np.float32)
            for token_id in self._bias.keys() | self._counts.keys():
                self._set_shift(self._shifts, token_id)
        self.extend(token_ids[num_prompt_tokens:])

    def sample(self, logits: Logits, position: int) -> int:
        """Returns the token that follows the text; logits and position are as in `sampling.sample`.

        The logits are not changed. Raises GrammarError where the grammar cannot continue, and
        MaskMissingError if its mask has not been computed yet.
        """
        if self._has_rules:
            assert position == len(self._text), "the recorded text has another length"
            if self._shifts is not None:
                logits = logits + self._shifts
            if self.grammar is not None:
                logits = np.where(self.grammar.allowed(), logits, _OUT)
        return sample(logits, self.sampling, position)

    def push(self, token_id: int) -> None:
        """Append a token to the text."""
        if not self._has_rules:
            return
        # A grammar applies to the output only. A draft node gets a long prompt in pieces, so some
        # of the pushed tokens may belong to the prompt.
        if self.grammar is not None and len(self._text) >= self._num_prompt_tokens:
            self.grammar.push(token_id)
        self._text.append(token_id)
        self._count(token_id, 1)

    def extend(self, token_ids: Iterable[int]) -> None:
        if self._has_rules:
            for token_id in token_ids:
                self.push(token_id)

    def cut(self, length: int) -> None:
        """Cut the text to its first `length` tokens."""
        if not self._has_rules:
            return
        assert length <= len(self._text), "the text is cut to a length that it never had"
        num_gone = len(self._text) - max(length, self._num_prompt_tokens)
        if num_gone > 0 and self.grammar is not None:
            self.grammar.take_back(num_gone)
        gone = self._text[length:]
        del self._text[length:]
        for token_id in gone:
            self._count(token_id, -1)

    def ask(self, guesses: Sequence[int] = ()) -> None:
        """Have the grammar's masks computed that sampling will need, also behind the guesses."""
        if self.grammar is not None:
            self.grammar.ask(guesses)

    def _count(self, token_id: int, change: int) -> None:
        if self._penalizes and self._shifts is not None:
            self._counts[token_id] += change
            self._set_shift(self._shifts, token_id)

    def _set_shift(self, shifts: Logits, token_id: int) -> None:
        rules, count = self.sampling.rules, self._counts[token_id]
        shift = self._bias.get(token_id, 0.0)
        if count:
            shift -= rules.presence_penalty + rules.frequency_penalty * count
        shifts[token_id] = shift

    def verify(
        self, logits: Logits, position: int, guesses: Sequence[int]
    ) -> tuple[list[int], int]:
        """Verify guesses: sample row after row while the samples equal the guesses.

        logits: (len(guesses) + 1, num_vocab), row j for position + j. Returns the tokens to commit
        (accepted guesses and the target's next token) and the number of accepted guesses. The
        tokens are appended to the text. Raises StreamError or MaskMissingError if the first row
        cannot be sampled. If a later row cannot, the tokens before it are returned.
        """
        token_ids: list[int] = []
        for index, row in enumerate(logits[: len(guesses) + 1]):
            try:
                token_id = self.sample(row, position + index)
            except (StreamError, MaskMissingError):
                if not token_ids:
                    raise
                # The text may end with these tokens, by a stop string. Without guesses this row
                # would then not be sampled. If the text does not end, the next pass raises.
                return token_ids, index
            token_ids.append(token_id)
            self.push(token_id)
            if index == len(guesses) or token_id != guesses[index]:
                return token_ids, index
        raise ValueError(f"{len(logits)} rows of logits for {len(guesses)} guesses")


def _begin(
    rules: LogitRules, grammars: Grammars | None, masks: MaskService, owner: str
) -> GrammarText | None:
    if not rules.grammar.kind:
        return None
    if grammars is None:
        raise GrammarError("this engine has no grammars", is_request_bad=False)
    return GrammarText(grammars.begin(rules.grammar), owner, masks)
