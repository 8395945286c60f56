"""The app of llmring-server 0.1, at its former path: `llmring_server.main:app`."""

from typing import TYPE_CHECKING

import llmring_server

if TYPE_CHECKING:
    from llmring_server.asgi import App, create_app

    app: App

__all__ = ["app", "create_app"]


def __getattr__(name: str) -> object:
    """Return `app` or `create_app` of the package, which creates `app` when it is first used."""
    if name in __all__:
        return getattr(llmring_server, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
