"""Words of 60,000 letters and signs, with every way to cut texts that libllama knows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.hostile.gguf_copies import copy_with
from nodes.engine.llama_abi import library, load_model
from nodes.engine.protocol import InvalidInputError, ModelFileError
from nodes.engine.sandbox.users import SandboxedTokenizer
from nodes.engine.vocab import LlamaTokenizer

_NUM_CHARS: Final = 60_000
_CHARS: Final = "aA!é 0\n\u4e2d-"
# Of src/llama-vocab.cpp; those that a build does not know are left out.
_PRE_TOKENIZERS: Final = """
default llama3 falcon3 falcon-h1 pixtral deepseek-llm deepseek-coder deepseek-v3 falcon mpt
starcoder gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert
jina-v1-en jina-v2-code roberta-bpe refact command-r qwen2 deepseek-r1-qwen qwen35 stablelm2 olmo
dbrx smaug-bpe poro-chat glm4 chatglm-bpe viking jais tekken smollm codeshell bloom gpt3-finnish
exaone exaone4 chameleon minerva-7b megrez gpt-4o llama4 superbpe trillion bailingmoe bailingmoe2
llada-moe seed-coder hunyuan hunyuan-dense kimi-k2 grok-2 granite-docling midm-2.0 lfm2 afmoe
minimax-m2
"""


def read_words(model: Path) -> Iterator[str]:
    """A line for each: seconds of the slowest word, and what was refused."""
    for pre in _PRE_TOKENIZERS.split():
        with tempfile.TemporaryDirectory(prefix="airdraft-bench-") as folder:
            path = Path(folder) / "copy.gguf"
            copy_with(model, path, "tokenizer.ggml.pre", pre)
            try:
                pointer = load_model(path, gpu_layers=0, repack=False, vocab_only=True)
            except ModelFileError:
                yield f"{pre}: not known to this build"
                continue
            tokenizer = SandboxedTokenizer(path, LlamaTokenizer(pointer))
            slowest_s, refused = 0.0, []
            try:
                for char in _CHARS:
                    begin = time.perf_counter()
                    try:
                        tokenizer.encode(char * _NUM_CHARS)
                    except InvalidInputError:
                        refused.append(repr(char))
                    slowest_s = max(slowest_s, time.perf_counter() - begin)
                # The next one is read, whatever the ones before were.
                tokenizer.encode("an ordinary text")
            finally:
                tokenizer.close()
                library().llama_model_free(pointer)
            said = f"refused {', '.join(refused)}" if refused else "all read"
            yield f"{pre}: {said}, the slowest took {slowest_s:.1f} s"
