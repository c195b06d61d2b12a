"""Grammars, which decide the tokens that may come next. Only this module imports llguidance.

llguidance gets the pieces of the vocabulary and nothing else, and never forces a tokenization. So
the allowed tokens depend only on the grammar, the pieces and the tokens so far, on every node.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from nodes.engine.protocol import StreamError
from nodes.engine.rules import Grammar
from nodes.engine.tool_rules import tool_rules

Mask: TypeAlias = npt.NDArray[np.bool_]
# Gives the bytes that a token adds to a text, as Tokenizer.piece does.
Piece: TypeAlias = Callable[[int], bytes]

# The most memory of all compiled grammars, and the least that one is counted as beside its text.
_MAX_COMPILED_BYTES: Final = 64 << 20
_LEAST_BYTES: Final = 32 << 10
# GBNF is translated by Python code: 60,000 characters take 1.7 s, and the time grows with the
# square of the number of rules.
_MAX_GBNF_CHARS: Final = 16_384
_MAX_GBNF_RULES: Final = 500
# These limits count work and not seconds, so that all nodes give up at the same token. They are
# part of the numerics class. A state of the lexer takes 1 to 2 KB.
#
# max_items_in_row bounds what a letter costs, which is up to its square: in rules that can be read
# in many ways, such as s ::= s s | [a-z], the items grow with the text. With 2,000, a mask of that
# took up to 1,200 ms and a token 180 ms; with 400, 140 and 15 ms. An object takes 4 for each of its
# optional properties. step_max_items is no measure of time: 128 optional properties need 45,000
# with 151,936 tokens, and 2 ms; the rule above takes 26 ms for 12,000. Grammars of which all is
# right need up to 25,000, because they write whitespace as a rule that calls itself. (SmolLM2 and
# Qwen2.5, a core of an Intel Xeon, 2026-12-01.)
LIMITS: Final = {
    "max_grammar_size": 100_000,
    "max_lexer_states": 30_000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_items_in_row": 400,
    "verbose_errors": False,
}
# How llguidance's errors of these limits begin or what they contain.
_WORK_ERRORS: Final = ("Too many items", "items; max is", "too many expressions", "too many states")
# A grammar whose first tokens already need too much is refused before a pass is run for it. More
# tokens of the dearest grammars would take more than the time of a check.
_NUM_TRIED: Final = 8
# If JSON could contain any amount of whitespace, a model could write it without end.
_JSON_OPTIONS: Final = {"whitespace_flexible": True, "whitespace_pattern": "( |\\n {0,20})?"}
# The model may spell a text with any tokens.
_HEADER: Final = '%llguidance {"no_forcing": true}\n'


class GrammarError(StreamError):
    """A grammar cannot be used, or no token can follow by it. The message is for the client.

    is_request_bad: False if the node lacks something that the request needs.
    """

    def __init__(self, reason: str, *, is_request_bad: bool = True) -> None:
        super().__init__(reason)
        self.is_request_bad = is_request_bad
        self.code = "bad_request" if is_request_bad else "unavailable"


class NoTokenError(GrammarError):
    """No token of the vocabulary can come next."""


class GrammarState:
    """The state of a grammar after the text so far."""

    def __init__(self, matcher: Any, num_vocab: int, eog_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._num_vocab = num_vocab
        self._eog_ids = eog_ids
        self._eog_list = sorted(eog_ids)
        # The number of tokens from the end-of-text token on.
        self._num_after_end = 0

    def allowed(self) -> Mask:
        """Return a (num_vocab,) mask of the tokens that may come next; it allows at least one.

        Raises GrammarError.
        """
        if self._num_after_end:
            mask = np.zeros(self._num_vocab, dtype=np.bool_)
            mask[self._eog_list] = True
            return mask
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        bits = np.unpackbits(packed, count=self._num_vocab + 1, bitorder="little").view(np.bool_)
        mask = bits[:-1]
        # The last bit is that of the wrapper's end token, which stands for all of the model's.
        mask[self._eog_list] = bits[-1]
        if not mask.any():
            raise NoTokenError("the grammar ends here, and the model has no token to end a text")
        return mask

    def push(self, token_id: int) -> None:
        """Append a token to the text. Raises GrammarError if it is not allowed."""
        if self._num_after_end or token_id in self._eog_ids:
            self._num_after_end += 1
        elif not self._matcher.consume_token(token_id):
            self._check()
            raise GrammarError("a token does not follow the grammar")

    def copy(self) -> GrammarState:
        """Return a state of the same text, which goes on by itself."""
        copied = GrammarState(self._matcher.deep_copy(), self._num_vocab, self._eog_ids)
        copied._num_after_end = self._num_after_end
        return copied

    def take_back(self, num_tokens: int) -> None:
        """Forget the last tokens."""
        after_end = min(num_tokens, self._num_after_end)
        self._num_after_end -= after_end
        if num_tokens > after_end and not self._matcher.rollback(num_tokens - after_end):
            self._check()
            raise GrammarError("the grammar cannot go back")

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = _first_line(self._matcher.get_error())
            if any(part in reason for part in _WORK_ERRORS):
                reason = (
                    "a token takes too much work: write repetition as + or * and not as a rule "
                    f"that calls itself, or use fewer optional properties ({reason})"
                )
            # llguidance's only message where no token can spell what the grammar allows.
            if reason.startswith("NoExtension"):
                reason = "no token of the model's vocabulary can come next"
                raise NoTokenError(f"the grammar cannot go on: {reason}")
            raise GrammarError(f"the grammar cannot go on: {reason}")


@dataclass(frozen=True, slots=True)
class Checked:
    """A grammar that can be used: in llguidance's dialect of Lark, and the bytes that it takes.

    Python code makes these rules, up to 0.6 s for GBNF, in which no other Python code runs.
    """

    rules: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class _Known:
    """A compiled grammar, or the reason why it is not valid, and its size in the cache."""

    matcher: Any
    error: str
    num_bytes: int


class Grammars:
    """The compiled grammars of one vocabulary. It is thread-safe."""

    def __init__(
        self,
        piece: Piece,
        num_vocab: int,
        eog_ids: frozenset[int],
        check: Callable[[Grammar], Checked] | None = None,
    ) -> None:
        """Make an empty cache of grammars.

        num_vocab, eog_ids: The number of tokens, and those that end a text. check: Tries a grammar
        first where a crash does no harm; raises GrammarError. Without it this process compiles
        untrusted grammars directly.
        """
        self._piece = piece
        self._num_vocab = num_vocab
        self._eog_ids = eog_ids
        self._check = check
        self._lock = threading.Lock()
        self._trie_lock = threading.Lock()
        self._trie: Any = None
        # Least recently used first; under the lock.
        self._known: dict[Grammar, _Known] = {}

    def prepare(self) -> None:
        """Prepare the vocabulary, which takes up to a second. Raises GrammarError."""
        self._vocabulary(_library())

    def knows(self, grammar: Grammar) -> bool:
        """Whether the grammar is compiled, or known not to be valid."""
        with self._lock:
            return grammar in self._known

    def compile(self, grammar: Grammar) -> None:
        """Compile a grammar, which may take seconds the first time. Raises GrammarError."""
        self._matcher_of(grammar)

    def begin(self, grammar: Grammar) -> GrammarState:
        """Return the state of an empty text, fast if it is compiled. Raises GrammarError."""
        matcher = self._matcher_of(grammar).deep_copy()
        return GrammarState(matcher, self._num_vocab, self._eog_ids)

    def _matcher_of(self, grammar: Grammar) -> Any:
        found = self._kept(grammar)
        if found is None:
            # Not under the lock: two threads may compile the same grammar, but none waits for it.
            found = self._compiled(grammar)
            self._keep(grammar, found)
        if found.error:
            raise GrammarError(found.error)
        return found.matcher

    def _kept(self, grammar: Grammar) -> _Known | None:
        with self._lock:
            found = self._known.pop(grammar, None)
            if found is not None:
                self._known[grammar] = found
            return found

    def _keep(self, grammar: Grammar, known: _Known) -> None:
        with self._lock:
            self._known[grammar] = known
            total = sum(each.num_bytes for each in self._known.values())
            for oldest in list(self._known)[:-1]:
                if total <= _MAX_COMPILED_BYTES:
                    break
                total -= self._known.pop(oldest).num_bytes

    def _compiled(self, grammar: Grammar) -> _Known:
        """Compile a grammar or keep its error. Raises GrammarError if the node is at fault."""
        # Checked first, because the process that checks grammars does not start without it.
        _library()
        least = _LEAST_BYTES + len(grammar.text)
        try:
            checked = self.tried(grammar) if self._check is None else self._check(grammar)
            return _Known(self._compile(checked.rules), "", max(least, checked.num_bytes))
        except GrammarError as error:
            if not error.is_request_bad:
                raise
            return _Known(None, str(error), least)

    def tried(self, grammar: Grammar) -> Checked:
        """Compile a grammar and walk through one of its texts. Raises GrammarError.

        The walk always takes the allowed token with the lowest id, so that all nodes refuse the
        same grammars. It ends early where a text does, or where no token can go on: another text
        may be possible.
        """
        rules = lark_of(grammar)
        state = GrammarState(self._compile(rules), self._num_vocab, self._eog_ids)
        for _ in range(_NUM_TRIED):
            try:
                allowed = state.allowed()
            except NoTokenError:
                break
            allowed[sorted(self._eog_ids)] = False
            token_id = int(allowed.argmax())
            if not allowed[token_id]:
                break
            state.push(token_id)
        return Checked(rules, 0)

    def _compile(self, rules: str) -> Any:
        library = _library()
        limits = library.LLParserLimits(**LIMITS)
        matcher = library.LLMatcher(self._vocabulary(library), rules, log_level=0, limits=limits)
        if matcher.is_error():
            raise GrammarError(f"the grammar is not valid: {_reason(matcher.get_error())}")
        # The first mask takes longest, so it is computed now. It also rejects a grammar by which no
        # text can begin.
        GrammarState(matcher, self._num_vocab, self._eog_ids).allowed()
        return matcher

    def _vocabulary(self, library: Any) -> Any:
        with self._trie_lock:
            if self._trie is None:
                pieces = [
                    b"" if token_id in self._eog_ids else self._piece(token_id)
                    for token_id in range(self._num_vocab)
                ]
                wrapper = library.TokenizerWrapper(_Spelling(pieces))
                self._trie = library.LLTokenizer(wrapper, eos_token=self._num_vocab)
            return self._trie


class _Spelling:
    """A vocabulary in the form that llguidance reads, with an additional end token as the last one.

    llguidance never allows tokens without bytes.
    """

    bos_token_id = None
    special_token_ids: Collection[int] = ()

    def __init__(self, pieces: list[bytes]) -> None:
        self.tokens = [*pieces, b""]
        self.eos_token_id = len(pieces)

    def __call__(self, _text: bytes) -> list[int]:
        """Tokenize a text; the result is not used, because no tokenization is forced."""
        return []


def lark_of(grammar: Grammar) -> str:
    """Return a grammar in llguidance's dialect of Lark. Raises GrammarError."""
    return _HEADER + _RULES[grammar.kind](grammar.text)


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        reason = "this node has no grammars: install airdraft[grammar]"
        raise GrammarError(reason, is_request_bad=False) from None
    return llguidance


