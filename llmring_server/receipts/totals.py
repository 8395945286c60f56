"""Totals of a receipt: each call as it is certified, and the sums over all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import asyncpg
import orjson
from typing_extensions import TypedDict

from llmring_server.errors import InvalidRequest
from llmring_server.receipts.signing_keys import format_timestamp
from llmring_verify.canonical_json import MAX_SAFE_INTEGER
from llmring_verify.receipt import CALL_VERSION, TOKEN_COUNTS

# A summary lists this many names and ids at most. Further names are summed up as OTHERS.
MAX_LISTED = 100
OTHERS = "(others)"

_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)
_LABELS = ("provider", "model", "alias", "profile", "origin", "id_at_origin", "status")


class ReceiptGroupTotals(TypedDict):
    """The totals of the calls with one model or one alias."""

    calls: int
    cost: float
    tokens: int


class ReceiptBatchSummary(TypedDict):
    """The content of a batch; names and ids are limited to 100 each."""

    total_conversations: int
    total_calls: int
    total_tokens: int
    total_cost: float
    start_date: str | None
    end_date: str | None
    by_model: dict[str, ReceiptGroupTotals]
    by_alias: dict[str, ReceiptGroupTotals]
    conversation_ids: list[str]
    log_ids: list[str]


def call_from_row(row: asyncpg.Record) -> dict[str, Any]:
    """Return a stored call as it is certified; its schema is in `llmring_verify.receipt`.

    The tokens of a call with unknown usage are null; in totals they count as 0.
    """
    return {
        "v": CALL_VERSION,
        "log_id": str(row["id"]),
        "logged_at": format_timestamp(row["logged_at"]),
        **{name: row[name] for name in _LABELS},
        "conversation_id": row["conversation_id"],
        "latency_ms": row["latency_ms"],
        "tokens": {name: row[f"{name}_tokens"] for name in TOKEN_COUNTS},
        "details": orjson.loads(row["details"]) if row["details"] else None,
        "cost": {
            "currency": "USD",
            "amount": None if row["cost"] is None else format_amount(row["cost"]),
            "source": row["cost_source"],
        },
    }


def format_amount(cost: Decimal) -> str:
    return f"{cost:.10f}"


@dataclass(slots=True)
class _Group:
    calls: int = 0
    cost: Decimal = Decimal()
    tokens: int = 0

    def add(self, cost: Decimal, tokens: int) -> None:
        self.calls += 1
        self.cost += cost
        self.tokens += tokens

    def totals(self) -> ReceiptGroupTotals:
        return {"calls": self.calls, "cost": float(self.cost), "tokens": self.tokens}


_Groups = dict[str, _Group]


@dataclass(slots=True)
class ReceiptTotals:
    """Sums over calls that are added one by one, in memory for a bounded number of names."""

    count: int = 0
    unpriced: int = 0
    cost: Decimal = Decimal()
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOKEN_COUNTS, 0))
    first_logged_at: datetime = _LATEST
    last_logged_at: datetime = _EARLIEST
    conversations: int = 0
    conversation_ids: list[str] = field(default_factory=list)
    log_ids: list[str] = field(default_factory=list)
    _by_model: _Groups = field(default_factory=dict)
    _by_alias: _Groups = field(default_factory=dict)
    _by_provider: _Groups = field(default_factory=dict)
    _by_profile: _Groups = field(default_factory=dict)

    def add(self, rows: Sequence[asyncpg.Record]) -> None:
        for row in rows:
            self._add(row)

    def _add(self, row: asyncpg.Record) -> None:
        cost = row["cost"]
        self.count += 1
        if cost is None:
            self.unpriced += 1
            cost = Decimal()
        self.cost += cost
        for name in TOKEN_COUNTS:
            self.tokens[name] += row[f"{name}_tokens"] or 0
        self.first_logged_at = min(self.first_logged_at, row["logged_at"])
        self.last_logged_at = max(self.last_logged_at, row["logged_at"])
        if len(self.log_ids) < MAX_LISTED:
            self.log_ids.append(str(row["id"]))
        if row["is_first_of_conversation"]:
            self.conversations += 1
            if len(self.conversation_ids) < MAX_LISTED:
                self.conversation_ids.append(row["conversation_id"])
        tokens = (row["input_tokens"] or 0) + (row["output_tokens"] or 0)
        _add_to_group(self._by_model, f"{row['provider']}:{row['model']}", cost, tokens)
        _add_to_group(self._by_alias, row["alias"] or "default", cost, tokens)
        _add_to_group(self._by_provider, row["provider"], cost, tokens)
        _add_to_group(self._by_profile, row["profile"], cost, tokens)

    @property
    def total_tokens(self) -> int:
        """The number of input and output tokens."""
        return self.tokens["input"] + self.tokens["output"]

    @property
    def provider(self) -> str:
        return _common_name(self._by_provider)

    @property
    def alias(self) -> str:
        return _common_name(self._by_alias)

    @property
    def profile(self) -> str:
        return _common_name(self._by_profile)

    def check_countable(self) -> None:
        """Raise InvalidRequest if a sum is so large that JSON implementations would round it."""
        if max(*self.tokens.values(), self.total_tokens) > MAX_SAFE_INTEGER:
            raise InvalidRequest(
                "These calls have 2^53 tokens or more in total: certify them in smaller parts."
            )

    def signed_totals(self) -> dict[str, Any]:
        """Return the sums that a batch receipt contains."""
        return {
            "tokens": dict(self.tokens),
            "cost": {
                "currency": "USD",
                "amount": format_amount(self.cost),
                "unpriced": self.unpriced,
            },
        }

    def summary(self) -> ReceiptBatchSummary:
        """Return the summary whose digest a batch receipt contains."""
        return {
            "total_conversations": self.conversations,
            "total_calls": self.count,
            "total_tokens": self.total_tokens,
            "total_cost": float(self.cost),
            "start_date": self.first_logged_at.isoformat() if self.count else None,
            "end_date": self.last_logged_at.isoformat() if self.count else None,
            "by_model": {name: group.totals() for name, group in self._by_model.items()},
            "by_alias": {name: group.totals() for name, group in self._by_alias.items()},
            "conversation_ids": self.conversation_ids,
            "log_ids": self.log_ids,
        }


def _add_to_group(groups: _Groups, name: str, cost: Decimal, tokens: int) -> None:
    if name not in groups and len(groups) >= MAX_LISTED:
        name = OTHERS
    groups.setdefault(name, _Group()).add(cost, tokens)


def _common_name(groups: _Groups) -> str:
    """Return the name that all calls share, or "mixed"."""
    return next(iter(groups)) if len(groups) == 1 else "mixed"
