"""The same server without its guard: what the guard costs is the difference."""

import asyncio
from importlib import import_module
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llmring_server.cli import main
from llmring_server.web import guard
from llmring_server.web.transport import Joining


class Protocol(HttpToolsProtocol):
    """As uvicorn has it, but for one write an answer, which is no matter of the guard."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        joining: Any = Joining(transport, lambda: False)
        super().connection_made(joining)


if __name__ == "__main__":
    serve: Any = import_module("llmring_server.cli.serve")
    serve.Protocol = Protocol
    guard.check = lambda scope: dict(scope["headers"])
    guard.hurried = lambda scope, receive: receive  # noqa: ARG005, it is called by name
    main()
