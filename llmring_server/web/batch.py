"""Many calls in one request: a JSON array, or a line of JSON for each."""

import asyncio
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter
from typing_extensions import TypedDict

from llmring_server.bounded import check_values, parse
from llmring_server.claims import key_of_item
from llmring_server.entry import Entry
from llmring_server.errors import Invalid, RingError
from llmring_server.usage import Logged
from llmring_server.web.body import JSON, NDJSON
from llmring_server.web.call import Body, Call, Key, validated
from llmring_server.web.usage import REPLAYED, Answer, answer

LONGEST = 1000

Entries = Annotated[list[Entry], Field(min_length=1, max_length=LONGEST)]

_ENTRIES = TypeAdapter(list[Entry])


class How(BaseModel):
    """`partial`: store the good ones, and report each bad one by its index."""

    partial: bool = False


class Stored(Answer):
    """A call that was recorded, by its place in the batch."""

    index: int


class Rejected(TypedDict):
    """A call that was not recorded, and why, as it would have been answered alone."""

    index: int
    status: int
    code: str
    detail: str


class Report(TypedDict):
    """What became of each call."""

    logged: list[Stored]
    rejected: list[Rejected]


async def log_many(
    call: Call, query: How, body: Annotated[Body, {JSON: Entries, NDJSON: Entry}], key: Key
) -> Report:
    """Record up to 1,000 calls: an array, or a line of JSON for each."""
    values = _bounded(_values(body, partial=query.partial))
    outcomes = await (_each(call, values, key) if query.partial else _together(call, values, key))
    if all(isinstance(each, Logged) and each.replayed for each in outcomes):
        call.says = REPLAYED
    return _report(outcomes)


def _values(body: Body, *, partial: bool) -> list[Any]:
    if body.media == NDJSON:
        check_values(body.data)
        # One more than may be, to see that they are too many, and not all of them.
        return list(islice(_lines(body.data, partial=partial), LONGEST + 1))
    values = parse(body.data)
    if not isinstance(values, list):
        raise Invalid("body: send an array of calls")
    return values


def _lines(data: bytes, *, partial: bool) -> Iterator[Any]:
    for number, line in enumerate(BytesIO(data), 1):
        if not line.strip():
            continue
        try:
            yield parse(line)
        except RingError as exc:
            at_line = type(exc)(f"{exc} (line {number} of the body)")
            if not partial:
                raise at_line from exc
            yield at_line


def _bounded(values: list[Any]) -> list[Any]:
    if not 1 <= len(values) <= LONGEST:
        raise Invalid(f"body: send 1 to {LONGEST} calls at a time")
    return values


async def _together(call: Call, values: list[Any], key: str | None) -> list[Logged]:
    entries = validated(_ENTRIES.validate_python, values)
    return await call.ring.usage.log_many(call.tenant, entries, key)


async def _each(call: Call, values: list[Any], key: str | None) -> list[Logged | RingError]:
    keys = [key_of_item(key, index) if key else None for index in range(len(values))]
    return await asyncio.gather(*(_one(call, *each) for each in zip(values, keys, strict=True)))


async def _one(call: Call, value: Any, key: str | None) -> Logged | RingError:
    if isinstance(value, RingError):
        return value
    try:
        entry = validated(Entry.model_validate, value)
        return await call.ring.usage.log(call.tenant, entry, key)
    except RingError as exc:
        return exc


def _report(outcomes: list[Logged] | list[Logged | RingError]) -> Report:
    report: Report = {"logged": [], "rejected": []}
    for index, each in enumerate(outcomes):
        if isinstance(each, RingError):
            fields: Rejected = {
                "index": index, "status": each.status, "code": each.code, "detail": str(each),
            }  # fmt: skip
            report["rejected"].append(fields)
        else:
            report["logged"].append({"index": index, **answer(each)})
    return report
