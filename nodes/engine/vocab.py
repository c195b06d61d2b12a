"""A model's vocabulary: its hash, the pieces of its tokens, and prompts in its chat template."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airdraft.nodes.engine.chat.quoting import ControlTexts, Quotes, check_role
from airdraft.nodes.engine.chat.tools import mapped, parse_tools
from airdraft.nodes.engine.llama_abi import library
from airdraft.nodes.engine.protocol import EngineError, InvalidInputError, Message

if TYPE_CHECKING:
    from airdraft.nodes.engine.chat.template import ChatTemplate

MAX_PROMPT_BYTES = 1 << 20
_MAX_PIECE_BYTES = 4096
# SentencePiece puts a space before a text, but not if this precedes it.
_LINE_BREAK = "\n"


class LlamaTokenizer:
    """The tokenizer of a loaded libllama model. It only reads the vocabulary, so it is thread-safe.

    SandboxedTokenizer encodes the texts of clients in another process.
    """

    def __init__(self, model: Any) -> None:
        self._llama = library()
        self._model = model
        self._vocab = self._llama.llama_model_get_vocab(model)
        self.num_vocab = int(self._llama.llama_vocab_n_tokens(self._vocab))
        if self.num_vocab <= 0:
            raise EngineError("the model has no vocabulary")
        self._pieces: dict[int, bytes] = {}

    def encode(self, text: str) -> list[int]:
        if not text:
            raise InvalidInputError("the prompt is empty")
        return _not_empty(self._tokens(text, add_special=True, parse_special=False))

    def encode_chat(
        self, messages: Sequence[Message], *, date: str = "", tools: str = ""
    ) -> list[int]:
        parsed = parse_tools(tools)
        for role, _ in messages:
            check_role(role)
        quotes = Quotes(self._controls)
        quoted = [
            {
                **mapped(parsed.fields.get(place, {}), quotes.quote),
                "role": role,
                "content": quotes.quote(content),
            }
            for place, (role, content) in enumerate(messages)
        ]
        known, variables = (mapped(each, quotes.quote) for each in (parsed.tools, parsed.variables))
        rendered = self._template.render(quoted, date, known, variables)
        token_ids: list[int] = []
        for text, is_plain in quotes.split(rendered):
            if is_plain or token_ids:
                token_ids += self.inner_tokens(text, parse_special=not is_plain)
            else:
                # A template writes the special tokens itself, including the first one.
                token_ids += self._tokens(text, add_special=False, parse_special=True)
        return _not_empty(token_ids)

    def prepare(self) -> None:
        """Do the work that all conversations need once.

        If the template is missing or invalid, encode_chat() raises the error.
        """
        _ = self._controls
        with contextlib.suppress(InvalidInputError):
            _ = self._template

    def inner_tokens(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Returns the tokens of text that follows other text."""
        tokens = functools.partial(self._tokens, add_special=False, parse_special=parse_special)
        if self._llama.llama_vocab_type(self._vocab) == self._llama.LLAMA_VOCAB_TYPE_SPM:
            before, both = tokens(_LINE_BREAK), tokens(_LINE_BREAK + text)
            if both[: len(before)] == before:
                return both[len(before) :]
        return tokens(text)

    def _tokens(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode()
        if len(data) > MAX_PROMPT_BYTES:
            raise InvalidInputError(f"the prompt has {len(data)} bytes, limit {MAX_PROMPT_BYTES}")
        room = len(data) + 16
        buffer = (self._llama.llama_token * room)()
        count = self._llama.llama_tokenize(
            self._vocab, data, len(data), buffer, room, add_special, parse_special
        )
        if count < 0:
            raise InvalidInputError("the prompt has more tokens than bytes")
        return list(buffer[:count])

    @functools.cached_property
    def _template(self) -> ChatTemplate:
        text = self._llama.llama_model_chat_template(self._model, None)
        if not text:
            raise InvalidInputError(
                "the model has no chat template: send a text that it continues, with --raw or to "
                "/v1/completions"
            )
        # Only the sandboxed process imports Jinja2, not the node itself.
        from airdraft.nodes.engine.chat.template import ChatTemplate

        variables = {f"{name}_token": self._special(name) for name in ("bos", "eos")}
        return ChatTemplate(text.decode("utf-8", "replace"), variables)

    @functools.cached_property
    def _controls(self) -> ControlTexts:
        """The texts that libllama reads as special tokens only if it is to parse special tokens."""
        kinds = self._llama.LLAMA_TOKEN_ATTR_CONTROL | self._llama.LLAMA_TOKEN_ATTR_UNKNOWN
        attributes = self._llama.llama_vocab_get_attr
        controls = [i for i in range(self.num_vocab) if attributes(self._vocab, i) & kinds]
        return ControlTexts(self._text(i).decode("utf-8", "replace") for i in controls)

    def _special(self, name: str) -> str:
        token_id = getattr(self._llama, f"llama_vocab_{name}")(self._vocab)
        return self._text(token_id).decode("utf-8", "replace") if token_id >= 0 else ""

    def _text(self, token_id: int) -> bytes:
        text: bytes | None = self._llama.llama_vocab_get_text(self._vocab, token_id)
        return text or b""

    def piece(self, token_id: int) -> bytes:
        """Returns the bytes that a token adds to the text; b"" for control tokens."""
        piece = self._pieces.get(token_id)
        if piece is None:
            # libllama aborts the process on an id outside the vocabulary.
            if not 0 <= token_id < self.num_vocab:
                raise InvalidInputError(f"token id {token_id} outside 0..{self.num_vocab - 1}")
            buffer = ctypes.create_string_buffer(_MAX_PIECE_BYTES)
            arguments = self._vocab, token_id, buffer, _MAX_PIECE_BYTES, 0, False
            size = self._llama.llama_token_to_piece(*arguments)
            piece = self._pieces[token_id] = ctypes.string_at(buffer, max(0, size))
        return piece

    def spelled(self, token_ids: Sequence[int]) -> str:
        """Returns the text of a prompt's tokens, with that of its control tokens."""
        texts = (self.piece(token_id) or self._text(token_id) for token_id in token_ids)
        return b"".join(texts).decode(errors="replace")

    def controls(self) -> dict[bytes, int]:
        """Returns the control tokens by the texts that templates write for them."""
        is_control = self._llama.LLAMA_TOKEN_ATTR_CONTROL
        attributes = self._llama.llama_vocab_get_attr
        ids = range(self.num_vocab)
        return {self._text(i): i for i in ids if attributes(self._vocab, i) & is_control}

    def first_token_ids(self) -> tuple[int, ...]:
        """Returns the tokens that precede every text: none, or the token that begins one."""
        if not self._llama.llama_vocab_get_add_bos(self._vocab):
            return ()
        return (int(self._llama.llama_vocab_bos(self._vocab)),)

    def eog_token_ids(self) -> frozenset[int]:
        """Returns the tokens that end a text."""
        is_eog = self._llama.llama_vocab_is_eog
        return frozenset(i for i in range(self.num_vocab) if is_eog(self._vocab, i))

    def content_hash(self) -> str:
        """Returns a hash of the kind, the special ids and the tokens' texts without padding.

        Two models with one hash use the same ids, so that one can verify the other's guesses. Files
        of one family often differ only in unused tokens at the end, which are left out.
        """
        llama = self._llama
        texts = [self._text(i) for i in range(self.num_vocab)]
        unused = llama.LLAMA_TOKEN_ATTR_UNUSED | llama.LLAMA_TOKEN_ATTR_UNKNOWN
        while texts and (
            not texts[-1]
            or texts[-1].startswith(b"[PAD")
            or llama.llama_vocab_get_attr(self._vocab, len(texts) - 1) & unused
        ):
            texts.pop()
        digest = hashlib.sha256()
        digest.update(b"%d" % llama.llama_vocab_type(self._vocab))
        for special in ("bos", "eos", "eot"):
            digest.update(b" %d" % getattr(llama, f"llama_vocab_{special}")(self._vocab))
        for text in texts:
            digest.update(len(text).to_bytes(4, "little") + text)
        return digest.hexdigest()[:32]


def _not_empty(token_ids: list[int]) -> list[int]:
    """Returns the tokens of a prompt. Raises InvalidInputError if there are none."""
    if not token_ids:
        raise InvalidInputError("the prompt has no tokens")
    return token_ids
