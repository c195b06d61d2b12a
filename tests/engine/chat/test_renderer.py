"""The process of a template: limits, restarts, ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from nodes.engine.chat.renderer import ChatRenderer
from nodes.engine.protocol import InvalidInputError

HI = [("user", "hi")]
# A conversation chooses what the template does.
TEMPLATE = """
{%- if messages[0].content == "loop" %}
{%- for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}
{%- elif messages[0].content == "memory" %}
{%- set held = messages[0].role * 10 ** 9 %}{{ held | length }}
{%- endif %}{{ mark }}{{ messages[0].content }}"""

Make = Callable[..., ChatRenderer]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[ChatRenderer] = []

    def start(template: str = TEMPLATE, limit_s: float = 30.0) -> ChatRenderer:
        made.append(ChatRenderer(template, {"mark": ">"}, limit_s=limit_s))
        return made[-1]

    yield start
    for renderer in made:
        renderer.close()


def pid(renderer: ChatRenderer) -> int:
    assert renderer._child is not None
    return renderer._child.pid


def test_one_process_renders_one_conversation_after_the_other(make: Make) -> None:
    renderer = make()
    assert renderer._child is None
    assert renderer.render(HI) == ">hi"
    first = pid(renderer)
    assert renderer.render([("user", "é\U0001f600\n" * 30_000)]) == ">" + "é\U0001f600\n" * 30_000
    assert pid(renderer) == first


def test_a_rendering_that_takes_too_long_is_ended_and_the_next_is_served(make: Make) -> None:
    renderer = make(limit_s=1.0)
    with pytest.raises(InvalidInputError, match="took more than 1 s"):
        renderer.render([("user", "loop")])
    renderer._limit_s = 30.0
    assert renderer.render(HI) == ">hi"


def test_without_its_parents_limit_its_own_ends_it(make: Make) -> None:
    with pytest.raises(InvalidInputError, match="was ended"):
        make(limit_s=100.0).render([("user", "loop")])


def test_memory_is_bounded(make: Make) -> None:
    renderer = make()
    with pytest.raises(InvalidInputError, match="fails: MemoryError"):
        renderer.render([("user", "memory")])
    assert renderer.render(HI) == ">hi"


def test_a_process_that_was_ended_from_outside_is_started_again(make: Make) -> None:
    renderer = make()
    renderer.render(HI)
    assert renderer._child is not None
    renderer._child.kill()
    renderer._child.wait()
    assert renderer.render(HI) == ">hi"


def test_a_template_that_cannot_be_compiled_is_tried_once(make: Make) -> None:
    renderer = make("{% for %}")
    for _ in range(2):
        with pytest.raises(InvalidInputError, match="chat template fails"):
            renderer.render(HI)
        child = renderer._child
    assert renderer._child is child


def test_close_ends_the_process_and_who_waits_for_it(make: Make) -> None:
    renderer = make(limit_s=100.0)
    renderer.render(HI)
    process = pid(renderer)
    errors: list[str] = []

    def ask() -> None:
        try:
            renderer.render([("user", "loop")])
        except InvalidInputError as error:
            errors.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    renderer.close()
    thread.join()
    assert len(errors) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with pytest.raises(InvalidInputError, match="the node stops"):
        renderer.render(HI)
    renderer.close()


def test_nothing_is_left_when_the_parent_is_killed() -> None:
    """It ends with its standard input, which only the parent holds."""
    script = (
        "import os, signal\n"
        "from nodes.engine.chat.renderer import ChatRenderer\n"
        "renderer = ChatRenderer('x', {})\n"
        "renderer.render([('user', 'hi')])\n"
        "print(renderer._child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    child = int(done.stdout)
    give_up_at = time.monotonic() + 30
    while is_running(child) and time.monotonic() < give_up_at:
        time.sleep(0.01)
    assert not is_running(child)


def is_running(process: int) -> bool:
    """Not a zombie that nobody waits for, either."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_sandbox_is_light() -> None:
    script = (
        "import sys, nodes.engine.chat.sandbox\n"
        "print([m for m in ('llama_cpp', 'numpy', 'asyncio', 'zmq') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    # Jinja2 itself imports asyncio.
    assert done.stdout.decode().strip() in ("[]", "['asyncio']")


def test_what_a_template_writes_that_is_no_text_is_made_one(make: Make) -> None:
    refusing = r"""{% if messages[0].content == "no" %}{{ raise_exception("\ud800") }}{% endif %}"""
    halves = refusing + r"""{{ "a\udc00" }}"""
    assert make(halves).render(HI) == "a?"
    with pytest.raises(InvalidInputError, match=r"refuses the conversation: [?]$"):
        make(halves).render([("user", "no")])
