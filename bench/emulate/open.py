"""Open an emulated cell by the best means that this machine allows."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Literal

from bench.emulate.cell import Cell
from bench.emulate.proxy import ProxyCell, proxy_cell
from bench.emulate.tun import TunCell, tun_cell
from bench.netns import NamespacesError

Means = Literal["auto", "tun", "proxy"]


LiveCell = TunCell | ProxyCell


@contextlib.asynccontextmanager
async def open_cell(cell: Cell, *, means: Means = "auto") -> AsyncIterator[tuple[LiveCell, str]]:
    """Open a cell; yield it and a text about its means.

    means: auto takes TUN devices if they are allowed, and the proxy otherwise. Raises
    NamespacesError if means is tun and TUN devices are not allowed.
    """
    async with contextlib.AsyncExitStack() as stack:
        why_not = ""
        if means != "proxy":
            try:
                live = stack.enter_context(tun_cell(cell))
            except NamespacesError as error:
                if means == "tun":
                    hint = "--means proxy needs no namespaces, but loses no packets"
                    raise NamespacesError(f"{error}; {hint}") from error
                why_not = f" ({error})"
            else:
                yield live, live.kind
                return
        proxy = await stack.enter_async_context(proxy_cell(cell))
        yield proxy, proxy.kind + why_not
