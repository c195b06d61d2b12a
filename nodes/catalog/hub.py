"""Lists the GGUF files of a Hugging Face repository, and chooses one by its quantisation.

Source: the Hub's API, https://huggingface.co/docs/hub/api.
"""

import http.client
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Final

from airdraft.nodes.catalog.entries import MAIN, REPO, hub_url
from airdraft.nodes.catalog.errors import CatalogError, ModelNameError

_TIMEOUT_S: Final = 30.0
_MAX_ANSWER_BYTES: Final = 1 << 24
# A page has a thousand files. The header Link has the address of the next page (RFC 8288).
_MOST_PAGES: Final = 50
_NEXT: Final = re.compile(r'<((?:https?:/)?/[^>]*)>\s*;\s*rel="?next"?')
_REPO: Final = re.compile(REPO)
# The order in which llama.cpp's server chooses by default.
_USUAL: Final = ("Q4_K_M", "Q8_0", "Q4_0")
# A later part of a split model, or the projector of a model that reads pictures.
_NO_MODEL: Final = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$|(^|/)mmproj[^/]*$", re.IGNORECASE)
_FIRST_PART: Final = "-00001-of-"


def files_of(repo: str) -> dict[str, int]:
    """Return the sizes in bytes of a repository's GGUF files, ordered by name.

    repo: OWNER/REPO, or OWNER/REPO@REVISION for another revision than the branch `main`.
    Raises ModelNameError or CatalogError.
    """
    if (named := _REPO.fullmatch(repo)) is None:
        raise ModelNameError(f"{repo!r} is not a repository name: write OWNER/REPO[@REVISION]")
    place = urllib.parse.quote(f"{named['repo']}/tree/{named['revision'] or MAIN}")
    url = f"{hub_url()}/api/models/{place}?recursive=true"
    try:
        found = list[Any]()
        for _ in range(_MOST_PAGES):
            items, url = _page(url)
            found += items
            if not url:
                break
        files = {
            item["path"]: int(item["size"])
            for item in found
            if item["type"] == "file" and item["path"].endswith(".gguf")
        }
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 404):
            raise ModelNameError(f"repository {repo} does not exist or is not public") from error
        raise CatalogError(f"cannot list {repo}: HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise CatalogError(f"cannot list {repo}: {reason}: check the network") from error
    except (ValueError, TypeError, KeyError) as error:
        raise CatalogError(f"cannot list {repo}: the answer has an unknown form") from error
    return dict(sorted(files.items()))


def _page(url: str) -> tuple[Any, str]:
    """Return the items of a page of a list, and the address of the next page; "" for the last."""
    request = urllib.request.Request(url, headers={"User-Agent": "airdraft"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:
        following = _NEXT.search(reply.headers.get("Link", ""))
        items = json.loads(reply.read(_MAX_ANSWER_BYTES))
    return items, urllib.parse.urljoin(url, following[1]) if following else ""


def name_of(wanted: str) -> str:
    """Return the catalogue's name hf:OWNER/REPO[@REVISION]/FILE for OWNER/REPO[@REVISION][:QUANT].

    Without a QUANT the file is Q4_K_M if there is one, otherwise Q8_0, Q4_0, or the first one.
    Raises ModelNameError or CatalogError.
    """
    repo, _, quant = wanted.removeprefix("hf:").partition(":")
    files = files_of(repo)
    # A model in one file comes before the same one in parts.
    whole = sorted(
        (name for name in files if not _NO_MODEL.search(name)), key=lambda name: _FIRST_PART in name
    )
    if not whole:
        raise ModelNameError(f"{repo} has no GGUF file of a model that writes text")
    for kind in (quant,) if quant else _USUAL:
        name_end = rf"(?<![A-Za-z0-9]){re.escape(kind)}({_FIRST_PART}\d{{5}})?\.gguf$"
        pattern = re.compile(name_end, re.IGNORECASE)
        if found := [name for name in whole if pattern.search(name)]:
            return f"hf:{repo}/{found[0]}"
    if quant:
        raise ModelNameError(f"{repo} has no {quant}: it has {', '.join(whole[:20])}")
    return f"hf:{repo}/{whole[0]}"
