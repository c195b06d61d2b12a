"""How a model's thoughts begin is found by a prompt in its template, whose code decides it."""

import contextlib
from pathlib import Path

import pytest

from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.thinking import find_thinking
from tests.engine.kernels.tiny_models import SHAPES, write_model

# A process that renders templates takes a second to start.
pytestmark = pytest.mark.slow

TALK = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
OPENS = "{{ '<think>\n' if enable_thinking is not defined or enable_thinking }}"
CLOSES = "{{ '<think>\n' if enable_thinking }}{{ '<think>\n\n</think>\n' if not enable_thinking }}"


@pytest.mark.parametrize(
    ("template", "usual", "off", "on"),
    [
        (TALK, "", "", ""),
        (TALK + "{# </think> #}", "marked", "marked", "marked"),
        (TALK + "<think>", "opened", "opened", "opened"),
        # As Qwen3.5's, Bielik's and DeepSeek V3.1's.
        (TALK + OPENS, "opened", "marked", "opened"),
        (TALK + CLOSES, "marked", "marked", "opened"),
        (TALK + CLOSES.replace("enable_thinking", "thinking"), "marked", "marked", "opened"),
        ("{{ raise_exception('no') }}<think>", "marked", "marked", "marked"),
    ],
)
def test_it_is_what_a_prompt_ends_with(
    template: str, usual: str, off: str, on: str, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.gguf"
    write_model(path, SHAPES["width 512"], "Q8_0", template=template)
    config = LlamaConfig(path=path, num_cells=256, max_sequences=1)
    with contextlib.closing(LlamaModel(config)) as model:
        find_thinking(model)
        traits = model.info.traits
    assert (traits.thinking, traits.thinking_off, traits.thinking_on) == (usual, off, on)
