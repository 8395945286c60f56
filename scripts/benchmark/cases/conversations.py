"""How fast short and long conversations are read and appended to."""

import json
from typing import Any

from scripts.benchmark.http_requests import KEYS
from scripts.benchmark.load_generator import Load
from scripts.benchmark.runner import Comparison, Settings
from scripts.benchmark.seed import settle
from scripts.benchmark.servers import ServerUnderTest, prod, start

SHORT, LONG = 10, 10_000
BATCH_SIZE = 500
# Few enough that a short conversation stays short.
MAX_APPENDS = 200

PATH = "/api/v1/conversations"
TEXT = "A message that a person writes in a chat is about this long, or a few times as long. " * 4


def conversations(settings: Settings) -> dict[str, Any]:
    """Read the first and the last ten messages of a conversation, and append one."""
    with start(settings.cluster_url, prod, *settings.against) as servers:
        paths = {
            (server.name, size): _create(server, size)
            for server in servers
            for size in (SHORT, LONG)
        }
        for server in servers:
            settle(server)
        names = list(_loads(settings, ""))
        loads = {
            _label(name, size): lambda server, name=name, size=size: _loads(
                settings, paths[server.name, size]
            )[name]
            for size in (SHORT, LONG)
            for name in names
        }
        comparison = Comparison(settings, servers, loads)
        return comparison.report() | {
            f"{name}, {LONG:,} / {SHORT}": {
                server.name: comparison.growth(server, _label(name, SHORT), _label(name, LONG))
                for server in servers
            }
            for name in names
        }


def _label(name: str, size: int) -> str:
    return f"{name}, {size:,} messages"


def _loads(settings: Settings, path: str) -> dict[str, Load]:
    body = json.dumps({"role": "user", "content": TEXT})
    return {
        "first page": Load(1, settings.seconds, path=f"{path}?limit=10"),
        "last page": Load(1, settings.seconds, path=f"{path}?limit=10&order=desc"),
        "append": Load(1, settings.seconds, path=path, body=body, limit=MAX_APPENDS),
    }


def _create(server: ServerUnderTest, size: int) -> str:
    """Create a conversation with this many messages; return the path of its messages."""
    conversation = server.post(PATH, KEYS[0], {"title": f"{size} messages"})
    path = f"{PATH}/{conversation['id']}/messages"
    for first in range(0, size, BATCH_SIZE):
        messages = [{"role": "user", "content": TEXT}] * min(BATCH_SIZE, size - first)
        server.post(f"{path}/batch", KEYS[0], {"messages": messages})
    return path
