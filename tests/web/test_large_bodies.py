"""Large bodies: they are read in slices beside the event loop, and mean the same as small ones."""

import json
import random
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from llmring_server.core import json_slices, strict_json, worker
from llmring_server.core.json_array import split_array
from llmring_server.core.strict_json import ParsedJson, parse_request_json
from llmring_server.errors import BadRequest, RingError
from tests.conftest import CALL
from tests.support.conversations import create_conversation

KIB, MIB = 1024, 1024**2

SCALARS = [0, 1.5, True, None, -2e5, 12345678901234567890, "", 'a"\\\n', "é😀[]{},:", "x" * 300]
MUTATIONS = [
    b"", b",", b"]", b"}", b'"', b"\\", b"[", b"{", b":", b"1", b"\n", b"\x01", b"\xff",
    rb"\ud800", rb"\u0000", b"\0",
]  # fmt: skip


def value_of(source: random.Random, depth: int) -> Any:
    kind = source.random()
    if depth == 0 or kind < 0.5:
        return source.choice(SCALARS)
    size = source.choice([0, 1, 3, 10, 30])
    if kind < 0.75:
        return [value_of(source, depth - 1) for _ in range(size)]
    keys = [f"{source.choice(['k', 'é', 'x' * 99])}{number}" for number in range(size)]
    return {key: value_of(source, depth - 1) for key in keys}


def documents(source: random.Random) -> Iterator[bytes]:
    """Yield a document, and others that differ from it in a byte or two."""
    value = value_of(source, 4)
    indent, ascii_only = source.choice([None, 1]), source.choice([True, False])
    document = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    yield document
    for _ in range(3):
        at = source.randrange(len(document))
        rest = document[at + source.choice([0, 1]) :]
        yield document[:at] + source.choice(MUTATIONS) + rest


def parsed(data: bytes, *, is_large: bool, monkeypatch: pytest.MonkeyPatch) -> ParsedJson | str:
    monkeypatch.setattr(strict_json, "is_large", lambda _: is_large)
    try:
        return parse_request_json(data)
    except RingError as exc:
        return type(exc).__name__


@pytest.mark.parametrize(("slice_bytes", "slice_members"), [(32, 2), (500, 30)])
def test_in_slices_a_text_means_the_same(
    monkeypatch: pytest.MonkeyPatch, slice_bytes: int, slice_members: int
) -> None:
    monkeypatch.setattr(json_slices, "SLICE_BYTES", slice_bytes)
    monkeypatch.setattr(json_slices, "SLICE_MEMBERS", slice_members)
    source = random.Random(slice_bytes)  # noqa: S311, nothing to guess
    for _ in range(150):
        for document in documents(source):
            at_once = parsed(document, is_large=False, monkeypatch=monkeypatch)
            in_slices = parsed(document, is_large=True, monkeypatch=monkeypatch)
            assert in_slices == at_once, document


# Texts of which a single step of a parser could take long.
LARGE: dict[str, bytes] = {
    "numbers": b"[" + b"1.5," * 300_000 + b"1]",
    "numbers deep inside": b'{"a":[{"b":' + b"[" + b"1.5," * 300_000 + b"1]" + b"}]}",
    "empty arrays": b"[" + b"[]," * 150_000 + b"[]]",
    "objects": b"[" + b'{"type":"text","text":"abc"},' * 50_000 + b"{}]",
    "keys": b"{" + b",".join(b'"k%d":1' % number for number in range(100_000)) + b"}",
    "one string": b'["' + b"x" * 5 * MIB + b'"]',
    "one string, escaped at its end": b'["' + b"x" * 5 * MIB + b'\\n"]',
    "one string not in ASCII": b'["' + "é".encode() * 2 * MIB + b'"]',
    "one string of escapes": b'["' + rb"\u00e9\n\ud83d\ude00" * 200_000 + b'"]',
    "one key": b'{"' + b"k" * 2 * MIB + b'":1}',
    "white space": b"[" + b" " * 5 * MIB + b"1]",
    "lines": b"[" + b"1,\n" * 300_000 + b"1]",
}


@pytest.mark.parametrize("name", LARGE)
def test_no_piece_is_large(name: str) -> None:
    sizes: list[int] = []

    def parse_slice(text: bytes, _: int) -> Any:
        # A string of ASCII without escapes is only copied.
        is_plain = text.count(b'"') == 2 and text.isascii() and b"\\" not in text
        sizes.append(0 if is_plain else len(text) + 32 * text.count(b","))
        return json.loads(text)

    assert json_slices.is_large(LARGE[name])
    value = json_slices.parse_in_slices(LARGE[name], parse_slice)
    assert value == json.loads(LARGE[name])
    assert max(sizes) < 512 * KIB
    if isinstance(value, list):
        assert len(split_array(LARGE[name], MIB) or ()) == len(value)


