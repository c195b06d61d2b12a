"""The waits of mesh and nodes that have no limit of their own, by the reason why they need none.

A wait is a file, the function in it, and what is waited for.
"""

from typing import Final

ALLOWED: Final[dict[str, tuple[str, ...]]] = {
    "It serves until its owner cancels it.": (
        "nodes/api/blocking.py Client._serve async with connecting",
        "nodes/api/blocking.py Client._serve await self._stop.wait",
        "nodes/cli/serve.py _served await asyncio.Event().wait",
        "nodes/cli/serve.py serve_command.serve async with local",
        "nodes/cli/run.py run_command.generate async with local",
        "nodes/coordinator/service.py Coordinator._keep_planning await self._plan_due.wait",
        "nodes/coordinator/service.py Coordinator._read await self._transport.recv",
        "nodes/stage/node.py StageNode._serve await self._transport.recv",
        "nodes/worker/engine_thread.py EngineThread.run await asyncio.shield",
        "nodes/worker/mask_thread.py MaskThread.run await ended",
        "nodes/worker/prefix_thread.py PrefixThread.run await ended",
        "nodes/gateway/server.py HttpServer.serve await asyncio.shield",
        "nodes/worker/connection.py Connection._read await self._transport.recv",
        "nodes/worker/grammar_queue.py GrammarQueue.run await self._is_asked.wait",
        "nodes/service/runtime.py _until_signal await task",
        "nodes/service/supervision.py until_parent_gone await loop.connect_read_pipe",
        "nodes/service/supervision.py until_parent_gone await reader.read",
        "nodes/target/text_reader.py TextReader.run await self._is_asked.wait",
    ),
    "A transport waits for others by its nature: who calls it has the limit, or serves.": (
        "mesh/zmq_endpoint.py ZmqEndpoint._wait_for await waiter",
    ),
    "A task that has ended or was cancelled just before: only its clean-up is waited for.": (
        "nodes/gateway/running.py result_of await asyncio.gather",
        "nodes/gateway/models.py Fresh.stop await asyncio.gather",
        "nodes/service/runtime.py beside await asyncio.gather",
        "nodes/service/runtime.py beside await task",
        "nodes/service/stages.py run_stage await asyncio.gather",
        "nodes/service/local.py local_mesh await asyncio.gather",
        "nodes/service/systemd.py Manager.attending await asyncio.gather",
        "nodes/service/systemd.py Manager.patient await asyncio.gather",
    ),
    "It ends with the connection to the coordinator or to a stage, which heartbeats end.": (
        "nodes/stage/chain.py Chain._listen await link.client.recv",
        "nodes/stage/fetching.py Fetching._next await self._replies.get",
        "nodes/gateway/exchange.py Exchange._ask_all.ask async for events",
        "nodes/gateway/exchange.py Exchange._ask_all.ask async with contextlib.aclosing",
        "nodes/service/runtime.py beside await asyncio.wait",
    ),
    "What is waited for has a limit itself.": (
        # Each stage has one for its answer.
        "nodes/stage/asking.py facts_of.ask_all await asyncio.gather",
        # PendingReply.within_limit().
        "nodes/client/inbox.py Inbox.wait_to_begin await self._may_begin.wait",
        "nodes/client/inbox.py PendingReply.next await queue.get",
        # The coordinator ends every request after its max_request_s.
        "nodes/gateway/running.py result_of await asyncio.wait",
        "nodes/gateway/text_routes.py _count_tokens await asking.read",
        "nodes/gateway/text_routes.py _detokenize await asking.read",
        "nodes/gateway/text_routes.py _tokenize await asking.read",
        "nodes/gateway/text_routes.py _vectors await asking.read",
        "nodes/gateway/text_routes.py _vectors.one async with turns",
        "nodes/gateway/text_routes.py _vectors.one await asking.read",
        # Its caller's, for the whole answer.
        "nodes/api/blocking.py Stream._next await anext",
        "nodes/api/client.py AsyncStream.completed async for self",
        "nodes/api/client.py AsyncStream.completed async with self",
        # A context of ours, whose waits are looked at there.
        "nodes/gateway/generate.py Generate._answer async with contextlib.AsyncExitStack",
        "nodes/gateway/generate.py Generate._answer await stack.enter_async_context",
        "nodes/gateway/models.py Fresh.latest await asyncio.shield",
        # uvicorn ends connections that are left in its shutdown after timeout_graceful_shutdown.
        "nodes/gateway/server.py HttpServer._stop await asyncio.gather",
        # Its own argument ssl_handshake_timeout is the limit.
        "nodes/gateway/connections/handshake.py Handshake._shake_hands await self._loop.start_tls",
    ),
    "gateway/connection.py ends connections that do not read or write in time.": (
        "nodes/gateway/app.py Gateway.router.app await router",
        "nodes/gateway/connections/connection.py Connection._answer await self.config.loaded_app",
        "nodes/gateway/connections/connection.py Connection._answer.receiving await receive",
        "nodes/gateway/connections/connection.py Connection._answer.sending await send",
        "nodes/gateway/connections/connection.py Connection.until_read await self.flow.drain",
        "nodes/gateway/exchange.py Exchange._tell await send",
        "nodes/gateway/exchange.py Exchange.stream.on_delta async with telling",
        "nodes/gateway/sending.py JsonInPieces.__call__ await response",
        "nodes/gateway/sending.py JsonInPieces.__call__ await send",
        "nodes/gateway/sending.py _until_left await receive",
        "nodes/gateway/exchange.py Exchange.stream.ending await send",
        "nodes/gateway/running.py _until_disconnect await receive",
        "nodes/gateway/guard.py Guard.__call__ await self._app",
        "nodes/gateway/guard.py Guard.__call__.sending await send",
        "nodes/gateway/guard.py Guard.__call__ await response",
        "nodes/gateway/guard.py Guard.__call__ await self._preflight(origin, headers)",
        "nodes/gateway/generate.py Generate._answer await rest",
        "nodes/gateway/text_routes.py TextHandler.__call__ await answer",
    ),
    "A thread or the kernel does it: it cannot be interrupted, and ends.": (
        "nodes/coordinator/members/authentication.py Authentication.keep_expiring "
        "await asyncio.to_thread",
        "nodes/gateway/bodies.py BodyReader.run async with self._turn",
        "nodes/gateway/bodies.py BodyReader.run await asyncio.to_thread",
        "nodes/service/local.py LocalMesh._start await asyncio.create_subprocess_exec",
        "nodes/coordinator/service.py Coordinator._enrol await asyncio.to_thread",
        "nodes/coordinator/service.py Coordinator._keep_planning await loop.run_in_executor",
        "nodes/stage/node.py StageNode.run await asyncio.to_thread",
        "nodes/stage/node.py StageNode._prepare await self._in_engine",
        "nodes/stage/node.py StageNode._measure await self._in_engine",
        "nodes/stage/fetching.py Fetching.run await asyncio.to_thread",
        "nodes/stage/chain.py Chain._send_piece async with link.sending",
        "nodes/stage/chain.py Chain._send_piece await asyncio.to_thread",
        "nodes/service/stages.py run_stage await asyncio.to_thread",
        "nodes/worker/engine_thread.py EngineThread.run await asyncio.to_thread",
        "nodes/worker/mask_thread.py MaskThread.run await asyncio.to_thread",
        "nodes/worker/prefix_thread.py PrefixThread.run await asyncio.to_thread",
        "nodes/worker/threads.py run_to_end await asyncio.shield",
        "nodes/worker/threads.py run_to_end await asyncio.wait",
        "nodes/service/runtime.py in_loading_thread await loading",
        "nodes/service/inside.py Inside.run await asyncio.to_thread",
    ),
    "The node's standard error: stop() waits for its end no longer than its limit.": (
        "nodes/service/supervision.py _lines_of await stream.readline",
    ),
}
