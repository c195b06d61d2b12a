"""Grammars, which decide the tokens that may come next. Only this module compiles by llguidance.

llguidance gets the pieces of the vocabulary and nothing else, and never forces a tokenization. So
the allowed tokens depend only on the grammar, the pieces and the tokens so far, on every node.

All states of a compiled grammar share its lexer, an automaton that grows with what each of them
meets. Its limits count for all of them together, and one that is reached ends its use for all. So
such an error (LexerError) decides nothing about a text: what decides is the same text in a lexer of
its own, without what others wrote and what was guessed (GrammarState.apart).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from airdraft.nodes.engine.grammar_limits import (
    APART_LIMITS,
    APART_TOKENS_OF_FUEL,
    LIMITS,
    TOKENS_OF_FUEL,
)
from airdraft.nodes.engine.grammar_rules import rules_of
from airdraft.nodes.engine.protocol import StreamError
from airdraft.nodes.engine.rules import Grammar

Mask: TypeAlias = npt.NDArray[np.bool_]
# Gives the bytes that a token adds to a text, as Tokenizer.piece does.
Piece: TypeAlias = Callable[[int], bytes]

# The most memory of all compiled grammars, and the least that one is counted as beside its text.
_MAX_COMPILED_BYTES: Final = 64 << 20
_LEAST_BYTES: Final = 32 << 10
# What a lexer grows by later is not counted: 0.3 MB with common schemas, and 3 to 12 MB where it
# reached its limits (SmolLM2, 2026-12-02).
_MAX_COMPILED: Final = 64
# How llguidance's errors of these limits begin or what they contain.
_WORK_ERRORS: Final = ("Too many items", "items; max is", "too many expressions", "too many states")
# A grammar whose first tokens already need too much is refused before a pass is run for it. More
# tokens of the dearest grammars would take more than the time of a check.
_NUM_TRIED: Final = 8


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


class LexerError(GrammarError):
    """The state's lexer is of no more use, maybe because of other texts. See GrammarState.apart."""


class _Lexer:
    """The lexer that the states of a compiled grammar share.

    unmasked: A matcher of the empty text, which must not remember its mask. anew: Compiles the
    grammar for a text that has the lexer for itself; returns the state of the empty text.
    tokens_of_fuel: How many tokens may be read between two masks before it gets new fuel.
    """

    def __init__(
        self, unmasked: Any, anew: Callable[[], GrammarState], tokens_of_fuel: int
    ) -> None:
        self.anew = anew
        self.tokens_of_fuel = tokens_of_fuel
        self.is_broken = False
        self._unmasked = unmasked

    def refuel(self) -> str:
        """Let the lexer do the work of a mask from now on. Returns its error, or "".

        The empty text's mask adds nothing to the lexer.
        """
        matcher = self._unmasked.deep_copy()
        matcher.compute_bitmask()
        self.is_broken = matcher.is_error()
        return _first_line(matcher.get_error()) if self.is_broken else ""


class GrammarState:
    """The state of a grammar after the text so far."""

    def __init__(
        self, matcher: Any, lexer: _Lexer, num_vocab: int, eog_ids: frozenset[int]
    ) -> None:
        self._matcher = matcher
        self._lexer = lexer
        self._num_vocab = num_vocab
        self._eog_ids = eog_ids
        self._eog_list = sorted(eog_ids)
        # The number of tokens from the end-of-text token on.
        self._num_after_end = 0
        # The tokens that there is still fuel for, unless other states have used it up.
        self._num_fuelled = 0

    def allowed(self) -> Mask:
        """Returns a (num_vocab,) mask of the tokens that may come next; it allows at least one.

        Raises GrammarError.
        """
        if self._num_after_end:
            mask = np.zeros(self._num_vocab, dtype=np.bool_)
            mask[self._eog_list] = True
            return mask
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        self._num_fuelled = self._lexer.tokens_of_fuel
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
            return
        if not self._num_fuelled:
            self._lexer.refuel()
            self._num_fuelled = self._lexer.tokens_of_fuel
        self._num_fuelled -= 1
        if not self._matcher.consume_token(token_id):
            self._check()
            raise GrammarError("a token does not follow the grammar")

    def copy(self) -> GrammarState:
        """Returns a state of the same text, which goes on by itself."""
        matcher = self._matcher.deep_copy()
        copied = GrammarState(matcher, self._lexer, self._num_vocab, self._eog_ids)
        copied._num_after_end = self._num_after_end
        return copied

    def apart(self) -> GrammarState:
        """Compile the grammar and return the state of an empty text, in a lexer of its own.

        Raises GrammarError. If one text is pushed and one mask computed, a LexerError depends on
        nothing else.
        """
        return self._lexer.anew()

    @property
    def is_broken(self) -> bool:
        """Whether the lexer was found to be of no more use."""
        return self._lexer.is_broken

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
            # llguidance's only message where no token can spell what the grammar allows.
            if reason.startswith("NoExtension"):
                reason = "no token of the model's vocabulary can come next"
                raise NoTokenError(f"the grammar cannot go on: {reason}")
            lexer_reason = self._lexer.refuel()
            reason = lexer_reason or reason
            if any(part in reason for part in _WORK_ERRORS):
                reason = (
                    "a token takes too much work: write repetition as + or * and not as a rule "
                    f"that calls itself, or use fewer optional properties or patterns ({reason})"
                )
            kind = LexerError if lexer_reason else GrammarError
            raise kind(f"the grammar cannot go on: {reason}")


