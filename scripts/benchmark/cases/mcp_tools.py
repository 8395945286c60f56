"""How fast the executions of an MCP tool are listed and counted."""

import json
from typing import Any

from scripts.benchmark.cases.reading import follow_pages
from scripts.benchmark.http_requests import KEYS
from scripts.benchmark.load_generator import Load
from scripts.benchmark.runner import Comparison, Settings, measure
from scripts.benchmark.seed import settle
from scripts.benchmark.servers import ServerUnderTest, prod, start

FEW = 1_000
PAGE_SIZE, MAX_PAGE_SIZE = 50, 1000
SEED_SECONDS = 600.0

PATH = "/api/v1/mcp"


def executions(settings: Settings) -> dict[str, Any]:
    """List the newest and the oldest page of a long history; count a short and a long one."""
    pages = max(settings.calls // MAX_PAGE_SIZE - 1, 0)
    newest, oldest = "newest page", f"page at {pages * MAX_PAGE_SIZE:,}"
    short, long = f"stats of {FEW:,}", f"stats of {settings.calls:,}"
    with start(settings.cluster_url, prod, *settings.against) as servers:
        paths: dict[tuple[str, str], str] = {}
        for server in servers:
            few, many = (_create(settings, server, number) for number in (FEW, settings.calls))
            settle(server)
            largest = f"{many}/history?limit={MAX_PAGE_SIZE}"
            last = follow_pages(server, KEYS[0], largest, pages)
            paths |= {
                (server.name, newest): f"{many}/history?limit={PAGE_SIZE}",
                (server.name, oldest): last.replace(f"limit={MAX_PAGE_SIZE}", f"limit={PAGE_SIZE}"),
                (server.name, short): f"{few}/stats",
                (server.name, long): f"{many}/stats",
            }
        loads = {
            name: lambda server, name=name: Load(1, settings.seconds, path=paths[server.name, name])
            for name in (newest, oldest, short, long)
        }
        comparison = Comparison(settings, servers, loads)
        return comparison.report() | {
            f"{after} / {before}": {
                server.name: comparison.growth(server, before, after) for server in servers
            }
            for before, after in ((newest, oldest), (short, long))
        }


def _create(settings: Settings, server: ServerUnderTest, executions: int) -> str:
    """Create a tool with this many executions; return its path."""
    new = {"name": f"{executions}", "url": "stdio://tool", "transport_type": "stdio"}
    mcp_server = server.post(f"{PATH}/servers", KEYS[0], new)
    refresh = f"{PATH}/servers/{mcp_server['id']}/refresh"
    tool = server.post(refresh, KEYS[0], {"tools": [{"name": "tool"}]})["tools"][0]
    path = f"{PATH}/tools/{tool['id']}"
    execution = {
        "input": {"path": "file".ljust(40, ".")},
        "output": {"text": "line".ljust(60, ".")},
        "duration_ms": 450,
    }
    load = Load(
        16, SEED_SECONDS, path=f"{path}/execute", body=json.dumps(execution), limit=executions
    )
    sample = measure(settings, server, load)
    if sample.calls != executions:
        raise ValueError(f"{server.name} recorded {sample.calls} executions: {sample}")
    return path
