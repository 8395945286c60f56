"""Many calls in one request: a JSON array, or a line of JSON for each."""

import asyncio
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, TypeAdapter
from starlette.responses import Response

from llmring_server.bounded import parse
from llmring_server.entry import Entry
from llmring_server.errors import Invalid, RingError
from llmring_server.record import key_at
from llmring_server.usage import Logged
from llmring_server.web import body
from llmring_server.web.call import Call, blaming_the_client, render
from llmring_server.web.usage import answer, replay

LONGEST = 1000

_ENTRIES = TypeAdapter(list[Entry])


class How(BaseModel):
    """`partial`: store the good ones, and report each bad one by its index."""

    partial: bool = False


async def log_many(call: Call) -> dict[str, Any] | Response:
    how = call.query(How)
    values = _bounded(await _values(call, partial=how.partial))
    outcomes = await (_each(call, values) if how.partial else _together(call, values))
    report = _report(outcomes)
    if all(isinstance(each, Logged) and each.replayed for each in outcomes):
        return replay(render(report))
    return report


async def _values(call: Call, *, partial: bool) -> list[Any]:
    media = body.media_type(call.headers, body.JSON, body.NDJSON)
    data = await call.body()
    if media == body.NDJSON:
        return list(_lines(data, partial=partial))
    values = parse(data)
    if not isinstance(values, list):
        raise Invalid("body: send an array of calls")
    return values


def _lines(data: bytes, *, partial: bool) -> Iterator[Any]:
    for number, line in enumerate(data.split(b"\n"), 1):
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


async def _together(call: Call, values: list[Any]) -> list[Logged]:
    with blaming_the_client():
        entries = _ENTRIES.validate_python(values)
    return await call.ring.usage.log_many(call.tenant, entries, call.idempotency_key)


async def _each(call: Call, values: list[Any]) -> list[Logged | RingError]:
    key = call.idempotency_key
    keys = [key_at(key, index) if key else None for index in range(len(values))]
    return await asyncio.gather(*(_one(call, *each) for each in zip(values, keys, strict=True)))


async def _one(call: Call, value: Any, key: str | None) -> Logged | RingError:
    if isinstance(value, RingError):
        return value
    try:
        with blaming_the_client():
            entry = Entry.model_validate(value)
        return await call.ring.usage.log(call.tenant, entry, key)
    except RingError as exc:
        return exc


def _report(outcomes: list[Logged] | list[Logged | RingError]) -> dict[str, Any]:
    logged, rejected = [], []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, RingError):
            fields = {"status": outcome.status, "code": outcome.code, "detail": str(outcome)}
            rejected.append({"index": index} | fields)
        else:
            logged.append({"index": index} | answer(outcome))
    return {"logged": logged, "rejected": rejected}
