"""Calls as receipts list them and add them up."""

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, cast
from uuid import UUID

import asyncpg
from typing_extensions import TypedDict

from llmring_server.tally import Part, Tally

NOTHING = "No logs found matching the criteria"


class Item(TypedDict):
    """A call that a receipt certifies, or none does yet; an unknown cost is 0, `unpriced`."""

    id: UUID
    type: Literal["usage"]
    timestamp: datetime
    logged_at: datetime
    provider: str
    model: str
    alias: str
    profile: str
    origin: str | None
    status: str
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cost: Decimal
    cost_source: str


def item(row: asyncpg.Record) -> Item:
    found = dict(row)
    alias = found["alias"] or "default"
    made: Any = found | {"type": "usage", "timestamp": found["logged_at"], "alias": alias}
    return cast("Item", made)


class Items(TypedDict):
    """A stretch of a list of calls; `total` counts no further than 100,000."""

    logs: list[Item]
    total: int
    limit: int
    offset: int


class Logs(Items):
    """A stretch of the calls of a receipt that are still kept; `total`: all that it certifies."""

    receipt_id: str


class Preview(TypedDict):
    """What a receipt would certify."""

    total_logs: int
    total_conversations: int
    total_tokens: int
    total_cost: float
    start_date: str | None
    end_date: str | None
    by_model: dict[str, Part]
    by_alias: dict[str, Part]
    receipt_type: Literal["single", "batch"] | None
    message: str | None


def preview(tally: Tally) -> Preview:
    """Return what a receipt of these calls would say; Invalid if there can be none."""
    tally.totals()
    told = tally.summary()
    return {
        "total_logs": tally.count,
        "total_conversations": told["total_conversations"],
        "total_tokens": told["total_tokens"],
        "total_cost": told["total_cost"],
        "start_date": told["start_date"],
        "end_date": told["end_date"],
        "by_model": told["by_model"],
        "by_alias": told["by_alias"],
        "receipt_type": ("single" if tally.count == 1 else "batch") if tally.count else None,
        "message": None if tally.count else NOTHING,
    }
