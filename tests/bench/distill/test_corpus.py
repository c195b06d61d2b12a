"""Texts become blocks, topics, passages and token ids."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from bench.distill.sampling.corpus import build_corpus, read_blocks, text_files
from nodes.engine.protocol import EngineError
from nodes.engine.toy import TOY_EOG
from tests.bench.distill.fakes import FramedTokenizer, silent

_PAGE = """<html><head><title>x</title><script>var a;</script></head><body>
<nav><a>menu</a></nav><h1>3.2. Keeping things tidy\u00b6</h1>
<p>One  line
of text &amp; more.</p><pre>
def f():
    return 1
</pre></body></html>"""


def test_a_page_gives_its_paragraphs_without_menus_and_keeps_code(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(_PAGE, encoding="utf-8")
    blocks, headings = read_blocks(page)
    assert blocks == [
        "3.2. Keeping things tidy",
        "One line of text & more.",
        "def f():\n    return 1",
    ]
    assert headings == ["3.2. Keeping things tidy"]


def test_plain_text_is_cut_at_empty_lines_also_when_compressed(tmp_path: Path) -> None:
    file = tmp_path / "a.rst.gz"
    file.write_bytes(
        gzip.compress(b"The title of it\n===============\n\nfirst\nblock\n\n\nsecond\n")
    )
    blocks, headings = read_blocks(file)
    assert blocks == ["The title of it\n===============", "first\nblock", "second"]
    assert headings == ["The title of it"]


def test_files_are_found_once_and_in_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "genindex.html", "c.png"):
        (tmp_path / name).write_text("x")
    (tmp_path / "link.txt").symlink_to(tmp_path / "b.txt")
    found = text_files([tmp_path, tmp_path / "b.txt"])
    assert [file.name for file in found] == ["a.md", "b.txt"]


def test_a_corpus_holds_every_long_paragraph_once(tmp_path: Path) -> None:
    paragraph = "Every paragraph that is long enough and has been seen before is left out. " * 3
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text(
            f"{paragraph.strip()}\n\n{name} has this of its own: {name * 9}"
        )
    tokenizer, out = FramedTokenizer(), tmp_path / "out"
    build_corpus([tmp_path], ["MIT"], tokenizer, out, silent)
    ids = np.load(out / "corpus.npy")
    assert np.count_nonzero(ids == TOY_EOG) == 2
    wanted = tokenizer.encode(paragraph.strip())
    windows = np.lib.stride_tricks.sliding_window_view(ids, len(wanted))
    assert np.count_nonzero((windows == wanted).all(axis=1)) == 1
    assert (out / "passages.txt").read_text() == paragraph.strip() + "\n"
    info = json.loads((out / "corpus.json").read_text())
    assert (info["licences"], info["num_files"], info["num_tokens"]) == (["MIT"], 2, len(ids))


def test_a_corpus_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no text"):
        build_corpus([], [], FramedTokenizer(), tmp_path, silent)
