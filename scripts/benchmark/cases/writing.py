"""How long writing requests of the largest size block the event loop, and their memory.

The server watches its own event loop: for how long it was blocked, by the clock, and by the CPU of
the process, which other work of the machine does not lengthen. The targets are those of every
request: 50 ms, and 64 MiB above idle.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection
from typing import Any, NamedTuple

from scripts.benchmark.cases.answers import seen_by
from scripts.benchmark.http_requests import KEYS
from scripts.benchmark.processes import MIB
from scripts.benchmark.runner import Settings, progress
from scripts.benchmark.servers import (
    RESPONSE_TIMEOUT_SECONDS,
    ServerUnderTest,
    start,
    watched_with_receipt_key,
)
from scripts.benchmark.statistics import round_figures

MAX_STALL_MS = 50
MAX_MEMORY_MIB = 64
ROUNDS = 2

API = "/api/v1"
CALL = {"provider": "openai", "model": "gpt-4o-mini", "input_tokens": 1, "output_tokens": 1}
MESSAGE = {"role": "user", "content": "Hi"}
EXCHANGE = {
    "messages": [MESSAGE],
    "response": {"content": "Hello"},
    "metadata": {"provider": "openai", "model": "gpt-4o-mini"},
}
DATA_URL = "data:image/png;base64,"


class Large(NamedTuple):
    """A large request; what it asks for may be invalid."""

    path: str
    body: bytes
    method: str = "POST"
    media_type: str = "application/json"


def stalls(settings: Settings) -> dict[str, Any]:
    """Send each writing route the largest bodies that it takes, valid and invalid ones.

    This has rounds of its own, and ignores --rounds, --seconds and --against.
    """
    with start(settings.cluster_url, watched_with_receipt_key) as [server]:
        report = {}
        for name, request in _requests(server):
            figures = _measure(server, request)
            progress(f"  {name}: {figures}")
            report[name] = figures
        return report


def _measure(server: ServerUnderTest, request: Large) -> dict[str, Any]:
    """Return the lowest figures of several rounds: those that other work affected least."""
    rounds = [_measure_once(server, request) for _ in range(ROUNDS)]
    figures = {name: min(each[name] for _, each in rounds) for name in rounds[0][1]}
    is_within = figures["stall_cpu_ms"] <= MAX_STALL_MS and figures["memory_mib"] <= MAX_MEMORY_MIB
    return {
        "status": rounds[0][0],
        "body_mib": round_figures(len(request.body) / MIB),
        **{name: round_figures(value) for name, value in figures.items()},
        "within": is_within,
    }


def _measure_once(server: ServerUnderTest, request: Large) -> tuple[int, dict[str, float]]:
    before = seen_by(server)
    status = _send(server, request)
    seen = seen_by(server)
    return status, {
        "stall_ms": seen["stall_ms"],
        "loop_cpu_ms": seen["cpu_ms"],
        "stall_cpu_ms": seen["process_cpu_ms"],
        "memory_mib": seen["peak_mib"] - before["resident_mib"],
    }


def _send(server: ServerUnderTest, request: Large) -> int:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=RESPONSE_TIMEOUT_SECONDS)
    headers = {"X-API-Key": KEYS[0], "Content-Type": request.media_type}
    # The server may respond, and close the connection, before it has read everything.
    with suppress(ConnectionError):
        connection.request(request.method, request.path, request.body, headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def _requests(server: ServerUnderTest) -> Iterator[tuple[str, Large]]:
    for requests in (
        _batches(),
        _conversations(server),
        _exchanges(),
        _templates(server),
        _tools(server),
        _receipts(server),
        _others(),
    ):
        yield from requests.items()


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _filled(item: dict[str, Any], field: str, size: int) -> dict[str, Any]:
    """Return an item that has about `size` bytes of JSON with small values in `field`."""
    values: dict[str, Any] = {}
    while len(values) * 32 < size:
        values[f"label-{len(values):06}"] = [1.25, "text", None]
    return {**item, field: values}


def _batches() -> dict[str, Large]:
    path, partial = f"{API}/logs/batch", f"{API}/logs/batch?partial=true"
    small = [_filled(CALL, "metadata", 15_000)] * 1000
    text = [{**CALL, "metadata": {"text": "é" * 8_000}}] * 1000
    lines = b"\n".join(map(_dump, small))
    unknown = [{**CALL, **{f"input_token_{number}": 1 for number in range(400)}}] * 1000
    numbers = b"[%s]" % b",".join([b"1.5"] * 499_000)
    ndjson = "application/x-ndjson"
    requests = {
        "array": _dump(small),
        "array of long texts": _dump(text),
        "8 MiB of long texts": _dump(text[:500]),
        "array, broken at its end": _dump(small)[:-1] + b",}",
        "array of unknown fields": _dump(unknown),
        "array of numbers": numbers,
        "array of one huge call": _dump([_filled(CALL, "metadata", 15_000_000)]),
        "array of invalid calls": _dump([{**call, "input_tokens": "x"} for call in small]),
        "array of one string": b'["%s"]' % (b"x" * 16_000_000),
        "array, deep": b"[" * 190 + b"1" + b"]" * 190,
        "array, quotes": b"[" + b'"\\"' * 5_000_000,
        "array with U+0000": _dump(small).replace(b'"text"', rb'"te\u0000xt"', 50_000),
        "array with surrogates": _dump(small).replace(b'"text"', rb'"te\ud800xt"', 50_000),
    }
    large = {}
    for name, body in requests.items():
        large[f"batch: {name}"] = Large(path, body)
        large[f"batch, partial: {name}"] = Large(partial, body)
    for suffix, target in {"": path, ", partial": partial}.items():
        large[f"batch{suffix}: lines"] = Large(target, lines, media_type=ndjson)
        large[f"batch{suffix}: lines, the last broken"] = Large(
            target, lines[:-1], media_type=ndjson
        )
        large[f"batch{suffix}: empty lines"] = Large(target, b"\n" * 16_000_000, media_type=ndjson)
    return large


def _conversations(server: ServerUnderTest) -> dict[str, Large]:
    conversation = server.post(f"{API}/conversations", KEYS[0], {})
    path = f"{API}/conversations/{conversation['id']}/messages"
    image = {"role": "user", "content": [{"type": "image_url", "url": DATA_URL + "A" * 30_000_000}]}
    parts = {"role": "user", "content": [{"type": "text", "text": "x" * 40}] * 160_000}
    return {
        "message: a long text": Large(path, _dump({**MESSAGE, "content": "word " * 6_000_000})),
        "message: an image": Large(path, _dump(image)),
        "message: many parts": Large(path, _dump(parts)),
        "message: 8 MiB of text": Large(path, _dump({**MESSAGE, "content": "word " * 1_600_000})),
        "message: 8 MiB of parts": Large(
            path, _dump({**parts, "content": parts["content"][:120_000]})
        ),
        "message: invalid": Large(path, _dump({**parts, "role": 5})),
        "messages: 1,000 of 30 KB": Large(
            f"{path}/batch", _dump({"messages": [{**MESSAGE, "content": "word " * 6_000}] * 1000})
        ),
        "messages: 1,000 with parts": Large(
            f"{path}/batch",
            _dump({"messages": [{**parts, "content": parts["content"][:160]}] * 1000}),
        ),
        "messages: many unknown fields": Large(
            f"{path}/batch",
            _dump({"messages": [], **{f"message_{number}": 1 for number in range(9_000)}}),
        ),
        "conversation: a long prompt": Large(
            f"{API}/conversations", _dump({"system_prompt": "x" * 199_000})
        ),
        "conversation: too long": Large(
            f"{API}/conversations", _dump({"system_prompt": "x" * 8_000_000})
        ),
        "conversation: unknown fields": Large(
            f"{API}/conversations", _dump({f"title_{n}": "x" * 60 for n in range(100_000)})
        ),
    }


def _exchanges() -> dict[str, Large]:
    path = f"{API}/conversations/log"
    image = {"role": "user", "content": [{"type": "image_url", "url": DATA_URL + "A" * 30_000_000}]}
    parts = {"role": "user", "content": [{"type": "text", "text": "x" * 40}] * 16}
    return {
        "exchange: an image": Large(path, _dump({**EXCHANGE, "messages": [image]})),
        "exchange: 10,000 messages": Large(path, _dump({**EXCHANGE, "messages": [parts] * 10_000})),
        "exchange: 10,000 invalid messages": Large(
            path, _dump({**EXCHANGE, "messages": [{**parts, "role": 5}] * 10_000})
        ),
        "exchange: invalid": Large(path, _dump({"messages": [parts] * 10_000})),
        "exchange: an invalid message of many members": Large(
            path,
            _dump(
                {**EXCHANGE, "messages": [{"role": 5, **{f"m{n}": [n] for n in range(100_000)}}]}
            ),
        ),
    }


def _templates(server: ServerUnderTest) -> dict[str, Large]:
    path = f"{API}/templates"
    new = {"name": "large", "created_by": "bench", "system_prompt": "Say {{word}}."}
    template = server.post(path, KEYS[0], new)
    one = f"{path}/{template['id']}"
    unknown = {f"descriptio_{number}": 1 for number in range(60_000)}
    return {
        "template: a long prompt": Large(path, _dump({**new, "system_prompt": "{{a}} " * 300_000})),
        "template: unknown fields": Large(path, _dump({**new, **unknown})),
        "template: numbers": Large(path, _dump({**new, "tool_config": {"a": [1.5] * 400_000}})),
        "template: changed": Large(one, _dump({"system_prompt": "{{b}} " * 300_000}), "PUT"),
        "template: rendered": Large(
            f"{one}/render", _dump({"variables": {"word": "x" * 200_000}}), "POST"
        ),
    }


def _tools(server: ServerUnderTest) -> dict[str, Large]:
    new = {"name": "bench", "url": "stdio://bench", "transport_type": "stdio"}
    mcp_server = server.post(f"{API}/mcp/servers", KEYS[0], new)
    path = f"{API}/mcp/servers/{mcp_server['id']}/refresh"
    result = server.post(path, KEYS[0], {"tools": [{"name": "tool"}]})
    tool = f"{API}/mcp/tools/{result['tools'][0]['id']}"
    names = [f"property_{number}" for number in range(36)]
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    tools = [{"name": f"tool-{number}", "inputSchema": schema} for number in range(1000)]
    return {
        "refresh: 1,000 tools": Large(path, _dump({"tools": tools})),
        "refresh: 1,000 invalid tools": Large(
            path, _dump({"tools": [{**each, "name": 5} for each in tools]})
        ),
        "refresh: unknown fields": Large(
            path, _dump({"tools": [{**each, "annotation": 1, "titel": "x"} for each in tools]})
        ),
        "execution: values": Large(
            f"{tool}/execute", _dump({"input": {}, "output": [1.5] * 400_000})
        ),
        "execution: text": Large(
            f"{tool}/execute", _dump({"input": {}, "output": "x" * 2_000_000})
        ),
        "execution: deep": Large(
            f"{tool}/execute", b'{"input":{},"output":%s1%s}' % (b"[" * 180, b"]" * 180)
        ),
    }


def _receipts(server: ServerUnderTest) -> dict[str, Large]:
    ids: list[str] = []
    for _ in range(10):
        result = server.post(f"{API}/logs/batch", KEYS[1], [CALL] * 1000)
        ids += [call["log_id"] for call in result["logged"]]
    return {
        "receipt: ids that do not exist": Large(
            f"{API}/receipts/generate", _dump({"log_ids": ids})
        ),
        "receipt: too many ids": Large(f"{API}/receipts/preview", _dump({"log_ids": ids * 5})),
        "receipt: invalid ids": Large(
            f"{API}/receipts/generate", _dump({"log_ids": ["x" * 20] * 80_000})
        ),
        "receipt: verified": Large(
            f"{API}/receipts/verify", _dump({"receipt_id": "x" * 100, "claims": [1] * 90_000})
        ),
    }


def _others() -> dict[str, Large]:
    names = {f"modell_{number}": "x" for number in range(15_000)}
    return {
        "log: metadata": Large(f"{API}/log", _dump(_filled(CALL, "metadata", 60_000))),
        "log: unknown fields": Large(f"{API}/log", _dump({**CALL, **names})),
        "log: numbers": Large(f"{API}/log", _dump({**CALL, "metadata": {"a": [1.5] * 60_000}})),
        "aliases: 1,000": Large(
            f"{API}/aliases/bulk_upsert",
            _dump([{"alias": f"alias-{n}", "model": "openai:gpt-4o"} for n in range(1000)]),
        ),
        "server: unknown fields": Large(f"{API}/mcp/servers", _dump({"name": "x", **names})),
    }
