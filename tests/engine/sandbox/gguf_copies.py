"""Copy a GGUF file with one text of its header replaced, such as the chat template."""

import mmap
import struct
from pathlib import Path

from nodes.catalog.gguf import Header

_STRING = 8
# The default alignment of tensors. Files whose header sets another one are not supported.
_ALIGNMENT = 32


class _MeasuredHeader(Header):
    @property
    def end(self) -> int:
        """Offset of the header's end once the header has been read; padding follows."""
        return self._at


def copy_with(source: Path, to: Path, key: str, text: str) -> None:
    """Write `source` to `to` with `text` as the value of `key`. Raises KeyError if it has none."""
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header = _MeasuredHeader(data)
        tensors_from = min(tensor.offset for tensor in header.tensors)
        head = data[: header.end]
        name = key.encode()
        wanted = struct.pack("<Q", len(name)) + name + struct.pack("<I", _STRING)
        at = head.find(wanted)
        if at < 0:
            raise KeyError(key)
        at += len(wanted)
        (old_bytes,) = struct.unpack_from("<Q", head, at)
        new = text.encode()
        head = head[:at] + struct.pack("<Q", len(new)) + new + head[at + 8 + old_bytes :]
        with to.open("wb") as written:
            written.write(head + bytes(-len(head) % _ALIGNMENT))
            written.write(data[tensors_from:])
