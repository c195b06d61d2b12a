"""A model's vocabulary: hash for compatibility, pieces, prompts in the chat template."""

from __future__ import annotations

import ctypes
import hashlib
from datetime import datetime
from typing import Any

from nodes.engine.llama_abi import library
from nodes.engine.protocol import EngineError, InvalidInputError

MAX_PROMPT_BYTES = 1 << 20
_MAX_PIECE_BYTES = 4096


class LlamaTokenizer:
    """Tokenizer of a loaded libllama model. Reads the vocabulary only, so any thread may call."""

    def __init__(self, model: Any) -> None:
        self._llama = library()
        self._model = model
        self._vocab = self._llama.llama_model_get_vocab(model)
        self.num_vocab = int(self._llama.llama_vocab_n_tokens(self._vocab))
        if self.num_vocab <= 0:
            raise EngineError("the model has no vocabulary")
        self._pieces: dict[int, bytes] = {}

    def encode(self, text: str, *, chat: bool) -> list[int]:
        if chat:
            # A template writes the special tokens itself, the first one included.
            text = self._render_chat(text)
        data = text.encode()
        if not data:
            raise InvalidInputError("the prompt is empty")
        if len(data) > MAX_PROMPT_BYTES:
            raise InvalidInputError(f"the prompt has {len(data)} bytes, limit {MAX_PROMPT_BYTES}")
        room = len(data) + 16
        buffer = (self._llama.llama_token * room)()
        count = self._llama.llama_tokenize(
            self._vocab, data, len(data), buffer, room, not chat, chat
        )
        if count <= 0:
            raise InvalidInputError("the prompt has no tokens")
        return list(buffer[:count])

    def _render_chat(self, text: str) -> str:
        template = self._llama.llama_model_chat_template(self._model, None)
        if not template:
            raise InvalidInputError("the model has no chat template: use --raw")
        # jinja2 comes with llama-cpp-python; templates are code of the model file, so sandboxed.
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            rendered = environment.from_string(template.decode()).render(
                messages=[{"role": "user", "content": text}],
                add_generation_prompt=True,
                bos_token=self._special("bos"),
                eos_token=self._special("eos"),
            )
        except (TemplateError, TypeError) as error:
            raise InvalidInputError(f"the model's chat template fails: {error}") from error
        return rendered

    def _special(self, name: str) -> str:
        token_id = getattr(self._llama, f"llama_vocab_{name}")(self._vocab)
        return self._text(token_id).decode("utf-8", "replace") if token_id >= 0 else ""

    def _text(self, token_id: int) -> bytes:
        text: bytes | None = self._llama.llama_vocab_get_text(self._vocab, token_id)
        return text or b""

    def piece(self, token_id: int) -> bytes:
        piece = self._pieces.get(token_id)
        if piece is None:
            # libllama ends the process on an id outside the vocabulary.
            if not 0 <= token_id < self.num_vocab:
                raise InvalidInputError(f"token id {token_id} outside 0..{self.num_vocab - 1}")
            buffer = ctypes.create_string_buffer(_MAX_PIECE_BYTES)
            size = self._llama.llama_token_to_piece(
                self._vocab, token_id, buffer, _MAX_PIECE_BYTES, 0, False
            )
            piece = buffer.raw[:size] if size > 0 else b""
            self._pieces[token_id] = piece
        return piece

    def eog_token_ids(self) -> frozenset[int]:
        is_eog = self._llama.llama_vocab_is_eog
        return frozenset(i for i in range(self.num_vocab) if is_eog(self._vocab, i))

    def content_hash(self) -> str:
        """Hash of kind, special ids and every token's text, a padded tail left out.

        Two models of one hash number their tokens alike, so guesses of one can be verified by
        the other. Files of one family often differ only in unused tokens at the end.
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
