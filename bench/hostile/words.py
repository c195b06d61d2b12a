"""Send words of 60,000 equal characters to meshes with every pre-tokenizer of libllama."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx

from bench.harness.report import Findings
from bench.harness.up import up
from bench.hostile.gguf_copies import copy_with
from bench.hostile.requests import (
    ANSWER_LIMIT_S,
    LIMITED,
    WORD_CHARS,
    Found,
    ask,
    chat,
    processes,
    seconds_of_reading,
)
from nodes.engine.llama_abi import library, load_model
from nodes.engine.protocol import ModelFileError

_CHARS: Final = "aA!é 0\n\u4e2d-"
# The names in llama.cpp's src/llama-vocab.cpp; those that a build does not know are skipped.
_PRE_TOKENIZERS: Final = """
default llama3 falcon3 falcon-h1 pixtral deepseek-llm deepseek-coder deepseek-v3 falcon mpt
starcoder gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert
jina-v1-en jina-v2-code roberta-bpe refact command-r qwen2 deepseek-r1-qwen qwen35 stablelm2 olmo
dbrx smaug-bpe poro-chat glm4 chatglm-bpe viking jais tekken smollm codeshell bloom gpt3-finnish
exaone exaone4 chameleon minerva-7b megrez gpt-4o llama4 superbpe trillion bailingmoe bailingmoe2
llada-moe seed-coder hunyuan hunyuan-dense kimi-k2 grok-2 granite-docling midm-2.0 lfm2 afmoe
minimax-m2
"""


async def ask_words(model: Path, note: Callable[[str], None]) -> Findings:
    """Send each word to a mesh with each pre-tokenizer.

    model: a GGUF file, of which copies with other pre-tokenizers are made. note: called with a line
    for each of them. Raises NotStartedError if a mesh does not start.
    """
    all_found = Findings()
    for pre in _PRE_TOKENIZERS.split():
        found = Found()
        with tempfile.TemporaryDirectory(prefix="airdraft-bench-") as folder:
            path = Path(folder) / "copy.gguf"
            copy_with(model, path, "tokenizer.ggml.pre", pre)
            if not _is_known(path):
                note(f"{pre}: not known to this build")
                continue
            with up("--model", str(path), "--draft", "none", prefix=LIMITED) as mesh:
                async with httpx.AsyncClient(base_url=mesh.url, timeout=ANSWER_LIMIT_S) as client:
                    await chat(client, found)
                    pids, _ = processes(mesh.process.pid)
                    reading_s = await seconds_of_reading(client)
                    for char in _CHARS:
                        messages = [{"role": "user", "content": char * WORD_CHARS}]
                        body = {"messages": messages, "max_tokens": 1}
                        name = f"a word of {char!r}"
                        await ask(client, found, name, "/chat/completions", body, reading_s)
                    await chat(client, found)
                    if not pids <= processes(mesh.process.pid)[0]:
                        found.faults.append("a node has ended or was restarted")
        note(f"{pre}: {found.by_status()}, slowest refusal {found.slowest_refusal_s:.1f} s")
        all_found.faults += [f"{pre}: {fault}" for fault in [*found.faults, *mesh.faults]]
    return all_found


def _is_known(path: Path) -> bool:
    try:
        pointer = load_model(path, gpu_layers=0, repack=False, vocab_only=True)
    except ModelFileError:
        return False
    library().llama_model_free(pointer)
    return True