@dataclass(frozen=True, slots=True)
class Checked:
    """A grammar that can be used: in llguidance's dialect of Lark, and the bytes that it takes.

    Python code makes these rules, up to 0.6 s for GBNF, in which no other Python code runs.
    """

    rules: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class _Known:
    """The state of an empty text, or the reason why there is none, and its size in the cache."""

    state: GrammarState | None
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
            found = self._known.get(grammar)
            return found is not None and not _is_broken(found)

    def compile(self, grammar: Grammar) -> None:
        """Compile a grammar, which may take seconds the first time. Raises GrammarError."""
        self._state_of(grammar)

    def begin(self, grammar: Grammar) -> GrammarState:
        """Returns the state of an empty text, fast if it is compiled. Raises GrammarError."""
        return self._state_of(grammar).copy()

    def _state_of(self, grammar: Grammar) -> GrammarState:
        found = self._kept(grammar)
        if found is None:
            # Not under the lock: two threads may compile the same grammar, but none waits for it.
            found = self._made(grammar)
            self._keep(grammar, found)
        if found.state is None:
            raise GrammarError(found.error)
        return found.state

    def _kept(self, grammar: Grammar) -> _Known | None:
        with self._lock:
            found = self._known.pop(grammar, None)
            if found is None or _is_broken(found):
                return None
            self._known[grammar] = found
            return found

    def _keep(self, grammar: Grammar, known: _Known) -> None:
        with self._lock:
            self._known[grammar] = known
            total = sum(each.num_bytes for each in self._known.values())
            for oldest in list(self._known)[:-1]:
                if total <= _MAX_COMPILED_BYTES and len(self._known) <= _MAX_COMPILED:
                    break
                total -= self._known.pop(oldest).num_bytes

    def _made(self, grammar: Grammar) -> _Known:
        """Compile a grammar or keep its error. Raises GrammarError if the node is at fault."""
        # Checked first, because the process that checks grammars does not start without it.
        _library()
        least = _LEAST_BYTES + len(grammar.text)
        try:
            checked = self.tried(grammar) if self._check is None else self._check(grammar)
            least += len(checked.rules)
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
        state = self._compile(rules)
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

    def _compile(self, rules: str, *, is_apart: bool = False) -> GrammarState:
        library = _library()
        limits = library.LLParserLimits(**(APART_LIMITS if is_apart else LIMITS))
        matcher = library.LLMatcher(self._vocabulary(library), rules, log_level=0, limits=limits)
        if matcher.is_error():
            raise GrammarError(f"the grammar is not valid: {_reason(matcher.get_error())}")
        tokens_of_fuel = APART_TOKENS_OF_FUEL if is_apart else TOKENS_OF_FUEL
        anew = partial(self._compile, rules, is_apart=True)
        lexer = _Lexer(matcher.deep_copy(), anew, tokens_of_fuel)
        state = GrammarState(matcher, lexer, self._num_vocab, self._eog_ids)
        # The first mask takes longest, so it is computed now. It also rejects a grammar by which no
        # text can begin.
        state.allowed()
        return state

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
    """Returns a grammar in llguidance's dialect of Lark. Raises GrammarError."""
    try:
        return rules_of(grammar)
    except ValueError as error:
        raise GrammarError(_first_line(str(error))) from None


def _is_broken(known: _Known) -> bool:
    return known.state is not None and known.state.is_broken


def _library() -> Any:
    # It is loaded with the first grammar, because few nodes see one.
    import llguidance

    return llguidance


def _reason(error: str) -> str:
    """Returns llguidance's reason without the position in the translated grammar."""
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
