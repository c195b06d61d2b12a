"""Generates byte streams for an HTTP server: valid requests, torn, bent, repeated and dripping."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from bench.hostile.items import Item

_PATHS: Final = ("/v1/completions", "/v1/chat/completions", "/v1/messages", "/v1/embeddings")
_READ: Final = ("/healthz", "/readyz", "/v1/models", "/metrics", "/", "/nothing", "*")
_METHODS: Final = ("GET", "HEAD", "OPTIONS", "PUT", "BREW", "PRI", "get", "G\0T", "CONNECT")
_SIZES: Final = (0, 1, 15, 255, 4_095, 16_383, 16_384, 16_385, 70_000, 1 << 20)
_LENGTHS: Final = ("-1", "+5", "5, 5", "5, 6", "0x5", "1e3", "", "99999999999999999999", "2097153")
_CHUNK_SIZES: Final = (b"-1", b"0x5", b"ffffffffffffffff", b" 5 ", b"5 5", b"", b"g", b"00000005")
_OPENINGS: Final = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),
    b"\r\n" * 5_000,
    b"GET / HTTP/0.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
)
_COMPLETION: Final = {"prompt": "Hello", "max_tokens": 4}


def request(path: str, body: Any, key: str, *lines: str) -> bytes:
    """A valid request, after whose answer the server closes the connection. body: as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return _head("POST", path, key, f"Content-Length: {len(content)}", *lines) + content


def _head(method: str, path: str, key: str, *lines: str) -> bytes:
    first = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    allowed = [f"Authorization: Bearer {key}"] if key else []
    return "\r\n".join([*first, *allowed, *lines, "", ""]).encode("latin-1")


def ordinary(key: str) -> Item:
    """What any user asks."""
    return Item(name="ordinary", pieces=(request(_PATHS[0], _COMPLETION, key),))


def fixed(key: str) -> Sequence[Item]:
    """Streams that were harmful once: each keeps a server busy for as long as it lasts."""
    chunked = _head("POST", _PATHS[0], key, "Transfer-Encoding: chunked")
    extension = b"1;" + b"x" * 5_000 + b"\r\na\r\n"
    health = _head("GET", "/healthz", key)
    stream = request(_PATHS[0], {**_COMPLETION, "max_tokens": 400, "stream": True}, key)
    endless: dict[str, tuple[bytes, ...]] = {
        "chunks of a byte": (chunked, b"1\r\na\r\n" * 10_000),
        "chunk extensions": (chunked, extension * 12),
        "small headers": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"a: b\r\n" * 1_000),
        "requests one after another": (health * 500,),
        "empty lines": (b"\r\n" * 20_000,),
        "a body that was refused": (
            _head("POST", "/nothing", key, f"Content-Length: {1 << 40}"),
            bytes(1 << 16),
        ),
    }
    found = [Item(name=name, pieces=sent, is_endless=True) for name, sent in endless.items()]
    unread = Item(name="answers that nobody reads", pieces=(health * 5_000,), is_read=False)
    return [*found, unread, Item(name="a stream unread", pieces=(stream * 8,), is_read=False)]


