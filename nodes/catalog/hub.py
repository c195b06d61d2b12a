"""Files of the Hugging Face Hub, which huggingface_hub lists and downloads into its shared cache.

That library goes on where a connection broke, lets two downloads of a file wait for each other,
shows its progress, and reads HF_TOKEN, HF_HOME and other variables. Only this module imports it,
and only when it is needed, because that takes 0.2 s and 23 MB.
"""

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from airdraft.nodes.catalog.entries import FIRST_PART, MAIN, REPO, HubFile, is_model
from airdraft.nodes.catalog.errors import FetchError, HubUnreachableError, ModelNameError

DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_REFUSED: Final = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH)
_REPO: Final = re.compile(REPO)
_HOST: Final = re.compile(r"(?:https?://)?(?:huggingface\.co|hf\.co)/")
# What a browser shows of a file or of a folder.
_PAGE: Final = re.compile(
    r"(?P<repo>[^/]+/[^/]+)/(?:blob|resolve|tree)/(?P<revision>[^/?]+)(?:/(?P<file>[^?]+))?(?:\?.*)?"
)
# The order in which llama.cpp's server chooses by default.
_USUAL: Final = ("Q4_K_M", "Q8_0", "Q4_0")


def hub_url() -> str:
    """Return the address of the Hub or, as its library does, that in HF_ENDPOINT."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def download(wanted: HubFile) -> Path:
    """Return the file in the Hub's cache, after a download if it is not there.

    The Hub is asked first, then each address in AIRDRAFT_MIRRORS, which must answer as the Hub
    does. Raises HubUnreachableError if the Hub's name does not resolve or its connection is
    refused, FetchError for any other reason, and OSError on a full disk.
    """
    failures: list[FetchError] = []
    for endpoint in (hub_url(), *os.environ.get("AIRDRAFT_MIRRORS", "").split()):
        try:
            with _one_line_errors(f"{wanted.file} of {wanted.repo}", endpoint):
                # The user's token is for the Hub, and no mirror may see it.
                return _from(endpoint, wanted, token=None if not failures else False)
        except FetchError as error:
            failures.append(error)
    raise type(failures[0])("; ".join(map(str, failures)))


def _from(endpoint: str, wanted: HubFile, *, token: bool | None) -> Path:
    import huggingface_hub as library

    repo, file, revision = wanted.repo, wanted.file, wanted.revision
    here = library.try_to_load_from_cache(repo, file, revision=revision)
    try:
        _check_reachable(endpoint, wanted, token=token)
    except Exception:
        if not isinstance(here, str):
            raise
        return Path(here)
    return Path(
        library.hf_hub_download(repo, file, revision=revision, endpoint=endpoint, token=token)
    )


def _check_reachable(endpoint: str, wanted: HubFile, *, token: bool | None = None) -> None:
    """Raise the HTTP library's error at once if the connection is refused.

    The functions that download and list ask again for 23 s before they do so.
    """
    import huggingface_hub as library

    url = library.hf_hub_url(wanted.repo, wanted.file, revision=wanted.revision, endpoint=endpoint)
    try:
        library.get_hf_file_metadata(url, token=token, endpoint=endpoint)
    except Exception as error:  # others are met again, and told then
        if _refusal(error) is not None:
            raise


def remove(path: Path) -> None:
    """Delete a file of the Hub's cache, which is a link to its content."""
    if path.is_symlink():
        path.parent.joinpath(path.readlink()).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def files_of(repo: str) -> dict[str, int]:
    """Return the sizes in bytes of a repository's GGUF files, ordered by name.

    repo: OWNER/REPO, or OWNER/REPO@REVISION for another revision than the branch `main`.
    Raises ModelNameError or FetchError.
    """
    if (named := _REPO.fullmatch(repo)) is None:
        raise ModelNameError(f"{repo!r} is not a repository name: write OWNER/REPO[@REVISION]")
    with _one_line_errors(f"the list of {named['repo']}", hub_url()):
        import huggingface_hub as library

        _check_reachable(hub_url(), HubFile(named["repo"], "README.md"))
        tree = library.HfApi(endpoint=hub_url()).list_repo_tree(
            named["repo"], recursive=True, revision=named["revision"] or MAIN
        )
        files = {
            item.path: item.size
            for item in tree
            if isinstance(item, library.hf_api.RepoFile) and item.path.endswith(".gguf")
        }
    return dict(sorted(files.items()))


def name_of(wanted: str) -> str:
    """Return the catalogue's name hf:OWNER/REPO[@REVISION]/FILE for OWNER/REPO[@REVISION][:QUANT]
    or for the address of a page of the Hub.

    Without a QUANT the file is Q4_K_M if there is one, otherwise Q8_0, Q4_0, or the first one.
    Raises ModelNameError or FetchError.
    """
    wanted = _HOST.sub("", wanted.removeprefix(f"{hub_url()}/"), count=1).rstrip("/")
    if page := _PAGE.fullmatch(wanted):
        wanted = page["repo"] if page["revision"] == MAIN else f"{page['repo']}@{page['revision']}"
        if page["file"]:
            return f"hf:{wanted}/{page['file']}"
    repo, _, quant = wanted.removeprefix("hf:").partition(":")
    # A model in one file comes before the same one in parts.
    whole = sorted(filter(is_model, files_of(repo)), key=lambda name: FIRST_PART in name)
    if not whole:
        raise ModelNameError(f"{repo} has no GGUF file of a model that writes text")
    for kind in (quant,) if quant else _USUAL:
        name_end = rf"(?<![A-Za-z0-9]){re.escape(kind)}({FIRST_PART}\d{{5}})?\.gguf$"
        pattern = re.compile(name_end, re.IGNORECASE)
        if found := [name for name in whole if pattern.search(name)]:
            return f"hf:{repo}/{found[0]}"
    if quant:
        raise ModelNameError(f"{repo} has no {quant}: it has {', '.join(whole[:20])}")
    return f"hf:{repo}/{whole[0]}"


@contextmanager
def _one_line_errors(what: str, endpoint: str) -> Iterator[None]:
    """Convert the library's errors to those of this package, and close its connections."""
    import huggingface_hub as library
    from huggingface_hub import errors

    try:
        yield
    except Exception as error:  # any of its HTTP library
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        if (refusal := _refusal(error)) is not None:
            message = f"{endpoint} cannot be reached: {refusal}"
            raise HubUnreachableError(f"cannot download {what}: {message}") from error
        match error:
            case errors.GatedRepoError():
                reason = "accept its terms on its page, then set HF_TOKEN to a token of yours"
            case errors.RepositoryNotFoundError():
                reason = "there is no such repository, or it is private and HF_TOKEN lets nobody in"
            case errors.RevisionNotFoundError():
                reason = "the repository has no such revision"
            case errors.LocalEntryNotFoundError():
                reason = _first_line(error.__cause__ or error)
            case errors.EntryNotFoundError():
                reason = "the repository has no such file"
            case _:
                reason = _first_line(error)
        raise FetchError(f"cannot download {what} from {endpoint}: {reason}") from error
    finally:
        library.close_session()


def _refusal(error: BaseException | None) -> str | None:
    """Return why a connection was refused, by a proxy, too; None if the error is another one."""
    while error is not None:
        if type(error).__name__ == "ProxyError":
            return f"the proxy says: {_first_line(error)}"
        if isinstance(error, socket.gaierror) or (
            isinstance(error, OSError) and error.errno in _REFUSED
        ):
            return error.strerror
        error = error.__cause__ or error.__context__
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
