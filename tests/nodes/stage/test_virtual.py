"""Texts of a model in stages that die and whose links fail, in virtual time.

Who dies when, what is on its way then, and who notices it is drawn from a seed. Every text has to
be that of the whole model. AIRDRAFT_STAGE_KILLS=1000 pytest tests/nodes/stage/test_virtual.py runs
the long form.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airdraft.nodes.catalog.stages import embedding_of
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.protocol import EngineError, Logits, SequencesLostError, Span, Tokenizer
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.engine.split import last
from airdraft.nodes.engine.split.embedding import Embedding
from airdraft.nodes.engine.split.last import SplitModel
from airdraft.nodes.engine.toy import ToyTokenizer
from airdraft.nodes.messages import StreamFailedNotice
from airdraft.nodes.stage.asking import StageAddress
from airdraft.nodes.stage.links import StageLinks
from airdraft.nodes.stage.outgoing import PartFiles
from airdraft.nodes.worker.stream import StreamId, StreamSpec
from airdraft.policies.latency import CostTable, NodeCosts
from tests.nodes.builders import make_spec
from tests.nodes.stage.scene import HASH, TEXT, configured, part_of
from tests.nodes.stage.virtual import Place, VirtualChain, VirtualLoop, Weather
from tests.nodes.target.script import Desk, commits_in, guess

NUM_KILLS = int(os.environ.get("AIRDRAFT_STAGE_KILLS", "60"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + NUM_KILLS)]
# Passes that take as long as they have tokens, so that two groups of streams are worth it.
STEEP = NodeCosts(CostTable((1, 16), (0.01, 0.16)), CostTable((32,), (0.01,)))
_NUM_VOCAB = 300
_TOKENS = 40
_PREFIXES = 1 << 20
# The limit of a scene in which nothing happens any more.
_END_S = 2000.0
_HARM_EACH_S = (1.0, 4.0, 20.0)
# A target may end because a stage is lost for the fourth time in a minute, or stays away.
_ENDS = re.compile("is lost|did not answer|cannot be used")
# A stage is away for up to so long, sometimes longer than its target waits.
_AWAY_S = (0.5, 5.0, 40.0)


def specs(seed: int, num_vocab: int) -> list[StreamSpec]:
    """Streams of which some begin alike, greedy and sampled."""
    drawn = random.Random(seed)
    found = []
    for number in range(1, drawn.randint(2, 6)):
        prompt = (*TEXT[: drawn.choice((3, 40, 90))], *drawn.choices(range(3, num_vocab), k=3))
        sampling = Sampling(temperature=drawn.choice((0.0, 1.0)), seed=drawn.randrange(100))
        found.append(
            make_spec(
                *(number, prompt),
                owner=f"owner-{number % 2}",
                sampling=sampling,
                max_tokens=_TOKENS,
                ignore_eog=True,
            )
        )
    return found


class Watched(SplitModel):
    """Counts passes that begin while another one is under way."""

    num_beside = 0
    _under_way = 0

    def begin(self, spans: Sequence[Span]) -> None:
        self.num_beside += self._under_way
        with self._counted_anew():
            super().begin(spans)
        self._under_way += 1

    def finish(self) -> Logits:
        with self._counted_anew():
            logits = super().finish()
        self._under_way -= 1
        return logits

    @contextlib.contextmanager
    def _counted_anew(self) -> Iterator[None]:
        try:
            yield
        except SequencesLostError:
            self._under_way = 0
            raise


@pytest.fixture(autouse=True)
def patient() -> None:
    """Time is virtual here, so a busy machine changes nothing."""


class Scene:
    """A target in stages, and the texts that it has so far."""

    def __init__(self, seed: int, files: list[Path], pieces: Tokenizer, weather: Weather) -> None:
        self.drawn, self.counts = random.Random(seed), Counter[str]()
        self.loop = VirtualLoop(self.drawn)
        *before, self._last = files
        self._pieces = pieces
        self._parts = [part_of(path) for path in before]
        self.places = [
            Place(self.loop, f"stage {number}", path, weather)
            for number, path in enumerate(before, 1)
        ]
        self.texts: dict[StreamId, list[int]] = {}
        self._chain: VirtualChain | None = None
        self._model: Watched | None = None

    # -- faults ------------------------------------------------------------------------------------

    def harm(self, mean_s: float, times: int) -> None:
        """Let something happen so many times, on average each so many seconds."""
        if times:
            again_s = self.drawn.expovariate(1 / mean_s)
            self.loop.call_later(again_s, self._harm, mean_s, times)

    def _harm(self, mean_s: float, times: int) -> None:
        place = self.drawn.choice(self.places)
        kind = self.drawn.choice(("kill", "kill", "cut", "slow"))
        self.counts[kind] += 1
        if kind == "kill":
            place.kill()
            away_s = self.drawn.choices(_AWAY_S, (10, 10, 1))[0]
            self.loop.call_later(self.drawn.uniform(0.0, away_s), place.start)
        elif kind == "cut":
            for client in list(place.clients):
                place.cut(client)
        else:
            # So slow that the stage seems lost.
            place.weather.delay_s = 6.0
            self.loop.call_later(self.drawn.uniform(0.0, 4.0), self._clear_up)
        self.harm(mean_s, times - 1)

    def _clear_up(self) -> None:
        for place in self.places:
            place.weather.delay_s = 0.005

    # -- the target --------------------------------------------------------------------------------

    def _opened(self) -> Watched:
        """A target's process. It ends and is started again while a stage is away for long."""
        while True:
            self._wait(0.5)
            assert self.loop.time() < self._limit, "the target does not start"
            try:
                return self._begun()
            except EngineError:
                self.counts["target did not start"] += 1
                self._end_target()

    def _begun(self) -> Watched:
        def start(*of_stages: Any) -> VirtualChain:
            parts, stages, _ = of_stages
            self._chain = VirtualChain(self.places, parts, stages)
            return self._chain

        addresses = [StageAddress(place.name, None, place.name) for place in self.places]
        files = PartFiles(None, lambda *_: None)
        links = StageLinks(self._parts, lambda _: addresses, 10.0, files, start)
        embedding = Embedding(embedding_of(self._last))
        return Watched(configured(self._last, 5), links, embedding, model_hash=HASH)

    def _end_target(self) -> None:
        """The target's process ends as by SIGKILL."""
        if self._chain is not None:
            self._chain.vanish()
        self._model = self._chain = None

    def _wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def run(self, asked: list[StreamSpec], texts: dict[StreamId, list[int]]) -> None:
        """Write all texts. texts: what they will be, of which some guesses are made."""
        self.texts = {spec.stream_id: [] for spec in asked}
        self._limit, generation = self.loop.time() + _END_S, 1
        while any(len(text) < _TOKENS for text in self.texts.values()):
            model = self._model = self._opened()
            desk = Desk(model, self._pieces, _PREFIXES, STEEP)
            desk.open(*(self._placed(spec, generation) for spec in asked))
            try:
                while desk.ready or desk.state.has_work():
                    self._guess(desk, texts)
                    self._take(desk.step(self.drawn.choice((1, 5, 50))))
                    assert self.loop.time() < self._limit, "it does not end"
                    if self.drawn.random() < 0.2:
                        self._wait(self.drawn.uniform(0.0, 1.0))
            except EngineError as error:
                if not _ENDS.search(str(error)):
                    raise
                self.counts["target ended"] += 1
                self._end_target()
            self.counts["beside another"] += model.num_beside
            generation += 10

    def _placed(self, spec: StreamSpec, generation: int) -> StreamSpec:
        """A stream as the coordinator's journal has it."""
        token_ids = (*spec.token_ids, *self.texts[spec.stream_id])
        return replace(spec, token_ids=token_ids, generation=generation)

    def _guess(self, desk: Desk, texts: dict[StreamId, list[int]]) -> None:
        """Guesses, of which most are right."""
        for stream_id, length in desk.lengths.items():
            if stream_id in desk.ready and self.drawn.random() < 0.5:
                known = len(self.texts[stream_id])
                guesses = list(texts[stream_id][known : known + 3])
                if guesses and self.drawn.random() < 0.3:
                    guesses[-1] = 3
                guess(desk.state, stream_id, length, guesses)

    def _take(self, events: list[Any]) -> None:
        failed = [event for event in events if isinstance(event, StreamFailedNotice)]
        assert not failed
        for commit in commits_in(events):
            self.texts[StreamId(commit.entry.stream_id)] += commit.token_ids

    def close(self) -> None:
        if self._model is not None:
            self._model.close()
        for place in self.places:
            self.loop.run_until_complete(place.ended())
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self._wait(1.0)
        self.loop.close()