class ByteStreams:
    """Draws byte streams. key: sent with requests, if there is one."""

    def __init__(self, random: Random, key: str = "") -> None:
        self._random = random
        self._key = key

    def item(self) -> Item:
        """Returns a stream of any kind."""
        kinds: tuple[Callable[[], Item], ...] = (
            self._bent,
            self._torn,
            self._repeated,
            self._chunked,
            self._with_headers,
            self._with_length,
            self._with_path,
            self._dripping,
            self._noise,
        )
        return self._random.choice(kinds)()

    def _valid(self, *lines: str) -> bytes:
        random = self._random
        if random.random() < 0.3:
            return _head("GET", random.choice(_READ), self._key, *lines)
        body: Any = {**_COMPLETION, "stream": random.random() < 0.5}
        if (path := random.choice(_PATHS)) in _PATHS[1:3]:
            body |= {"messages": [{"role": "user", "content": "Hello"}]}
        return request(path, body, self._key, *lines)

    def _item(self, name: str, *pieces: bytes, pause_s: float = 0.0) -> Item:
        # A few are not read, and many say that nothing follows.
        return Item(
            name=name,
            pieces=pieces,
            pause_s=pause_s,
            is_read=self._random.random() < 0.95,
            half_closes=self._random.random() < 0.3,
        )

    def _bent(self) -> Item:
        """Bytes of a valid request are changed, lost or inserted."""
        data = bytearray(self._valid())
        for _ in range(self._random.choice((1, 1, 3, 10))):
            at = self._random.randrange(len(data))
            end, new = self._random.choice(
                ((at + 1, self._random.randbytes(1)), (at + 1, b""), (at, b"\n"), (at, b"\0" * 9))
            )
            data[at:end] = new
        if self._random.random() < 0.3:
            data = data.replace(b"\r\n", b"\n", self._random.choice((1, -1)))
        return self._item("bent", bytes(data))

    def _torn(self) -> Item:
        """A valid request, or its beginning, comes in pieces."""
        data = self._valid(*(["Expect: 100-continue"] if self._random.random() < 0.2 else []))
        if self._random.random() < 0.5:
            data = data[: self._random.randrange(1, len(data))]
        cuts = sorted(self._random.randrange(len(data)) for _ in range(self._random.randint(1, 9)))
        pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        return self._item("torn", *pieces, pause_s=self._random.choice((0.0, 0.02)))

    def _repeated(self) -> Item:
        count = self._random.choice((2, 5, 50))
        return self._item("repeated", self._valid() * count, self._valid())

    def _chunked(self) -> Item:
        random, lines = self._random, ["Transfer-Encoding: chunked"]
        if random.random() < 0.3:
            lines.append(f"Content-Length: {random.choice((0, 5, 400))}")
        if random.random() < 0.1:
            lines[0] = f"Transfer-Encoding: {random.choice(('gzip, chunked', 'x', 'chunked, x'))}"
        data, body = json.dumps(_COMPLETION).encode(), b""
        step = random.choice((1, 1, 7, 400))
        extension = b";a=" + b"b" * random.choice(_SIZES[:6]) if random.random() < 0.4 else b""
        for start in range(0, len(data), step):
            part = data[start : start + step]
            size = random.choice(_CHUNK_SIZES) if random.random() < 0.02 else b"%x" % len(part)
            body += size + extension + b"\r\n" + part + b"\r\n"
        trailer = b"a: b\r\n" * random.choice((0, 0, 1, 3_000))
        end = b"0\r\n" + trailer + b"\r\n" if random.random() < 0.8 else b""
        return self._item("chunked", _head("POST", _PATHS[0], self._key, *lines), body + end)

    def _with_headers(self) -> Item:
        random = self._random
        count, size = random.choice((1, 1, 100, 3_000)), random.choice(_SIZES)
        size = min(size, (1 << 20) // count)
        name = random.choice(("X", "Cookie", "Host", "Accept", "X Y", "\xe9", ""))
        value = random.choice(("a", "\xff", "\t", "a\r\n b", "a\0b", ",")) * size
        return self._item("headers", self._valid(*[f"{name}: {value[: 1 << 20]}"] * count))

    def _with_length(self) -> Item:
        content = json.dumps(_COMPLETION).encode()
        near = (len(content) - 1, len(content) + 1, 0, 1 << 20)
        length = self._random.choice((*_LENGTHS, *map(str, near)))
        lines = [f"Content-Length: {length}"] * self._random.choice((1, 1, 2))
        if self._random.random() < 0.2:
            lines.append("Content-Length: 5")
        head = _head("POST", self._random.choice((*_PATHS, "/nothing")), self._key, *lines)
        return self._item("length", head, content * self._random.choice((1, 1, 200)))

    def _with_path(self) -> Item:
        random, size = self._random, self._random.choice(_SIZES)
        unit = random.choice(
            ("a", "%41", "%", "%00", "/", "../", "\xe9", "?a=b&", "#", "http://x/")
        )
        path = "/" + (unit * (size // len(unit) + 1))[:size]
        method = random.choice((*_METHODS, "GET", "GET", "POST"))
        return self._item("path", _head(method, path, self._key))

    def _dripping(self) -> Item:
        data, pause_s = self._valid(), self._random.choice((0.001, 0.02, 0.2))
        return self._item(
            "dripping", *(data[at : at + 1] for at in range(len(data))), pause_s=pause_s
        )

    def _noise(self) -> Item:
        noise = self._random.randbytes(self._random.choice(_SIZES))
        return self._item("noise", self._random.choice((*_OPENINGS, b"")), noise)
