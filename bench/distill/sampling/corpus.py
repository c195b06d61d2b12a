"""Text files to token ids for the first phase, and to topics and passages for prompts."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.engine.vocab import LlamaTokenizer
from bench.distill.report import Progress
from bench.distill.sampling.answers import TokenIds
from bench.distill.sampling.prompts import PASSAGES, TOPICS

TOKENS, INFO = "corpus.npy", "corpus.json"
_SUFFIXES = (".txt", ".rst", ".md", ".html", ".htm")
# Pages of links and of dates teach nothing about prose.
_SKIPPED_NAMES = re.compile(r"(genindex|search|sitemap|changelog|py-modindex|robots|copyright)")
_SKIPPED_TAGS = frozenset({"script", "style", "nav", "head", "footer", "svg", "select", "button"})
_BLOCK_TAGS = frozenset(
    {"p", "pre", "li", "dt", "dd", "h1", "h2", "h3", "h4", "h5", "h6", "td", "th", "div", "br"}
    | {"tr", "table", "section", "blockquote"}
)
_PASSAGE_CHARS = (160, 480)
_MAX_PASSAGES = 4000
_MAX_PIECE_CHARS = 200_000


class _PlainText(HTMLParser):
    """Collects the text of a page in blocks, headings apart."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[str] = []
        self.headings: list[str] = []
        self._parts: list[str] = []
        self._skipping: list[str] = []
        self._is_pre = False
        self._is_heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED_TAGS:
            self._skipping.append(tag)
        elif tag in _BLOCK_TAGS:
            self._end_block()
            self._is_pre = self._is_pre or tag == "pre"
            self._is_heading = tag in ("h1", "h2", "h3")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._skipping:
            del self._skipping[self._skipping.index(tag) :]
        elif tag in _BLOCK_TAGS:
            self._end_block()
            self._is_pre = self._is_pre and tag != "pre"
            self._is_heading = False

    def handle_data(self, data: str) -> None:
        if not self._skipping:
            self._parts.append(data)

    def _end_block(self) -> None:
        text = "".join(self._parts)
        self._parts = []
        text = text.strip("\n").rstrip() if self._is_pre else " ".join(text.split())
        text = text.replace("\u00b6", "").rstrip()
        if text:
            self.blocks.append(text)
            if self._is_heading:
                self.headings.append(text)

    def close(self) -> None:
        super().close()
        self._end_block()


def text_files(paths: Iterable[Path]) -> list[Path]:
    """All text files under the paths, sorted, without symbolic links to what is listed already."""
    found: dict[Path, Path] = {}
    for path in paths:
        candidates = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in candidates:
            name = file.name.removesuffix(".gz")
            if file.is_file() and name.endswith(_SUFFIXES) and not _SKIPPED_NAMES.search(name):
                found.setdefault(file.resolve(), file)
    return sorted(found.values())


def read_blocks(file: Path) -> tuple[list[str], list[str]]:
    """Paragraphs and headings of one file."""
    data = file.read_bytes()
    if file.suffix == ".gz":
        data = gzip.decompress(data)
    text = data.decode("utf-8", "replace")
    if file.name.removesuffix(".gz").endswith((".html", ".htm")):
        parser = _PlainText()
        parser.feed(text)
        parser.close()
        return parser.blocks, parser.headings
    blocks = [block.strip("\n") for block in re.split(r"\n\s*\n", text) if block.strip()]
    underlined = re.compile(r"^(\S[^\n]*)\n([=\-~^*])\2{3,}\s*$")
    return blocks, [match[1] for block in blocks if (match := underlined.match(block))]


def build_corpus(
    paths: Sequence[Path],
    licences: Sequence[str],
    tokenizer: LlamaTokenizer,
    out: Path,
    progress: Progress,
) -> str:
    """Write corpus.npy, topics.txt, passages.txt and corpus.json to the folder `out`.

    corpus.json says where the text came from. Returns a line about what was written.
    """
    files = text_files(paths)
    separator_id = min(tokenizer.eog_token_ids())
    seen: set[str] = set()
    topics: dict[str, None] = {}
    passages: list[str] = []
    token_ids: list[TokenIds] = []
    for done, file in enumerate(files):
        blocks, headings = read_blocks(file)
        blocks = list(_unseen(blocks, seen))
        topics.update(dict.fromkeys(topic for h in headings if (topic := _topic(h))))
        passages += [block for block in blocks if _is_passage(block)]
        token_ids += [
            np.array([separator_id, *tokenizer.encode(piece)], dtype=np.uint32)
            for piece in _pieces(blocks)
        ]
        progress("files of text", done + 1, len(files))
    if not token_ids:
        raise EngineError("the files hold no text: give .txt, .rst, .md or .html files")
    step = max(1, len(passages) // _MAX_PASSAGES)
    num_tokens = sum(map(len, token_ids))
    info = {
        "sources": [path.name for path in paths],
        "licences": licences,
        "num_files": len(files),
        "num_tokens": num_tokens,
        "vocab_hash": tokenizer.content_hash(),
    }
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / TOKENS, np.concatenate(token_ids))
    _write_lines(out / TOPICS, topics)
    _write_lines(out / PASSAGES, passages[::step])
    (out / INFO).write_text(json.dumps(info, indent=1) + "\n")
    return f"{num_tokens} tokens of {len(files)} files in {out / TOKENS}"


def vocabulary_of_corpus(folder: Path) -> str:
    """Returns the hash of the vocabulary of a corpus. Raises EngineError if the folder has none."""
    try:
        return str(json.loads((folder / INFO).read_text())["vocab_hash"])
    except FileNotFoundError:
        text = f"no corpus in {folder}: run `python -m bench distill corpus`"
        raise EngineError(text) from None


def _unseen(blocks: list[str], seen: set[str]) -> Iterator[str]:
    for block in blocks:
        # Short lines (a "Note", a name) repeat for good reasons.
        if len(block) < 40 or block not in seen:
            seen.add(block)
            yield block


def _pieces(blocks: list[str]) -> Iterator[str]:
    """Whole blocks joined, in pieces that the tokenizer takes."""
    piece: list[str] = []
    size = 0
    for block in blocks:
        if size + len(block) > _MAX_PIECE_CHARS and piece:
            yield "\n\n".join(piece)
            piece, size = [], 0
        piece.append(block[:_MAX_PIECE_CHARS])
        size += len(block)
    if size > 80:
        yield "\n\n".join(piece)


def _topic(heading: str) -> str:
    """A heading without its number and markup; empty where it is no use as a topic."""
    text = re.sub(r"^(Chapter|Appendix)?\s*[\dA-Z]*(\.\d+)*\.?\s+", "", heading.strip())
    text = re.sub(r":\w+:`|[`*]|\s*\(.*\)$", "", text).strip(" .:#\u00b6\u2014")
    words = text.split()
    return text if 1 < len(words) <= 8 and len(text) < 60 and text.isascii() else ""


def _is_passage(block: str) -> bool:
    if "\n" in block or not _PASSAGE_CHARS[0] <= len(block) <= _PASSAGE_CHARS[1]:
        return False
    letters = sum(c.isalpha() or c in " ,." for c in block)
    return block[0].isupper() and block[-1] == "." and letters > 0.95 * len(block)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