def alone(path: Path, spec: StreamSpec) -> list[int]:
    """What a stream becomes on the whole model, with nobody beside it."""
    with contextlib.closing(LlamaModel(configured(path), model_hash=HASH)) as model:
        desk = Desk(model, ToyTokenizer(model.info.num_vocab), 0, STEEP)
        desk.open(spec)
        return [token for commit in commits_in(desk.run()) for token in commit.token_ids]


def play(
    seed: int,
    files: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    weather: Weather,
    num_harm: int = 20,
) -> Counter[str]:
    """Returns what happened in a scene, in which all texts came out right."""
    pieces = ToyTokenizer(_NUM_VOCAB)
    asked = specs(seed, _NUM_VOCAB)
    wanted = {spec.stream_id: alone(files[0], spec) for spec in asked}
    scene = Scene(seed, files[1:], pieces, weather)
    monkeypatch.setattr(last, "time", scene.loop)
    with contextlib.closing(scene):
        scene.harm(scene.drawn.choice(_HARM_EACH_S), num_harm)
        scene.run(asked, wanted)
        assert scene.texts == wanted
    return scene.counts


def test_texts_are_those_of_the_whole_model_whoever_dies(files, monkeypatch):
    counts, seed = Counter[str](), 0
    while counts["kill"] < NUM_KILLS:
        counts += play(seed, files, monkeypatch, Weather(random.Random(seed)))
        seed += 1
    assert counts["beside another"] > 0
    assert counts["target ended"] > 0


def test_states_of_recurrent_layers_come_back_with_their_stages(hybrid_files, monkeypatch):
    counts, seed = Counter[str](), 0
    while counts["kill"] < NUM_KILLS / 2:
        counts += play(seed, hybrid_files, monkeypatch, Weather(random.Random(seed)))
        seed += 1
    assert counts["target ended"] > 0


def test_no_lost_repeated_or_late_message_makes_a_text_wrong(files, monkeypatch):
    """Within a connection ZeroMQ does none of this. Whatever does, no pass may be left out, run
    twice, or be taken for another."""
    counts = Counter[str]()
    for seed in range(max(4, NUM_KILLS // 5)):
        drawn = random.Random(seed)
        chances = {kind: drawn.choice((0.0, 0.01)) for kind in ("lost", "repeated", "late")}
        counts += play(seed, files, monkeypatch, Weather(drawn, **chances), num_harm=3)
    assert counts["beside another"] > 0
