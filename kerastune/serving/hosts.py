"""The host names that a request may be addressed to, against DNS rebinding.

A web page can make its own name resolve to this machine, and then read this server's answers. It cannot do so with an
address, or with a name that others own.
"""

import ipaddress
import socket
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from kerastune.errors import shortened


class KnownHosts:
    """Middleware that refuses HTTP requests to unknown host names.

    Every IP address, `localhost` and this machine's own name are known.

    Args:
        names: further names, with any case.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self._app = app
        self._names = {name.casefold() for name in ("localhost", socket.gethostname(), *names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_known(host := Headers(scope=scope).get("host", "")):
            said = f'Unknown host name: "{shortened(host)}". Start the server with --allow-host NAME to accept it.'
            await JSONResponse({"error": said}, 400)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_known(self, host: str) -> bool:
        name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        name = (name if name and port.isdecimal() else host).casefold().removesuffix(".")
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return name in self._names
        return True
