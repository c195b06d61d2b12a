"""Decode hostile frames: random bytes, damaged valid messages, well-formed nonsense."""

from __future__ import annotations

import contextlib
import random
import time
import tracemalloc
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, get_args, get_origin, get_type_hints

import msgpack

from airdraft.mesh.codec import decode, encode
from airdraft.mesh.errors import DecodeError, LocalProtocolError
from airdraft.mesh.padding import pad
from airdraft.mesh.schema import INT_MAX, INT_MIN, MaxLen, Range, TokenIdsMarker, unwrapped
from airdraft.nodes.engine.rules import NO_RULES, Grammar, LogitBias, LogitRules
from bench.pages.protocol import specs

Frames = list[bytes]
_MAX_FRAME_BYTES = 65_536
# Peak memory is measured for one message in so many, because tracing makes it 20 times as slow.
_TRACED_EVERY = 200
# Rules have bounds that no type hint states, and too many for random values to meet.
_RULES = (
    NO_RULES,
    LogitRules((LogitBias(3, -100.0), LogitBias(99_999, 0.5)), 2.0, -0.1),
    LogitRules(grammar=Grammar("gbnf", 'root ::= "a" | root')),
    LogitRules(grammar=Grammar("json_schema", "{")),
)
_EDGES = (0, 1, -1, 127, 128, 255, 256, 65535, 65536, INT_MAX, INT_MIN, 2**64 - 1)


