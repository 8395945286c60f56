"""`llmring-server` without its limits on requests, to measure what these limits cost."""

from importlib import import_module
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llmring_server.cli import main
from llmring_server.web import guard

if __name__ == "__main__":
    serve: Any = import_module("llmring_server.cli.serve")
    serve.Protocol = HttpToolsProtocol
    guard.check = lambda scope: dict(scope["headers"])
    guard.hurried = lambda scope, receive: receive  # noqa: ARG005, it is called by name
    main()
