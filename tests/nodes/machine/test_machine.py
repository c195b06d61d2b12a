"""The whole mesh under anything that may happen to it, as a Hypothesis machine.

AIRDRAFT_MACHINE_STEPS=100000 pytest tests/nodes/machine runs the long form, on other examples each
time. What fails is printed with a blob, for @reproduce_failure; AIRDRAFT_MACHINE_SHRINKS=1 makes it
shorter first, which takes minutes.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from airdraft.nodes.engine.toy import ToyConfig
from tests.nodes.machine.asking import LONGEST_PROMPT, MOST_TOKENS, submits
from tests.nodes.machine.client import ClientProcess
from tests.nodes.machine.process import Process
from tests.nodes.machine.setup import Setup, draft
from tests.nodes.machine.world import World

STEPS_A_RUN = 40
DEFAULT_STEPS = 2_000
NUM_STEPS = int(os.environ.get("AIRDRAFT_MACHINE_STEPS", DEFAULT_STEPS))
_PHASES = (
    (Phase.generate, Phase.shrink)
    if os.environ.get("AIRDRAFT_MACHINE_SHRINKS")
    else (Phase.generate,)
)
_LEAST_CELLS = LONGEST_PROMPT + MOST_TOKENS + 16
_MOST_CLIENTS, _MOST_REQUESTS = 4, 24
_MOST_OF_A_NAME = 4

_soon = st.sampled_from([0.0, 0.0, 0.3, 4.0])
_picks = st.integers(0, 99)
_setups = st.builds(
    Setup,
    toy=st.builds(
        ToyConfig,
        max_sequences=st.sampled_from([2, 4, 6]),
        max_batch_tokens=st.just(64),
        eog_rate=st.just(0.002),
    ),
    target_cells=st.lists(st.sampled_from([_LEAST_CELLS, 330, 400]), min_size=1, max_size=3).map(
        tuple
    ),
    drafts=st.lists(
        st.builds(draft, st.sampled_from([0.3, 0.9, 1.0]), st.sampled_from([0, 6])), max_size=2
    ).map(tuple),
    # So slow that a text goes in pieces, and commits wait for each other.
    draft_bps=st.sampled_from([0.0, 0.0, 20e3]),
    has_wild_policy=st.booleans(),
    has_lookup=st.booleans(),
    prefix_cache_bytes=st.sampled_from([0, 0, 2000]),
    seed=st.integers(0, 2**32),
)


class Mesh(RuleBasedStateMachine):
    """Members ask, serve, die, sleep and come back, in whatever order.

    spares_targets: only draft nodes suffer, and no request may fail of that. loses: messages of
    living connections, too, which ZeroMQ does not.
    """

    @initialize(
        setup=_setups,
        spares_targets=st.sampled_from([True, False, False]),
        loses=st.sampled_from([False, False, True]),
    )
    def begin(self, setup: Setup, spares_targets: bool, loses: bool) -> None:
        self.spares_targets, self.loses = spares_targets, loses
        self.num_requests = 0
        self.world = World(setup)
        self.world.start_client("client")
        self.world.start_client("gateway")
        self.world.pass_by(0.2)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()
            self.world.check_that_it_serves()

    @invariant()
    def all_holds(self) -> None:
        self.world.check()

    # -- time --------------------------------------------------------------------------------------

    @rule(num_moves=st.integers(1, 150) | st.integers(50, 400))
    def goes_on(self, num_moves: int) -> None:
        self.world.go_on(num_moves)

    @rule(seconds=st.sampled_from([0.02, 0.2, 1.0, 3.0, 8.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_by(seconds)

    # -- clients -----------------------------------------------------------------------------------

    @property
    def clients(self) -> list[ClientProcess]:
        """Who asks."""
        roles = ("client", "gateway")
        found = (p for p in self.world.processes if isinstance(p, ClientProcess))
        return [client for client in found if client.role in roles]

    @rule(role=st.sampled_from(["client", "gateway"]))
    def join(self, role: str) -> None:
        if len(self.clients) < _MOST_CLIENTS:
            self.world.start_client(role)
            self.world.pass_by(0.2)

    @rule(
        data=st.data(),
        pick=_picks,
        num_requests=st.sampled_from([1, 2, 4, 6]),
        num_moves=st.sampled_from([0, 3, 10, 60]),
    )
    def submit(self, data: st.DataObject, pick: int, num_requests: int, num_moves: int) -> None:
        joined = [client for client in self.clients if client.welcome is not None]
        if not self.world.nodes("target"):
            num_requests = 1
        for number in range(num_requests if joined else 0):
            if len(self.world.open_requests()) < _MOST_REQUESTS:
                self.num_requests += 1
                submit = data.draw(submits(self.num_requests))
                is_uploaded = data.draw(st.sampled_from([False, False, False, True]))
                client = joined[(pick + number) % len(joined)]
                self.world.submit(client, submit, is_uploaded=is_uploaded)
        self.world.go_on(num_moves)

    @rule(pick=_picks, num_requests=st.sampled_from([1, 1, 2, 6]))
    def cancel(self, pick: int, num_requests: int) -> None:
        """Some that came one after the other."""
        asked = [(client, a) for client in self.clients for a in client.open_requests()]
        begin = pick % len(asked) if asked else 0
        for client, request in asked[begin : begin + num_requests]:
            client.cancel(request)

    @precondition(lambda self: len(self.clients) > 1)
    @rule(pick=_picks)
    def leave(self, pick: int) -> None:
        client = self.clients[pick % len(self.clients)]
        self.world.troubled(client)
        client.leave()

    @precondition(lambda self: self.clients)
    @rule(pick=_picks, pace_s=st.sampled_from([0.0, 0.1, 0.3]))
    def read_slowly(self, pick: int, pace_s: float) -> None:
        client = self.clients[pick % len(self.clients)]
        self.world.troubled(client)
        client.pace_s = pace_s

    # -- what happens to processes and links -------------------------------------------------------

    def _victim(self, pick: int) -> Process | None:
        """Nodes mostly: with its client a request is over."""
        roles = {"draft"} if self.spares_targets else {"draft", "target"}
        roles = {"client", "gateway"} if pick % 6 == 0 else roles
        found = [process for process in self.world.processes if process.role in roles]
        return found[pick % len(found)] if found else None

    @rule(pick=_picks, loses=st.booleans(), notice_s=_soon)
    def die(self, pick: int, loses: bool, notice_s: float) -> None:
        if (victim := self._victim(pick)) is not None:
            self.world.kill(victim, loses=loses, notice_s=notice_s)

    @rule(pick=_picks, notice_s=_soon, away_s=_soon)
    def lose_the_connection(self, pick: int, notice_s: float, away_s: float) -> None:
        if (victim := self._victim(pick)) is not None:
            self.world.break_connection(victim, notice_s=notice_s, away_s=away_s)

    @rule(pick=_picks)
    def stop(self, pick: int) -> None:
        if (victim := self._victim(pick)) is not None:
            self.world.troubled(victim)
            victim.is_stopped = True

    @rule(pick=_picks)
    def wake_up(self, pick: int) -> None:
        stopped = [process for process in self.world.processes if process.is_stopped]
        if stopped:
            stopped[pick % len(stopped)].is_stopped = False

    @rule(pick=_picks, delay_s=st.sampled_from([0.0, 0.02, 0.3, 1.5, 4.0]))
    def get_slow(self, pick: int, delay_s: float) -> None:
        if (victim := self._victim(pick)) is not None:
            self.world.troubled(victim)
            victim.connection.delay_s = delay_s

    @rule()
    def start_what_is_missing(self) -> None:
        self.world.start_what_is_missing()
        self.world.go_on(40)

    @rule(pick=_picks)
    def start_a_second_one(self, pick: int) -> None:
        """Another process takes the name of one that may be there, or of a few."""
        setup = self.world.setup
        names = [("draft", index) for index in range(len(setup.drafts))]
        if not self.spares_targets:
            names += [("target", index) for index in range(len(setup.target_cells))]
        if not names:
            return
        role, index = names[pick % len(names)]
        living = [process.name for process in self.world.processes]
        # Of dozens the coordinator does not remember all that it has sent away.
        if living.count(f"{role}-{index}") < _MOST_OF_A_NAME:
            self.world.troubled(self.world.start_node(role, index))

    @rule(
        role=st.sampled_from(["target", "target", "draft"]),
        pick=_picks,
        command=st.sampled_from(["drain", "drain", "undrain", "undrain", "drop"]),
    )
    def command(self, role: str, pick: int, command: str) -> None:
        nodes = self.world.nodes(role)
        if nodes and not (role == "target" and self.spares_targets):
            self.world.command(command, nodes[pick % len(nodes)].name)

    @precondition(lambda self: not self.spares_targets)
    @rule(is_sure=st.sampled_from([False, False, False, True]))
    def restart_the_coordinator(self, is_sure: bool) -> None:
        if is_sure:
            self.world.restart_coordinator()

    @precondition(lambda self: self.loses and not self.spares_targets)
    @rule(pick=_picks, goes_up=st.booleans())
    def lose_a_message(self, pick: int, goes_up: bool) -> None:
        """Of a node: what clients make of it is another matter."""
        queues = [node.connection.queues for node in self.world.nodes()]
        found = [queue for of in queues if (queue := of["up" if goes_up else "down"])]
        if found:
            self.world.has_losses = self.world.had_target_trouble = True
            queue = found[pick % len(found)]
            del queue[pick % len(queue)]


@pytest.mark.slow
@pytest.mark.timeout(max(600, NUM_STEPS // 20))
def test_whatever_happens_every_request_ends_with_its_text_or_a_reason() -> None:
    is_short = NUM_STEPS == DEFAULT_STEPS
    run_state_machine_as_test(
        Mesh,
        settings=settings(
            max_examples=max(1, NUM_STEPS // STEPS_A_RUN),
            stateful_step_count=STEPS_A_RUN,
            derandomize=is_short,
            database=None,
            phases=_PHASES,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
