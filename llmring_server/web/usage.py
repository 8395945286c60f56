from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from typing_extensions import TypedDict

from llmring_server.entry import Entry
from llmring_server.pages import Log, Page
from llmring_server.stats import Stats, Window
from llmring_server.usage import Logged
from llmring_server.web.call import Call, Key
from llmring_server.web.paging import link

REPLAYED = {b"idempotent-replayed": b"true"}


class Answer(TypedDict):
    """What was recorded; an unknown cost is 0 with the source `unpriced`."""

    log_id: UUID
    cost: Decimal | float
    cost_source: str
    timestamp: datetime


def answer(logged: Logged) -> Answer:
    return {
        "log_id": logged.log_id,
        "cost": 0 if logged.cost is None else logged.cost,
        "cost_source": logged.cost_source,
        "timestamp": logged.timestamp,
    }


async def log(call: Call, body: Entry, key: Key) -> Answer:
    """Record a call, exactly once if it brings an Idempotency-Key."""
    logged = await call.ring.usage.log(call.tenant, body, key)
    if logged.replayed:
        call.says = REPLAYED
    return answer(logged)


async def logs(call: Call, query: Page) -> Annotated[list[Log], "Link"]:
    """List calls, newest first, a page at a time."""
    found = await call.ring.usage.logs(call.tenant, query)
    if len(found) == query.limit:
        call.says = link(query, query.next(call.tenant, found[-1]))
    return found


async def stats(call: Call, query: Window) -> Stats:
    """Add calls up, exactly: in total, over time, and by label."""
    return await call.ring.usage.stats(call.tenant, query)
