"""`llmring-server` without its limits on requests, to measure what these limits cost."""

import asyncio
from importlib import import_module
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llmring_server.cli import main
from llmring_server.server.protocol import CoalescingTransport
from llmring_server.web import request_limits


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol with one write per response, which is not one of the limits."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(CoalescingTransport(transport, lambda: False))  # type: ignore[arg-type]


if __name__ == "__main__":
    server: Any = import_module("llmring_server.server.in_process")
    server.BoundedHttpProtocol = Protocol
    request_limits.check_head = lambda scope: dict(scope["headers"])
    request_limits.receive_with_deadline = lambda scope, receive: receive  # noqa: ARG005, it is called by name
    main()
