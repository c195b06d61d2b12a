"""Why tests may be skipped: what a machine may lack, and nothing else.

A run of the tests fails where a test was skipped for another reason, so that none is lost silently.
"""

import re
from collections.abc import Iterable
from typing import Final

# Patterns of reasons.
ALLOWED: Final = (
    # Another system or another processor.
    r"epoll is Linux's",
    r"an option of Linux",
    r"ggml has such tiles for x86 alone",
    r"no filter of system calls is known for this machine",
    r"numpy uses nothing of this CPU that could be left out",
    # A network stack or rights that containers lack.
    r"no IPv6 here",
    r"raw sockets are not allowed here",
    r"network namespaces need root",
    r"(time namespace|disk of our own) cannot be m",
    r"/dev/net/tun|Operation not permitted|Permission denied",
    # Tools of the system.
    r"no openssl|no curl|no CMake|no `?unshare|needs Linux and `cc`",
    r"(systemd-analyze|systemctl|QEMU's x86) is not here",
    r"no browser|Selenium is not installed",
    # Parts of an installation that are optional, and models that `make test` fetches.
    r"the extra `distill` is not installed",
    # Long forms.
    r"the long form was not wanted",
    r"could not import '(gguf|llama_cpp|hatchling[a-z.]*)'",
    r"the default (target|model) is not (installed|here)",
)


def unexpected(reasons: Iterable[str]) -> list[str]:
    """Reasons that no pattern allows."""
    return sorted({r for r in reasons if not any(re.search(p, r) for p in ALLOWED)})
