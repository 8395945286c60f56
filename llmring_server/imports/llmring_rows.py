"""Rows of an llmring-server 0.1, as they are stored here.

Each function returns the row of a statement of `imports/llmring`, or raises `Refused` with a reason
that contains no value of the row. What is stored with a change is counted in `notes`.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import orjson
from pydantic import BaseModel, ValidationError

from llmring_server.conversations.models import (
    ContentLevel,
    Message,
    NewConversation,
    message_row,
)
from llmring_server.core.identity import ProjectId, project_of_key
from llmring_server.core.ids import EPOCH, moment_of
from llmring_server.core.providers import normal_provider
from llmring_server.core.strict_json import (
    MAX_DEPTH,
    MAX_SMALL_OBJECT_BYTES,
    JsonRules,
    check_json,
    dump_bounded_json,
    encode_json,
    load_json,
    parse_json,
)
from llmring_server.errors import InvalidRequest, RingError
from llmring_server.mcp.capabilities import stored_row
from llmring_server.mcp.models import (
    NewMcpServer,
    NewToolExecution,
    OfferedPrompt,
    OfferedResource,
    OfferedTool,
)
from llmring_server.mcp.secrets import SecretBox
from llmring_server.templates.models import NewTemplate
from llmring_server.usage.call_record import MAX_METADATA_BYTES
from llmring_server.usage.models import MAX_CLOCK_SKEW
from llmring_server.usage.transfer import CallToStore, day_of

Model = TypeVar("Model", bound=BaseModel)

MILLISECOND = timedelta(milliseconds=1)
_MICROSECOND = timedelta(microseconds=1)
_LOW_62_BITS = 2**62 - 1

# What a label is called if the row has none.
UNKNOWN = "unknown"

ZERO_COST = (
    "cost 0 although tokens were used: stored as unpriced. That server stored 0 for every model"
    " without a price"
)
NO_METADATA = "metadata that is no JSON object of at most 64 KiB: left out"
NO_LABEL = f'no provider or no model: stored as "{UNKNOWN}"'
NEGATIVE_LATENCY = "a negative latency or duration: left out"
NEGATIVE_TOKENS = "a negative number of tokens: left out"
NO_CONTENT = "content that is not kept, as LLMRING_CONVERSATION_CONTENT says"
FEWER_THAN_TOTALS = "totals of less than the messages that are kept: those of the messages count"

ODD_TIME = "a time that is infinite or beyond the calendar: left out"
ODD_TOTAL = "a total cost that is not a number: that of the messages counts"
NO_COST = "a cost in their metadata that is no amount of USD: left out"
NOT_A_HEADER = (
    "an API key that is not ASCII: stored in the project of this key, which no request in mode open"
    " can name"
)
TOO_EXPENSIVE = "its cost is 10,000,000,000 USD or more"
OTHER_OWNER = "its API key or project is not that of its server"
UNREADABLE_JSON = "it has JSON that is nested too deep, or has U+0000 or a number that is too large"

# What the columns here can hold: less than this.
MAX_COST = Decimal(10) ** 10
_MAX_STORED_DEPTH = 200
# What a row that is not as that server wrote it may raise.
UNCONVERTIBLE = (
    RingError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)

Row = dict[str, Any]


class Refused(Exception):
    """A row that cannot be stored, and why."""


def imported_id(id: UUID, at: datetime) -> UUID:
    """Return the UUIDv7 of a row with this id and time, always the same.

    Its last 62 bits are those of `id`, which people who know that one can see. One that is a UUIDv7
    of this time is kept.
    """
    if id.version == 7 and timedelta() <= at - moment_of(id) < MILLISECOND:  # noqa: PLR2004
        return id
    microseconds = (at - EPOCH) // _MICROSECOND
    fraction = microseconds % 1000 * 4096 // 1000
    high = microseconds // 1000 << 80 | 7 << 76 | fraction << 64
    return UUID(int=high | 2 << 62 | id.int & _LOW_62_BITS)


def reason_of(error: Exception) -> str:
    """Return why a row was refused, without its values."""
    if isinstance(error, Refused):
        return str(error)
    return f"it cannot be converted ({type(error).__name__})"


def is_storable_cost(cost: Decimal) -> bool:
    """Tell whether a cost of a message can be stored."""
    return 0 <= cost < MAX_COST


@dataclass
class Conversion:
    """How rows are stored: whose they are, with how much content, and what was changed so far."""

    without_owner: ProjectId | None
    level: ContentLevel
    secret_box: SecretBox
    zero_cost_is_free: bool
    latest: datetime = field(default_factory=lambda: datetime.now(UTC) + MAX_CLOCK_SKEW)
    notes: Counter[str] = field(default_factory=Counter)

    def project_of(self, row: asyncpg.Record, rows: int = 1) -> ProjectId:
        """Return the project of the owner of these rows. Its key is not kept."""
        if row["api_key_id"]:
            if not row["api_key_id"].isascii():
                self.notes[NOT_A_HEADER] += rows
            return project_of_key(row["api_key_id"])
        if row["project_id"]:
            try:
                return ProjectId(UUID(row["project_id"]))
            except ValueError as exc:
                raise Refused("the id of its project is no UUID") from exc
        if self.without_owner is None:
            raise Refused("it has no owner, and no project is named for such rows")
        return self.without_owner

    def call(self, row: asyncpg.Record) -> CallToStore:
        at = self._time(row["at"])
        id = imported_id(row["id"], at)
        input_tokens, output_tokens = row["input_tokens"], row["output_tokens"]
        if input_tokens is None or output_tokens is None:
            raise Refused("a number of tokens is missing")
        cached = row["cached_input_tokens"] or 0
        if input_tokens < 0 or output_tokens < 0 or cached < 0:
            raise Refused("a number of tokens is negative")
        cost: Decimal | None = row["cost"]
        if cost is None or not cost.is_finite():
            raise Refused("its cost is not a number")
        if cost < 0:
            raise Refused("its cost is negative")
        if cost >= MAX_COST:
            raise Refused(TOO_EXPENSIVE)
        source = "client"
        if not cost and input_tokens + output_tokens and not self.zero_cost_is_free:
            self.notes[ZERO_COST] += 1
            cost, source = None, "unpriced"
        provider, model = row["provider"], row["model"]
        if not provider.strip() or not model.strip():
            self.notes[NO_LABEL] += 1
            provider, model = provider.strip() or UNKNOWN, model.strip() or UNKNOWN
        stored: Row = {
            "id": id,
            "logged_at": at,
            "cost": None if cost is None else str(cost),
            "cost_source": source,
            "status": "ok",
            "provider": provider,
            "model": model,
            "profile": row["profile"] or "default",
            "alias": row["alias"],
            "origin": row["origin"],
            "id_at_origin": row["id_at_origin"],
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "cached_input_tokens": cached,
            "latency_ms": self._duration(row["latency_ms"]),
            "metadata": self._call_metadata(row["metadata"], row["conversation_id"]),
        }
        normal_name = normal_provider(provider)
        if normal_name != provider:
            stored["normal_provider"] = normal_name
        return CallToStore(id, at, cost, stored, day_of(at))

    def conversation(self, row: asyncpg.Record) -> Row:
        self._require_conversations()
        new = _validated(
            NewConversation,
            title=row["title"],
            system_prompt=row["system_prompt"],
            model_alias=row["model_alias"] or None,
            temperature=row["temperature"],
            max_tokens=row["max_tokens"],
        )
        self._note_odd_time(row)
        created_at = row["created_at"] or row["updated_at"] or EPOCH
        return {
            "project_id": self.project_of(row),
            "id": row["id"],
            **new.model_dump(),
            **self._totals_without_messages(row),
            "created_at": created_at,
            "updated_at": row["updated_at"] or created_at,
            "last_message_at": row["last_message_at"],
        }

    def _totals_without_messages(self, row: asyncpg.Record) -> Row:
        """Return the totals of messages that were deleted. The others are added with each message.

        Costs were rounded to eight decimals with each message, and are not rounded here.
        """
        messages = row["kept_messages"]
        total_cost = row["total_cost"] or Decimal(0)
        if not total_cost.is_finite():
            self.notes[ODD_TOTAL] += 1
            total_cost = Decimal(0)
        totals: Row = {
            "message_count": (row["message_count"] or 0) - messages,
            "total_input_tokens": (row["total_input_tokens"] or 0) - row["kept_input_tokens"],
            "total_output_tokens": (row["total_output_tokens"] or 0) - row["kept_output_tokens"],
            "total_cost": total_cost - row["kept_cost"],
        }
        if abs(totals["total_cost"]) <= messages * Decimal("1e-8"):
            totals["total_cost"] = Decimal(0)
        if min(totals.values()) < 0:
            self.notes[FEWER_THAN_TOTALS] += 1
        return {name: max(total, 0) for name, total in totals.items()}

    def message(self, row: asyncpg.Record) -> Row:
        self._require_conversations()
        at = self._time(row["at"])
        content, results = row["content"], _json(row["tool_results"])
        is_kept = self.level == "full" or not (content or results)
        if not is_kept:
            self.notes[NO_CONTENT] += 1
        cost: Decimal | None = row["cost"]
        if cost is None and row["has_cost"]:
            self.notes[NO_COST] += 1
        message = Message(
            id=imported_id(row["id"], at),
            conversation_id=row["conversation_id"],
            timestamp=at,
            role=row["role"],
            content_hash=row["content_hash"],
            tool_call_id=None,
            input_tokens=self._tokens(row["input_tokens"]),
            output_tokens=self._tokens(row["output_tokens"]),
            cost=cost if cost is not None and is_storable_cost(cost) else None,
            content=content if is_kept and content is not None else "",
            content_kept=is_kept and (content is not None or row["content_hash"] is None),
            tool_calls=_json(row["tool_calls"]),
            tool_results=results if is_kept else None,
            metadata=self._metadata(row["metadata"], MAX_SMALL_OBJECT_BYTES),
        )
        return {
            "project_id": self.project_of(row),
            "conversation_id": row["conversation_id"],
            **message_row(message, is_searchable=self.level == "full"),
        }

    def template(self, row: asyncpg.Record) -> Row:
        """Return a template. One without an owner was everyone's."""
        new = _validated(
            NewTemplate,
            name=row["name"],
            created_by=row["created_by"],
            description=row["description"],
            system_prompt=row["system_prompt"],
            model=row["model"],
            temperature=row["temperature"],
            max_tokens=row["max_tokens"],
            tool_config=_object(row["tool_config"]),
            shared=row["api_key_id"] is None and row["project_id"] is None,
        )
        self._note_odd_time(row)
        created_at = row["created_at"] or row["updated_at"] or EPOCH
        return {
            "project_id": self.project_of(row),
            "id": row["id"],
            "version": 1,
            **new.model_dump(),
            "is_active": row["is_active"],
            "usage_count": max(row["usage_count"], 0),
            "created_at": created_at,
            "updated_at": row["updated_at"] or created_at,
            "last_used_at": row["last_used_at"],
        }

    def server(self, row: asyncpg.Record) -> Row:
        project_id = self.project_of(row)
        auth_config = _json(row["auth_config"])
        new = _validated(
            NewMcpServer,
            name=row["name"],
            url=row["url"],
            transport_type=row["transport_type"],
            auth_config=auth_config,
            capabilities=_json(row["capabilities"]),
        )
        secret = None
        if new.auth_config is not None:
            secret = self.secret_box.encrypt(project_id, row["id"], new.auth_config).hex()
        self._note_odd_time(row)
        created_at = row["created_at"] or EPOCH
        return {
            "project_id": project_id,
            "id": row["id"],
            **new.model_dump(exclude={"auth_config"}),
            "is_active": row["is_active"] is not False,
            "secret": secret,
            "created_at": created_at,
            "updated_at": row["updated_at"] or created_at,
        }

    def tool(self, row: asyncpg.Record) -> Row:
        offered = _validated(
            OfferedTool,
            name=row["name"],
            description=row["description"],
            inputSchema=_json(row["definition"]),
        )
        return self._capability(row, offered)

    def resource(self, row: asyncpg.Record) -> Row:
        offered = _validated(
            OfferedResource,
            uri=row["name"],
            name=row["title"],
            description=row["description"],
            mimeType=row["mime_type"],
        )
        return self._capability(row, offered)

    def prompt(self, row: asyncpg.Record) -> Row:
        offered = _validated(
            OfferedPrompt,
            name=row["name"],
            description=row["description"],
            arguments=_json(row["definition"]),
        )
        return self._capability(row, offered)

    def _capability(
        self, row: asyncpg.Record, offered: OfferedTool | OfferedResource | OfferedPrompt
    ) -> Row:
        _require_same_owner(row)
        self._note_odd_time(row)
        try:
            stored = stored_row(offered)
        except InvalidRequest as exc:
            # Its text contains the name.
            raise Refused("its definition or its content is too large") from exc
        return stored | {
            "project_id": self.project_of(row),
            "id": row["id"],
            "server_id": row["server_id"],
            "is_active": row["is_active"] is not False,
            "created_at": row["created_at"] or EPOCH,
        }

    def execution(self, row: asyncpg.Record) -> Row:
        _require_same_owner(row)
        at = self._time(row["at"])
        new = _validated(
            NewToolExecution,
            input=_object(row["input"]),
            output=_json(row["output"]),
            error=row["error"],
        )
        output = None if new.output is None else encode_json(new.output)
        encoded_input = encode_json(new.input)
        size = len(encoded_input) + len(output or b"") + len(orjson.dumps(new.error))
        return {
            "project_id": self.project_of(row),
            "tool_id": row["tool_id"],
            "id": imported_id(row["id"], at),
            "executed_at": at,
            "conversation_id": row["conversation_id"],
            "size": size,
            "duration_ms": self._duration(row["duration_ms"]),
            "status": "ok" if new.error is None else "error",
            "error": new.error,
            "input": orjson.Fragment(encoded_input),
            "output": None if output is None else orjson.Fragment(output),
        }

    def _note_odd_time(self, row: asyncpg.Record) -> None:
        if row["has_odd_time"]:
            self.notes[ODD_TIME] += 1

    def _require_conversations(self) -> None:
        if self.level == "none":
            raise Refused("LLMRING_CONVERSATION_CONTENT is none")

    def _time(self, at: datetime | None) -> datetime:
        if at is None or at < EPOCH:
            raise Refused("it has no time, or one before 1970")
        if at > self.latest:
            raise Refused("its time lies more than 10 minutes ahead")
        return at

    def _duration(self, milliseconds: int | None) -> int | None:
        if milliseconds is not None and milliseconds < 0:
            self.notes[NEGATIVE_LATENCY] += 1
            return None
        return milliseconds

    def _tokens(self, count: int | None) -> int | None:
        if count is not None and count < 0:
            self.notes[NEGATIVE_TOKENS] += 1
            return None
        return count

    def _call_metadata(self, text: str | None, conversation_id: UUID | None) -> orjson.Fragment:
        if conversation_id is None and _is_small_object(text):
            return orjson.Fragment(text or "{}")
        metadata = self._metadata(text, MAX_METADATA_BYTES - 64)
        if conversation_id is not None:
            metadata.setdefault("conversation_id", str(conversation_id))
        return orjson.Fragment(encode_json(metadata))

    def _metadata(self, text: str | None, max_bytes: int) -> Row:
        try:
            value = check_json(_unwrapped(parse_json(text.encode()))) if text else {}
            if value is None:
                value = {}
            if isinstance(value, dict):
                dump_bounded_json(value, "metadata", max_bytes)
                return value
        except (RingError, ValueError, RecursionError):
            pass
        self.notes[NO_METADATA] += 1
        return {}