def _json_rules(text: str) -> str:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"the JSON schema is not JSON: {_first_line(str(error))}") from None
    if not isinstance(schema, dict):
        raise GrammarError("the JSON schema is not an object")
    return f"start: {_json_rule(schema)}"


def _json_rule(schema: dict[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": _JSON_OPTIONS})


def _tool_rules(text: str) -> str:
    try:
        return tool_rules(text, _json_rule)
    except ValueError as error:
        raise GrammarError(_first_line(str(error))) from None


def _gbnf_rules(text: str) -> str:
    if len(text) > _MAX_GBNF_CHARS:
        raise GrammarError(f"the grammar has {len(text)} characters, limit {_MAX_GBNF_CHARS}")
    if (count := text.count("::=")) > _MAX_GBNF_RULES:
        raise GrammarError(f"the grammar has {count} rules, limit {_MAX_GBNF_RULES}")
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        rules = gbnf_to_lark(text)
    except Exception as error:  # noqa: BLE001 - it raises this very class, and RecursionError
        raise GrammarError(f"the grammar is not valid: {_first_line(str(error))}") from None
    # The first line is an empty header of the translation.
    return rules.partition("\n")[2]


_RULES: Final[dict[str, Callable[[str], str]]] = {
    "json_schema": _json_rules,
    "gbnf": _gbnf_rules,
    "tools": _tool_rules,
}


def _reason(error: str) -> str:
    """Return llguidance's reason without the position in the translated grammar."""
    line = _first_line(error)
    # For an invalid regular expression the last line has the reason.
    line += "".join(f" {rest}" for rest in error.splitlines() if rest.startswith("error: "))
    for marker in ("failed to compile JSON schema: ", "): "):
        _, found, rest = line.partition(marker)
        if found:
            return rest
    return line


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["unknown reason"])[0][:300]
