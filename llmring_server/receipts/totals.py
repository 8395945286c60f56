"""Calls as a receipt certifies them: each as it was stored, and all of them added up."""

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

# Of a batch, so many names and ids are told; the rest of the names are added up as OTHERS.
TOLD, OTHERS = 100, "(others)"
NEVER = datetime.min.replace(tzinfo=UTC)

_LABELS = ("provider", "model", "alias", "profile", "origin", "id_at_origin", "status")


class GroupTotals(TypedDict):
    """What a model or an alias has of a batch."""

    calls: int
    cost: float
    tokens: int


class BatchSummary(TypedDict):
    """What is in a batch: of names and ids at most 100 each."""

    total_conversations: int
    total_calls: int
    total_tokens: int
    total_cost: float
    start_date: str | None
    end_date: str | None
    by_model: dict[str, GroupTotals]
    by_alias: dict[str, GroupTotals]
    conversation_ids: list[str]
    log_ids: list[str]


def amount(cost: Decimal) -> str:
    return f"{cost:.10f}"


def call_of(row: asyncpg.Record) -> dict[str, Any]:
    """Return what is certified of a stored call, as `llmring_verify.receipt` has it."""
    cost, linked = row["cost"], row["conversation_id"]
    return {
        "v": CALL_VERSION,
        "log_id": str(row["id"]),
        "logged_at": format_timestamp(row["logged_at"]),
        **{name: row[name] for name in _LABELS},
        "conversation_id": linked,
        "latency_ms": row["latency_ms"],
        "tokens": {name: row[f"{name}_tokens"] for name in TOKEN_COUNTS},
        "details": row["details"] and orjson.loads(row["details"]),
        "cost": {
            "currency": "USD",
            "amount": None if cost is None else amount(cost),
            "source": row["cost_source"],
        },
    }


@dataclass(slots=True)
class _Sum:
    calls: int = 0
    cost: Decimal = Decimal()
    tokens: int = 0

    def add(self, cost: Decimal, tokens: int) -> None:
        self.calls += 1
        self.cost += cost
        self.tokens += tokens

    def part(self) -> GroupTotals:
        return {"calls": self.calls, "cost": float(self.cost), "tokens": self.tokens}


@dataclass(slots=True)
class ReceiptTotals:
    """Calls added up one by one, in memory for a bounded number of names."""

    count: int = 0
    unpriced: int = 0
    cost: Decimal = Decimal()
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOKEN_COUNTS, 0))
    since: datetime = NEVER
    until: datetime = NEVER
    models: dict[str, _Sum] = field(default_factory=dict)
    aliases: dict[str, _Sum] = field(default_factory=dict)
    makers: dict[str, _Sum] = field(default_factory=dict)
    profiles: dict[str, _Sum] = field(default_factory=dict)
    log_ids: list[str] = field(default_factory=list)
    conversations: int = 0
    conversation_ids: list[str] = field(default_factory=list)

    def add(self, rows: Sequence[asyncpg.Record]) -> None:
        for row in rows:
            self._add(row)

    def _add(self, row: asyncpg.Record) -> None:
        cost = row["cost"]
        self.count += 1
        self.unpriced += cost is None
        self.cost += cost or 0
        for name in TOKEN_COUNTS:
            self.tokens[name] += row[f"{name}_tokens"]
        at = row["logged_at"]
        self.since = at if self.since is NEVER else min(self.since, at)
        self.until = max(self.until, at)
        self._name(row, cost or Decimal(), row["input_tokens"] + row["output_tokens"])

    def _name(self, row: asyncpg.Record, cost: Decimal, tokens: int) -> None:
        for sums, name in (
            (self.models, f"{row['provider']}:{row['model']}"),
            (self.aliases, row["alias"] or "default"),
            (self.makers, row["provider"]),
            (self.profiles, row["profile"]),
        ):
            known = name if name in sums or len(sums) < TOLD else OTHERS
            sums.setdefault(known, _Sum()).add(cost, tokens)
        if len(self.log_ids) < TOLD:
            self.log_ids.append(str(row["id"]))
        if row["opens"]:
            self.conversations += 1
            if len(self.conversation_ids) < TOLD:
                self.conversation_ids.append(row["conversation_id"])

    @property
    def used(self) -> int:
        """Return the tokens of input and output."""
        return self.tokens["input"] + self.tokens["output"]

    def totals(self) -> dict[str, Any]:
        """Return the sums that are signed; Invalid where JSON's readers would round them."""
        if max(*self.tokens.values(), self.used) > MAX_SAFE_INTEGER:
            raise InvalidRequest(
                "These calls use 2^53 tokens or more: certify them in smaller parts."
            )
        cost = {"currency": "USD", "amount": amount(self.cost), "unpriced": self.unpriced}
        return {"tokens": dict(self.tokens), "cost": cost}

    def summary(self) -> BatchSummary:
        return {
            "total_conversations": self.conversations,
            "total_calls": self.count,
            "total_tokens": self.used,
            "total_cost": float(self.cost),
            "start_date": self.since.isoformat() if self.count else None,
            "end_date": self.until.isoformat() if self.count else None,
            "by_model": {name: each.part() for name, each in self.models.items()},
            "by_alias": {name: each.part() for name, each in self.aliases.items()},
            "conversation_ids": self.conversation_ids,
            "log_ids": self.log_ids,
        }

    @property
    def maker(self) -> str:
        return _common(self.makers)

    @property
    def alias(self) -> str:
        return _common(self.aliases)

    @property
    def profile(self) -> str:
        return _common(self.profiles)


def _common(sums: dict[str, _Sum]) -> str:
    """Return the name that all calls have, or that there are several."""
    return next(iter(sums)) if len(sums) == 1 else "mixed"