class Generator:
    """Generates hostile messages of every kind from one seed.

    cluster, epoch: those of the messages' envelopes.
    """

    def __init__(self, seed: int | str, cluster: str = "c", epoch: int = 7) -> None:
        self.cluster = cluster
        self.epoch = epoch
        self._random = random.Random(seed)
        self._specs = list(specs())
        self._kinds: tuple[Callable[[], Frames], ...] = (
            self._noise,
            self._torn,
            self._torn,
            self._nonsense,
            self._bomb,
        )

    def frames(self) -> Frames:
        """Returns the frames of a hostile message."""
        return self._random.choice(self._kinds)()

    def valid(self) -> Frames:
        """Returns a message of any type, with any contents that its schema allows."""
        while True:
            spec = self._random.choice(self._specs)
            with contextlib.suppress(LocalProtocolError, ValueError):
                frames = self._encoded(self._instance(spec.layout.cls, spec.max_tokens))
                return pad(frames) if self._random.random() < 0.1 else frames

    def message(self, kinds: Collection[type], ids: Mapping[str, Sequence[int]]) -> Frames:
        """Returns a valid message of one of these types. ids: values for fields of such names."""
        specs = [spec for spec in self._specs if spec.layout.cls in kinds]
        while True:
            spec = self._random.choice(specs)
            with contextlib.suppress(LocalProtocolError, ValueError):
                made = self._instance(spec.layout.cls, spec.max_tokens)
                names = {item.name for item in fields(made)} & ids.keys()
                # Half of them are about something that is there.
                known = {name: self._random.choice(ids[name]) for name in sorted(names)}
                return self._encoded(
                    replace(made, **known) if self._random.random() < 0.5 else made
                )

    def _encoded(self, message: Any) -> Frames:
        return encode(message, cluster=self.cluster, epoch=self.epoch)

    def _noise(self) -> Frames:
        sizes = (0, 1, 2, 5, 30, 300, 4_000)
        frames = [
            self._random.randbytes(self._random.choice(sizes))
            for _ in range(self._random.choice((0, 1, 1, 1, 2, 3)))
        ]
        if frames and self._random.random() < 0.7:
            # These pass the first checks: right version, perhaps right tag and length.
            spec = self._random.choice(self._specs)
            head = bytes([1, 0x90 | (self._random.randrange(16)), spec.tag & 0x7F])
            frames[0] = head + frames[0]
        return frames

    def _torn(self) -> Frames:
        frames = self.valid()
        for _ in range(self._random.choice((1, 1, 2, 8))):
            index = self._random.randrange(len(frames))
            frame = bytearray(frames[index])
            if not frame:
                continue
            at = self._random.randrange(len(frame))
            start, end, new = self._random.choice(
                (
                    (at, at + 1, self._random.randbytes(1)),
                    (at, len(frame), b""),
                    (at, at, self._random.randbytes(self._random.choice((1, 4, 60)))),
                    (at, at + 4, b"\xdd\xff\xff\xff"),
                    (at, at + 1, bytes([frame[at] ^ 1 << self._random.randrange(8)])),
                )
            )
            frame[start:end] = new
            frames[index] = bytes(frame)
        if self._random.random() < 0.05:
            frames.append(frames[0])
        return frames

    def _nonsense(self) -> Frames:
        """Returns well-formed MessagePack of the right outer form, with any values inside."""
        spec = self._random.choice(self._specs)
        values = [self._value(0) for _ in range(spec.layout.num_fields)]
        outer = spec.tag, self.cluster, self.epoch
        body = msgpack.packb([*outer, self._random.choice((0, 2, 4)), *values])
        return [b"\x01" + body, *([self._random.randbytes(8)] if spec.layout.token_field else [])]

    def _bomb(self) -> Frames:
        spec = self._random.choice(self._specs)
        header = self._random.choice((b"\x9f", b"\xdc\x01\x00", b"\xdd\x00\x00\x01\x00", b"\x91"))
        size = min(spec.max_bytes, _MAX_FRAME_BYTES) // self._random.choice((1, 4, 64))
        start = bytes([1, 0x90 | min(15, spec.layout.num_fields + 4), spec.tag & 0x7F])
        frame = (start + header * (size // len(header)))[:size]
        return [frame, *([b""] if spec.layout.token_field else [])]

    def _value(self, depth: int) -> Any:
        scalars = (
            self._random.choice(_EDGES),
            self._random.random(),
            "x" * self._random.choice((0, 3, 70, 300)),
            self._random.randbytes(self._random.choice((0, 3, 70))),
            None,
            self._random.random() < 0.5,
        )
        match self._random.randrange(9 if depth < 3 else 6):
            case 6:
                return {self._random.randrange(9): self._value(depth + 1)}
            case 7:
                return msgpack.ExtType(5, b"x")
            case 8:
                count = self._random.choice((0, 1, 3, 20))
                return [self._value(depth + 1) for _ in range(count)]
            case number:
                return scalars[number]

    def _instance(self, cls: type, max_tokens: int) -> Any:
        hints = get_type_hints(cls, include_extras=True)
        # Every field of these classes has a type hint, because registration requires one.
        return cls(**{item.name: self._of(hints[item.name], max_tokens) for item in fields(cls)})

    def _of(self, hint: Any, max_tokens: int) -> Any:
        hint, marks = unwrapped(hint)
        if TokenIdsMarker in marks:
            count = self._random.choice((0, 1, 5, min(300, max_tokens)))
            return tuple(self._random.randrange(1 << 17) for _ in range(count))
        bounds = marks.get(Range, Range(INT_MIN, INT_MAX))
        count = self._random.randint(0, min(20, marks.get(MaxLen, MaxLen(20)).n))
        if hint is int:
            low, high = int(max(bounds.lo, INT_MIN)), int(min(bounds.hi, INT_MAX))
            near = self._random.randint(start := max(low, 0), min(high, start + 99))
            return self._random.choice((low, high, near, near, near))
        if hint is float:
            # Prefer values that are usually valid: sampling has bounds that no type hint states.
            low_f = bounds.lo if bounds.lo != INT_MIN else 0.0
            return self._random.choice(
                (low_f, 1.0, 0.5, 0.5, self._random.uniform(low_f, min(bounds.hi, 9.0)))
            )
        if hint is bool:
            return self._random.random() < 0.5
        if hint is str:
            return "".join(self._random.choice("aé\0漢") for _ in range(count))
        if hint is bytes:
            return self._random.randbytes(count)
        origin, args = get_origin(hint), get_args(hint)
        if origin is tuple:
            return tuple(self._of(args[0], max_tokens) for _ in range(min(count, 4)))
        assert is_dataclass(hint), hint
        if hint is LogitRules and self._random.random() < 0.7:
            return self._random.choice(_RULES)
        return self._instance(hint, max_tokens)  # type: ignore[arg-type]


@dataclass(slots=True)
class Figures:
    """Results of decoding.

    num_taken: messages that were valid after all. longest_s: longest processor time of a message.
    num_traced, peak_bytes: messages whose memory was traced, and their peak.
    """

    num_frames: int = 0
    num_bytes: int = 0
    num_taken: int = 0
    seconds: float = 0.0
    longest_s: float = 0.0
    num_traced: int = 0
    peak_bytes: int = 0

    def __str__(self) -> str:
        each_us = self.seconds / max(1, self.num_frames) * 1e6
        return (
            f"{self.num_frames} messages, {self.num_bytes / 1e6:.0f} MB: {self.num_taken} were "
            f"valid, the rest raised DecodeError and nothing else; {each_us:.1f} us each, at most "
            f"{self.longest_s * 1e3:.2f} ms of processor time; peak memory of {self.num_traced} "
            f"traced messages {self.peak_bytes / 1024:.0f} KiB"
        )


def decode_hostile(count: int, seed: int) -> Figures:
    """Decode `count` hostile messages; any error other than DecodeError is raised."""
    generator, figures = Generator(seed), Figures(num_frames=count)
    for number in range(count):
        frames = generator.frames()
        figures.num_bytes += sum(map(len, frames))
        is_traced = number % _TRACED_EVERY == 0
        if is_traced:
            tracemalloc.start()
        start = time.thread_time()
        with contextlib.suppress(DecodeError):
            decode(frames)
            figures.num_taken += 1
        spent_s = time.thread_time() - start
        if is_traced:
            figures.peak_bytes = max(figures.peak_bytes, tracemalloc.get_traced_memory()[1])
            figures.num_traced += 1
            tracemalloc.stop()
        else:
            figures.seconds += spent_s
            figures.longest_s = max(figures.longest_s, spent_s)
    return figures
