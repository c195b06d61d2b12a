"""A short form of `python -m bench live gateway`, and what requests leave behind in a mesh."""

import asyncio
import contextlib
import re
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from airdraft.nodes.catalog import DEFAULT_TARGET
from airdraft.nodes.engine.protocol import EngineError
from bench.bare import BareLoop
from bench.harness.fleet import Setup, fleet
from bench.harness.http import COMPLETIONS, http_client, leave, request_of
from bench.harness.processes import resident_bytes, tree
from bench.harness.work import answered
from bench.live.gateway import gateway_command
from bench.options import model_file

CHAT = "/v1/chat/completions"
CANARY = "kestrel-0d7e91b4"
LIMIT_S = 120.0
MESSAGE = {"role": "user", "content": f"Say {CANARY}."}
SCHEMA = {"type": "object", "properties": {CANARY: {"const": CANARY}}, "required": [CANARY]}
OF_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": CANARY}}
# Valid and invalid ones, with the word wherever a text is possible.
ASKED: list[tuple[str, dict[str, Any]]] = [
    (COMPLETIONS, {}),
    (COMPLETIONS, {"stream": True, "user": CANARY}),
    (COMPLETIONS, {"prompt": [CANARY, CANARY * 2], "n": 2, "stop": [CANARY]}),
    (COMPLETIONS, {"echo": True, "logprobs": 2, "max_tokens": 0}),
    (COMPLETIONS, {"grammar": f'root ::= "{CANARY}"', "max_tokens": 40}),
    (COMPLETIONS, {"max_tokens": 30_000}),
    (COMPLETIONS, {"model": CANARY}),
    (COMPLETIONS, {"grammar": f"root ::= ( {CANARY}"}),
    (COMPLETIONS, {CANARY: 1}),
    (COMPLETIONS, {"prompt": {CANARY: CANARY}}),
    (CHAT, {}),
    (CHAT, {"messages": [{"role": "system", "content": CANARY}, MESSAGE], "n": 3}),
    (CHAT, {"stream": True, "logprobs": True, "top_logprobs": 1}),
    (CHAT, {"response_format": OF_SCHEMA, "max_tokens": 80}),
    (CHAT, {"response_format": {"type": CANARY}}),
    (CHAT, {"messages": [{"role": CANARY, "content": "x"}]}),
    (CHAT, {"tools": [TOOL]}),
]
DEFAULTS: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": f"{CANARY} and so on", "max_tokens": 8},
    CHAT: {"messages": [MESSAGE], "max_tokens": 8},
}


def read(path: str) -> bytes:
    """Returns what a file holds; nothing if its process has ended, or if it is a folder."""
    with contextlib.suppress(OSError):
        return Path(path).read_bytes()
    return b""


async def test_a_word_of_prompts_is_found_nowhere(tmp_path: Path) -> None:
    setup = Setup(
        num_targets=1, num_drafts=1, num_gateways=1, environ={"TMPDIR": str(tmp_path)}, fresh=True
    )
    async with fleet(setup, starts=()) as mesh:
        for name in mesh.roles:
            await mesh.start(name, "-v", "-v")
        port = await mesh.wait_ready("gateway-0", LIMIT_S)
        async with http_client(port, LIMIT_S) as http:

            async def sent(path: str, body: dict[str, Any] | None) -> httpx.Response:
                """What a gateway answers, after a pause of the machine as well as without one."""

                async def once() -> httpx.Response:
                    answer = await (http.post(path, json=body) if body else http.get(path))
                    if answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
                        answer.raise_for_status()
                    return answer

                return await answered(once, mesh.has_lost_coordinator)

            bodies = [(path, {**DEFAULTS[path], **changes}) for path, changes in ASKED]
            answers = await asyncio.gather(*(sent(path, body) for path, body in bodies))
            # Sent one after the other, they find the prompts that the target has kept.
            answers += [await sent(path, body) for path, body in bodies]
            assert {answer.status_code for answer in answers} >= {200, 400, 404}
            long = {"prompt": CANARY, "max_tokens": 3000, "stream": True, "ignore_eos": True}
            for _ in range(5):
                await leave(port, request_of(COMPLETIONS, long), 100, 0.0)
            pages = ("/", "/metrics", "/api/status")
            shown = {page: (await sent(page, None)).raise_for_status().content for page in pages}
        roles = [mesh.process(name).pid for name in mesh.roles]
        for pid in (pid for role in roles for pid in tree(role)):
            for path in (f"/proc/{pid}/cmdline", f"/proc/{pid}/environ"):
                shown[path] = read(path)
        logs = [mesh.log(name) for name in mesh.roles]
        assert all(path.stat().st_size for path in logs)
        files = [path for folder in (mesh.folder, tmp_path) for path in folder.rglob("*")]
        shown |= {str(path): read(str(path)) for path in files}
        assert [place for place, content in shown.items() if CANARY.encode() in content] == []
        # A core dump would hold prompts, so no process may leave one.
        for pid in roles:
            lines = read(f"/proc/{pid}/limits").decode().splitlines()
            (line,) = (line for line in lines if line.startswith("Max core file size"))
            assert line.split()[4:6] == ["0", "0"]


async def test_idle_streams_cost_little() -> None:
    count = 200
    limits = {f"AIRDRAFT_LIMITS__MAX_CONCURRENT{of}": "1000" for of in ("", "_PER_KEY")}
    setup = Setup(
        num_targets=1,
        num_drafts=0,
        num_gateways=1,
        # Its streams get a token a second, and most of the others have to wait for their turn.
        target_model="toy:1@1000ms",
        environ=limits,
        fresh=True,
    )
    request = request_of(COMPLETIONS, {"prompt": "idle", "stream": True, "max_tokens": 3000})
    writers = []
    async with fleet(setup) as mesh, mesh.clients(1, "admin") as (client,):
        port, pid = await mesh.wait_ready("gateway-0", LIMIT_S), mesh.process("gateway-0").pid
        before_bytes, num_streams = resident_bytes(pid), 0
        for _ in range(count):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            writers.append(writer)
        async with asyncio.timeout(LIMIT_S):
            while num_streams < count:
                status = await client.status()
                num_streams = status.num_streams + status.waiting.num_streams
        # What Python's allocator takes in large pieces counts, too.
        assert resident_bytes(pid) - before_bytes < count * 64 * 1024
        for writer in writers:
            writer.transport.abort()


@pytest.mark.model
def test_what_a_bare_loop_has_no_room_for_is_told_in_a_line() -> None:
    with closing(BareLoop(model_file(DEFAULT_TARGET))) as bare:
        assert bare.measure(16, 12, 4) > 0
        for count, num_tokens in ((17, 12), (1, 8193)):
            with pytest.raises(EngineError, match="room for 16 streams and 8,192 tokens"):
                bare.measure(count, num_tokens)


@pytest.mark.model
def test_the_gateway_is_measured_beside_a_bare_loop() -> None:
    asked = "--streams 2 --pairs 2 --max-tokens 24 --prompts 40"
    rates, first = CliRunner().invoke(gateway_command, asked).output.splitlines()
    found = re.match(r"2 streams: (.*) tokens/s through the gateway, (.*) of the bare loop", rates)
    assert found is not None, rates
    assert min(map(float, found.groups())) > 0
    found = re.match(r"prompt of 40 tokens: first token after (.*) ms, (.*) ms in the bare", first)
    assert found is not None, first
    assert min(map(float, found.groups())) > 0