def _is_small_object(text: str | None) -> bool:
    """Tell quickly whether valid JSON is an object that need not be looked at, as most are."""
    return text is None or (
        text.startswith("{")
        and len(text) <= MAX_METADATA_BYTES // 4
        and text.count("{") + text.count("[") <= MAX_DEPTH
    )


def _unwrapped(value: Any) -> Any:
    """Return the JSON that a string contains: some parents' pools encoded columns twice."""
    if isinstance(value, str):
        try:
            return load_json(value)
        except (ValueError, RecursionError):
            return value
    return value


def _json(text: str | None) -> Any:
    if text is None:
        return None
    try:
        value = _unwrapped(load_json(text))
        return JsonRules(max_depth=_MAX_STORED_DEPTH).check(value)
    except (ValueError, ArithmeticError, RecursionError) as exc:
        raise Refused(UNREADABLE_JSON) from exc


def _require_same_owner(row: asyncpg.Record) -> None:
    """Refuse what has an owner of its own who is not that of the server."""
    key, project = row["own_key"], row["own_project"]
    if key is None and project is None:
        return
    if key != row["api_key_id"] or (key is None and project != row["project_id"]):
        raise Refused(OTHER_OWNER)


def _object(text: str | None) -> Any:
    value = _json(text)
    return {} if value is None else value


def _validated(type_: type[Model], **fields: Any) -> Model:
    try:
        return type_.model_validate(fields)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        path = ".".join(map(str, error["loc"][:1]))
        message = error["msg"].removeprefix("Value error, ")
        raise Refused(f"{path}: {message}" if path else message) from exc
