"""Law 1 by replay: emulated meshes give the recorded texts, with the recorded acceptance."""

from pathlib import Path
from typing import Any

import pytest

from bench.emulate.recording import RecordedText, Recording, read_recording
from bench.emulate.replay import ReplayConfig, ReplayModel, ReplayTokenizer
from mesh.codec import decode
from mesh.transport import Frames
from nodes.engine.toy import ToyConfig
from nodes.messages import CommitReply, OpenStreamRequest, SubmitRequest
from nodes.worker.engines import calibration_of
from policies.acceptance import DraftCalibration
from tests.bench.emulate.recordings import COSTS, toy_recording
from tests.nodes.builders import make_submit
from tests.nodes.machine.network import Connection
from tests.nodes.machine.setup import Setup, draft
from tests.nodes.machine.world import World
from tests.nodes.pure_node import PureNode
from tests.nodes.reference import Reference

SHIPPED = Path(__file__).parents[3] / "bench" / "emulate" / "recordings" / "smollm2-135m.json.z"
TOYS = toy_recording(0.5, 0.9, num_texts=5, max_tokens=50, eog_rate=0.02)


class ReplayWorld(World):
    """A mesh of emulated nodes. rounds: every pass with guesses, as a text, the place in it, the
    number of guesses and of those accepted."""

    def __init__(self, setup: Setup, recording: Recording) -> None:
        self.recording = recording
        self.texts = {text.prompt_ids: text for text in recording.texts}
        self.rounds: list[tuple[RecordedText, int, int, int]] = []
        self._prompts: dict[int, tuple[int, ...]] = {}
        super().__init__(setup)
        self.network.took = self._took
        self.client = self.join()

    def make_node(self, role: str, index: int) -> PureNode:
        room = self.setup.toy if role == "target" else self.setup.drafts[index]
        drafts = self.recording.drafts
        config = ReplayConfig(
            name="emulated",
            recording=self.recording,
            costs=COSTS,
            draft="" if role == "target" else drafts[room.agreement > 0.5].name,
            num_cells=room.num_cells,
            max_sequences=room.max_sequences,
            max_batch_tokens=room.max_batch_tokens,
        )
        model = ReplayModel(config, now=lambda: 0.0, sleep=lambda _seconds: None)
        engine = model, ReplayTokenizer(self.recording)
        pass_s = self.draw_pass_s if role == "target" else lambda: 0.0
        return PureNode(role, self.setup.toy, lambda _text: (), pass_s, engine=engine)

    def ask(self, text: RecordedText, **changes: Any) -> None:
        number = len(self.client.asked) + 1
        wanted = {"prompt_token_ids": text.prompt_ids, "max_tokens": len(text.output_ids)}
        self.submit(self.client, make_submit(number, **(wanted | changes)))

    def alone(self, submit: SubmitRequest, choice: int) -> Reference:
        end = self.recording.eog_ids[0]
        text = self.texts[submit.prompt_token_ids]
        token_ids = [*text.output_ids, *[end] * submit.max_tokens]
        limit = submit.max_tokens
        if not submit.ignore_eog:
            limit = min(limit, token_ids.index(end))
        pieces = (self.recording.pieces[token_id] for token_id in token_ids[:limit])
        reason = "length" if limit == submit.max_tokens else "stop"
        return Reference(tuple(token_ids[:limit]), b"".join(pieces), reason)

    def _took(self, _connection: Connection, way: str, frames: Frames) -> None:
        message = decode(frames).message
        if isinstance(message, OpenStreamRequest):
            self._prompts[message.stream_id] = message.token_ids[: message.num_prompt_tokens]
        for entry in message.entries if isinstance(message, CommitReply) else ():
            if entry.num_draft_tokens:
                prompt = self._prompts[entry.stream_id]
                made, accepted = entry.num_draft_tokens, entry.num_accepted_tokens
                place = entry.prefix_len - len(prompt)
                self.rounds.append((self.texts[prompt], place, made, accepted))


def num_accepted(text: RecordedText, index: int, place: int, num_guesses: int) -> int:
    """What a recording says of a round of a draft that begins at a place of the output."""
    flags = text.accepted(index)[place : place + num_guesses]
    return flags.index(False) if False in flags else len(flags)


def make_setup(*agreements: float, **changes: Any) -> Setup:
    toy = ToyConfig(num_vocab=2, num_cells=4000, max_sequences=5, max_batch_tokens=256)
    drafts = tuple(draft(agreement, num_cells=4000) for agreement in agreements)
    return Setup(toy=toy, target_cells=(4000,), drafts=drafts, **changes)


@pytest.mark.parametrize("gamma", range(9))
@pytest.mark.parametrize("index", [0, 1])
def test_acceptance_in_a_mesh_is_that_of_the_recording(index: int, gamma: int) -> None:
    world = ReplayWorld(make_setup(float(index)), TOYS)
    for text in TOYS.texts:
        world.ask(text, gamma=gamma)
        world.go_on(50)
        world.upset_guesses()
    world.settle()
    assert all(asked.is_whole for asked in world.client.asked.values())
    assert len(world.rounds) > 10 or gamma == 0
    for text, place, made, accepted in world.rounds:
        assert 0 < made <= gamma
        assert accepted == num_accepted(text, index, place, made)


def test_a_recording_has_texts_of_all_kinds() -> None:
    """Streams of an acceptance of 0.4, 0.5, ... 0.9 can be put together, each of two texts."""
    recording = read_recording(SHIPPED)
    for tenths in range(4, 10):
        low, high = tenths / 10 - 0.05, tenths / 10 + 0.05
        found = [t for d in recording.drafts for t in recording.texts_with(d.name, low, high)]
        assert len(found) >= 2
    assert {text.kind for text in recording.texts} == {"chat", "code", "copy"}


def test_a_draft_is_read_by_its_recorded_calibration() -> None:
    recording = read_recording(SHIPPED)

    def chance(draft: str) -> float:
        config = ReplayConfig(name="box", recording=recording, costs=COSTS, draft=draft)
        return calibration_of(ReplayModel(config)).greedy.chance(0.5)

    unknown = DraftCalibration().greedy.chance(0.5)
    assert chance("smollm2-draft") != unknown
    assert chance("smollm2-135m-q4_0") == unknown
