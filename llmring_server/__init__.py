"""llmring-server: usage, costs, receipts and conversations of LLM calls, served or embedded.

Everything that a program needs to run or embed the server can be imported from here. Importing the
package reads no environment variables and loads no web framework: that happens when `build`,
`create_app`, `Server` or `app` is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from llmring_server.core.events import (
    CallLogged,
    ConversationUpdated,
    Event,
    EventsDropped,
    KeyRevoked,
    ReceiptIssued,
)
from llmring_server.core.identity import LIBRARY, Actor, Caller, ProjectId, project_of_key
from llmring_server.db.migrations import migrate
from llmring_server.imports.llmring_source import open_llmring
from llmring_server.maintenance import maintain
from llmring_server.receipts.models import ReceiptRequest
from llmring_server.receipts.signing_keys import Keyring, SigningKey
from llmring_server.ring import Ring
from llmring_server.settings import Settings
from llmring_server.usage.models import NewCall
from llmring_server.usage.transfer import read_export

if TYPE_CHECKING:
    from llmring_server.asgi import App, build, create_app
    from llmring_server.server.in_process import Server

    app: App

__all__ = [
    "LIBRARY",
    "Actor",
    "CallLogged",
    "Caller",
    "ConversationUpdated",
    "Event",
    "EventsDropped",
    "KeyRevoked",
    "Keyring",
    "NewCall",
    "ProjectId",
    "ReceiptIssued",
    "ReceiptRequest",
    "Ring",
    "Server",
    "Settings",
    "SigningKey",
    "build",
    "create_app",
    "maintain",
    "migrate",
    "open_llmring",
    "project_of_key",
    "read_export",
]

# Where the names are defined that need a web framework.
_LAZY = {
    "build": "llmring_server.asgi",
    "create_app": "llmring_server.asgi",
    "Server": "llmring_server.server.in_process",
}


def __getattr__(name: str) -> object:
    """Load what needs a web framework, or create `app` from the environment, when first used."""
    value: object
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
    elif name == "app":
        value = import_module("llmring_server.asgi").create_app()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value