# What is wrong far into a text, and where.
BROKEN = {
    "in a member": (b"[" + b"1,\n" * 20_000 + b"tru,1]", "line 20001"),
    "behind the last": (b"[" + b"1,\n" * 20_000 + b"]", "trailing comma, line 20001, column 1"),
    "the end": (b"[" + b"1,\n" * 30_000 + b"1", "EOF while parsing a value, line 30001, column 2"),
    "another end": (b"[" + b"1," * 20_000 + b"1}", "expected `,` or `]`, line 1, column 40003"),
    "more": (b"[" + b"1," * 20_000 + b"1]1", "trailing characters, line 1, column 40004"),
    "a key twice": (
        b'{"a":1,' + b",".join(b'"k%d":1' % n for n in range(20_000)) + b',"a":1}',
        "a key occurs twice, line 1, column",
    ),
    "a control character": (b'["' + b"x" * MIB + b"\1" + b'"]', f"line 1, column {MIB + 3}"),
    "a string without an end": (b'["' + b"x" * MIB, "EOF while parsing a value, line 1"),
    "too deep": (b"[" * 150 + b"1," * 40_000 + b"1" + b"]" * 150, "recursion limit exceeded"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_error_in_a_large_text_has_its_place(name: str) -> None:
    data, message = BROKEN[name]
    with pytest.raises(BadRequest) as raised:
        parse_request_json(data)
    assert message in str(raised.value)


async def test_the_worker_reads_large_bodies(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    parse = strict_json.check_values

    def check_values(data: bytes) -> None:
        threads.add((len(data) > worker.LARGE_BYTES, threading.current_thread().name))
        parse(data)

    monkeypatch.setattr(strict_json, "check_values", check_values)
    small: dict[str, Any] = CALL | {"metadata": {"note": "a\0b"}, "modell": 1}
    large = small | {"metadata": {"note": "a\0b", "more": ["x" * 90] * 500}}
    details = []
    for call in (small, large):
        response = await client.post("/api/v1/log", json=call)
        assert response.status_code == 200
        details.append(response.json()["warnings"])
        assert (await client.post("/api/v1/log?strict=true", json=call)).status_code == 422
        assert (await client.post("/api/v1/log", json=call | {"model": 5})).status_code == 422
    assert details[0] == details[1] != []
    stored = (await client.get("/api/v1/logs?limit=1")).json()[0]
    assert stored["metadata"] == {"note": "a\ufffdb", "more": ["x" * 90] * 500}
    main = threading.main_thread().name
    assert threads == {(False, main), (True, "llmring-worker_0")}


async def test_large_batches_are_read_line_by_line(client: httpx.AsyncClient) -> None:
    call = json.dumps(CALL | {"metadata": {"text": "x" * 30_000}}).encode()
    lines = [
        b"\n" * 70_000,
        b"   ",
        call,
        b"",
        call + b"\r",
        b"\t",
        b"\n",
        b"{x",
        b"  " + call,
        b"",
    ]
    headers = {"Content-Type": "application/x-ndjson"}
    url = "/api/v1/logs/batch?partial=true"
    response = await client.post(url, content=b"\n".join(lines), headers=headers)
    assert [entry["index"] for entry in response.json()["logged"]] == [0, 1, 3]
    [rejected] = response.json()["rejected"]
    assert rejected["index"] == 2
    assert "line 70009" in rejected["detail"]
    array = b"[" + b",".join([call, b"{]", call]) + b"]"
    response = await client.post(url, content=array, headers={"Content-Type": "application/json"})
    assert response.status_code == 400  # where the second entry ends is not clear
    array = b"[" + b",".join([call, b"{x}", call]) + b"]"
    response = await client.post(url, content=array, headers={"Content-Type": "application/json"})
    assert [entry["index"] for entry in response.json()["logged"]] == [0, 2]


async def test_large_messages_are_stored_as_they_were_sent(client: httpx.AsyncClient) -> None:
    path = await create_conversation(client)
    parts = [{"type": "text", "text": f"é {number}", "n": 1.5} for number in range(3_000)]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "w " * 300_000},
        {"role": "user", "content": parts, "tool_calls": [{"id": "a", "x": "y" * 50_000}]},
    ]
    url = f"{path}/messages/batch"
    key = {"Idempotency-Key": "large"}
    added = await client.post(url, json={"messages": messages}, headers=key)
    assert added.status_code == 200
    stored = (await client.get(f"{path}/messages")).json()
    assert [message["content"] for message in stored] == [each["content"] for each in messages]
    again = await client.post(url, json={"messages": messages}, headers=key)
    assert again.headers["Idempotent-Replayed"] == "true"
    changed = [messages[0], messages[1] | {"role": "tool"}]
    other = await client.post(url, json={"messages": changed}, headers=key)
    assert other.status_code == 422
