from typing import Any

from starlette.responses import Response

from llmring_server.entry import Entry
from llmring_server.pages import Page
from llmring_server.stats import Stats, Window
from llmring_server.usage import Logged
from llmring_server.web.call import Call, render
from llmring_server.web.paging import paged


def answer(logged: Logged) -> dict[str, Any]:
    return {
        "log_id": logged.log_id,
        "cost": 0 if logged.cost is None else logged.cost,
        "cost_source": logged.cost_source,
        "timestamp": logged.timestamp,
    }


async def log(call: Call) -> dict[str, Any] | Response:
    entry = await call.read(Entry)
    logged = await call.ring.usage.log(call.tenant, entry, call.idempotency_key)
    return replay(render(answer(logged))) if logged.replayed else answer(logged)


def replay(content: bytes) -> Response:
    return Response(content, headers={"Idempotent-Replayed": "true"}, media_type="application/json")


async def logs(call: Call) -> Response:
    page = call.query(Page)
    found = await call.ring.usage.logs(call.tenant, page)
    cursor = page.next(call.tenant, found[-1]) if len(found) == page.limit else None
    return paged(page, found, cursor)


async def stats(call: Call) -> Stats:
    return await call.ring.usage.stats(call.tenant, call.query(Window))
