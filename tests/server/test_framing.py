"""Framing: each request is read once, with its own body, however its bytes arrive.

Generated sequences of requests are cut into segments, and what the app receives is compared with
what a plain reference parser reads from the whole. The web servers of others may refuse to go on,
but never run a request that was not sent.
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import NamedTuple

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from llmring_server.server.protocol import BoundedHttpProtocol
from llmring_server.web.middleware import RequestMiddleware
from tests.faults.test_kills import LONGEST
from tests.server.test_protocol import Wire

SEQUENCES = 1000

UPGRADES = [b"foo", b"h2c", b"websocket", b"TLS/1.0"]
# What an attacker would put into a body, or behind it.
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\nX-API-Key: k\r\n\r\n"
BODIES = [b"", b"{}", b'{"a": 1}\r\n', HIDDEN, HIDDEN * 2, b"0\r\n\r\n" + HIDDEN]


class Read(NamedTuple):
    """A request as its receiver reads it."""

    method: str
    target: str
    body: bytes


class Recorder:
    """An app that records requests; it responds 304 to conditional ones, else 200."""

    def __init__(self) -> None:
        self.read: list[Read] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.read.append(Read(scope["method"], scope["path"], body))
        is_conditional = b"if-none-match" in dict(scope["headers"])
        status, content = (304, b"") if is_conditional else (200, b"ok")
        headers = [] if is_conditional else [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})


# The reference.


def reference(data: bytes) -> Iterator[Read]:
    """Read valid requests by the letter of RFC 9112, section 6.3, and nothing else."""
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        fields = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in lines)
        }
        method, target, _ = first.decode().split(" ")
        if fields.get(b"transfer-encoding") == b"chunked":
            body, data = dechunk(data)
        else:
            length = int(fields.get(b"content-length", b"0"))
            body, data = data[:length], data[length:]
        yield Read(method, target, body)
        if fields.get(b"connection", b"").lower() == b"close":
            return


def dechunk(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        count = int(size.partition(b";")[0], 16)
        if count == 0:
            break
        body += data[:count]
        data = data[count + 2 :]
    while not data.startswith(b"\r\n"):
        _, _, data = data.partition(b"\r\n")  # trailers
    return body, data[2:]


# Generated requests.


def request(choose: random.Random, number: int) -> bytes:
    """Return a valid request; its target has its number."""
    method = choose.choice([b"GET", b"HEAD", b"POST", b"POST", b"POST", b"PUT", b"DELETE"])
    fields = [b"Host: x"]
    if choose.random() < 0.5:
        upgrade = choose.choice(UPGRADES)
        connection = choose.choice([b"Upgrade", b"upgrade, HTTP2-Settings", b"keep-alive, Upgrade"])
        fields += [b"Connection: " + connection, b"Upgrade: " + upgrade]
        fields += [b"HTTP2-Settings: AAMAAABkAAQAAP__"] * (upgrade == b"h2c")
    if choose.random() < 0.2:
        fields.append(b'If-None-Match: "a"')
    body = b""
    if method not in {b"GET", b"HEAD"} or choose.random() < 0.1:
        content = choose.choice(BODIES)
        if choose.random() < 0.2:
            fields.append(b"Expect: 100-continue")
        if choose.random() < 0.5:
            fields.append(b"Content-Length: %d" % len(content))
            body = content
        else:
            fields.append(b"Transfer-Encoding: chunked")
            body = chunks(choose, content)
    choose.shuffle(fields)
    head = b"%b /%d HTTP/1.1" % (method, number)
    return b"\r\n".join([head, *fields, b"", b""]) + body


def chunks(choose: random.Random, content: bytes) -> bytes:
    data = b""
    while content:
        size = choose.randint(1, len(content))
        extension = choose.choice([b"", b"", b";a=b"])
        data += b"%x%b\r\n%b\r\n" % (size, extension, content[:size])
        content = content[size:]
    trailers = choose.choice([b"", b"", b"X-Trailer: a\r\n"])
    return data + b"0\r\n" + trailers + b"\r\n"


def segments(choose: random.Random, data: bytes) -> list[bytes]:
    """Cut a sequence into two or three parts."""
    cuts = sorted(choose.sample(range(1, len(data)), choose.choice([1, 2])))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]


# The lanes.


class Lane:
    """A connection to a web server, and what the app behind it read."""

    def __init__(self, protocol: Callable[..., asyncio.Protocol]) -> None:
        self.app, self.wire = Recorder(), Wire()
        limited = RequestMiddleware(self.app)
        config = uvicorn.Config(limited, ws="none", log_config=None, proxy_headers=False)
        self.connection = protocol(config, ServerState(), {}, asyncio.get_running_loop())
        self.connection.connection_made(self.wire)

    def receive(self, part: bytes) -> None:
        if not self.wire.closed:
            self.connection.data_received(part)

    def responses(self) -> list[int]:
        """Return the statuses of all responses but 100."""
        written = b"".join(self.wire.writes)
        found = [int(status[:3]) for status in written.split(b"HTTP/1.1 ")[1:]]
        return [status for status in found if status != 100]


async def deliver(
    protocol: Callable[..., asyncio.Protocol], sequences: list[list[bytes]], *, settle: bool
) -> list[tuple[list[Read], list[int]]]:
    """Deliver sequences of segments, each to a connection of its own, all at the same time.

    Return what the app read from each, and the statuses of responses. With `settle`, all requests
    are answered before the next segment arrives.
    """
    lanes = [Lane(protocol) for _ in sequences]
    for parts in zip_longest(*sequences):
        for lane, part in zip(lanes, parts, strict=True):
            if part is not None:
                lane.receive(part)
        if settle:
            await idle()
    await idle()
    for lane in lanes:
        lane.connection.connection_lost(None)
    await idle()
    return [(lane.app.read, lane.responses()) for lane in lanes]


async def idle() -> None:
    """Wait until the requests that can go on have done so; none of them waits for anything else."""
    async with asyncio.timeout(LONGEST):
        for _ in range(40):
            await asyncio.sleep(0)


def sequences(count: int) -> Iterator[tuple[random.Random, bytes]]:
    for seed in range(count):
        choose = random.Random(seed)  # noqa: S311, the test is repeatable
        yield choose, b"".join(request(choose, number) for number in range(choose.randint(1, 4)))


@pytest.mark.parametrize("settle", [False, True])
async def test_every_request_is_read_with_its_own_body(*, settle: bool) -> None:
    sent = list(sequences(SEQUENCES))
    cut = [segments(choose, data) for choose, data in sent]
    delivered = await deliver(BoundedHttpProtocol, cut, settle=settle)
    for (_, data), parts, (read, found) in zip(sent, cut, delivered, strict=True):
        expected = list(reference(data))
        assert read == expected, parts
        assert len(found) == len(expected), parts


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize(
    "framed",
    [
        b"Content-Length: %d\r\n\r\n%b" % (len(HIDDEN), HIDDEN),
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN),
    ],
)
async def test_a_body_behind_an_offer_of_a_protocol_is_cut_anywhere(
    upgrade: bytes, framed: bytes
) -> None:
    offer = b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + upgrade + b"\r\n"
    data = offer + framed + b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n"
    expected = [Read("POST", "/a", HIDDEN), Read("GET", "/b", b"")]
    cuts = [[data[:cut], data[cut:]] for cut in range(1, len(data))]
    delivered = await deliver(BoundedHttpProtocol, cuts, settle=True)
    for parts, found in zip(cuts, delivered, strict=True):
        assert found == (expected, [200, 200]), parts


@pytest.mark.parametrize("settle", [False, True])
@pytest.mark.parametrize("protocol", [HttpToolsProtocol, H11Protocol])
async def test_another_web_server_runs_no_request_that_was_not_sent(
    protocol: Callable[..., asyncio.Protocol], *, settle: bool
) -> None:
    generated = list(sequences(SEQUENCES))
    cut = [segments(choose, data) for choose, data in generated]
    delivered = await deliver(protocol, cut, settle=settle)
    for (_, data), (read, _) in zip(generated, delivered, strict=True):
        sent = {(each.method, each.target) for each in reference(data)}
        assert {(each.method, each.target) for each in read} <= sent


@pytest.mark.parametrize(
    "head",
    [
        b"GET /\r\n\r\n",
        b"GET / HTTP/0.9\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET / HTTP/3.0\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
@pytest.mark.parametrize("protocol", [BoundedHttpProtocol, HttpToolsProtocol, H11Protocol])
async def test_other_versions_of_http_are_refused(
    protocol: Callable[..., asyncio.Protocol], head: bytes
) -> None:
    [(read, found)] = await deliver(protocol, [[head]], settle=True)
    assert read == []
    assert found
    assert {*found} <= {400, 505}


async def test_a_sequence_that_closes_ends_there() -> None:
    closing = b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n"
    data = closing + b"Content-Length: 2\r\n\r\n{}" + HIDDEN
    cuts = [[data[:cut], data[cut:]] for cut in range(1, len(data))]
    for found in await deliver(BoundedHttpProtocol, cuts, settle=True):
        assert found == ([Read("POST", "/a", b"{}")], [200])
