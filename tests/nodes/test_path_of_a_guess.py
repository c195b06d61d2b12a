"""How many modules run for a stream whose tokens are guessed, from its request to its last commit.

The idea of each is to be held by somebody who has to follow a guess through all of them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import airdraft
from tests.nodes.builders import make_submit
from tests.nodes.machine.setup import Setup, draft
from tests.nodes.machine.world import World

_PACKAGE = Path(airdraft.__file__).parent
# What decides which token is guessed, sent, verified and committed; not how logits are computed.
_FOLDERS = ("nodes/scheduler/", "nodes/draft/", "nodes/target/", "policies/")
# Six of these are the planner, which runs once a second. One decides which streams a pass has, of
# which there may be two groups. Three are for guesses that other chains of the stream make.
_MOST_MODULES = 37


def test_a_guess_goes_through_few_modules() -> None:
    world = World(Setup(target_cells=(1000,), drafts=(draft(0.9),), has_lookup=True))
    client = world.join()
    seen: set[str] = set()

    def note(frame: FrameType, event: str, _arg: object) -> None:
        if event == "call":
            seen.add(frame.f_code.co_filename)

    world.submit(client, make_submit(max_tokens=200, ignore_eog=True))
    sys.setprofile(note)
    try:
        while world.open_requests():
            world.move()
    finally:
        sys.setprofile(None)
    (target,) = world.coordinator.state.roster.targets()
    scheduler = target.scheduler
    assert scheduler.counts.tokens["accepted"] > 10
    ours = [Path(name) for name in seen if name.startswith(str(_PACKAGE))]
    paths = {path.relative_to(_PACKAGE).as_posix() for path in ours}
    modules = sorted(path for path in paths if path.startswith(_FOLDERS))
    assert len(modules) <= _MOST_MODULES, "\n".join(modules)
