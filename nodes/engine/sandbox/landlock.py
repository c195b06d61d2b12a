"""Landlock, by which a process gives up files, connections and signals to other processes.

It is a second wall behind the filter of system calls and asks other parts of the kernel: it refuses
objects and not calls. It needs no privileges. Kernels before 5.13 do not have it, and others may
have it turned off.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

# The numbers of the calls are the same on all machines.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_ASK_VERSION: Final = 1
# The rights to files that the first version knows, and the versions that added one more right
# (to link elsewhere, to truncate, and to control devices).
_FILE_RIGHTS: Final = 13
_MORE_FILE_RIGHTS: Final = (2, 3, 5)
# Binding and connecting TCP sockets; reaching abstract sockets and sending signals outside.
_TCP_VERSION, _TCP_RIGHTS = 4, 3
_SCOPE_VERSION, _SCOPES = 6, 3


def restrict() -> bool:
    """Give up all rights that the kernel's version knows, for this thread and what it starts.

    Nothing is granted. Open descriptors stay usable. It needs no_new_privs. Returns False if the
    kernel has no Landlock.
    """
    version = _call(_CREATE_RULESET, None, 0, _ASK_VERSION)
    if version < 1:
        return False
    num_rights = _FILE_RIGHTS + sum(version >= added for added in _MORE_FILE_RIGHTS)
    tcp = _TCP_RIGHTS if version >= _TCP_VERSION else 0
    scopes = _SCOPES if version >= _SCOPE_VERSION else 0
    # struct landlock_ruleset_attr. Older versions accept its later parts if they are 0.
    handled = struct.pack("QQQ", (1 << num_rights) - 1, tcp, scopes)
    ruleset = _call(_CREATE_RULESET, handled, len(handled), 0)
    if ruleset < 0:
        return False
    try:
        return _call(_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _call(number: int, *arguments: int | bytes | None) -> int:
    longs = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return int(ctypes.CDLL(None).syscall(ctypes.c_long(number), *longs))
