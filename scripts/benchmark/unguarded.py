"""The same server without its guard: what the guard costs is the difference."""

from importlib import import_module
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from llmring_server.cli import main
from llmring_server.web import guard
from llmring_server.web.endpoint import WHOLE
from llmring_server.web.whole import Whole


class Protocol(HttpToolsProtocol):
    """As uvicorn has it, but for whole answers, which are no matter of the guard."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        scope: Any = cycle.scope
        scope["extensions"] = {WHOLE: {}}
        whole: Any = Whole(app, cycle)
        super()._start_asgi_task(cycle, whole)


if __name__ == "__main__":
    serve: Any = import_module("llmring_server.cli.serve")
    serve.Protocol = Protocol
    guard.check = lambda scope: dict(scope["headers"])
    guard.hurried = lambda scope, receive: receive  # noqa: ARG005, it is called by name
    main()
