"""Request limits: what is rejected on every route and every server, before a handler runs.

The head of a request must be small and unambiguous, its body must have a supported media type and
a bounded size, and all of it must arrive in time. Our own server (`server/protocol.py`) enforces
size and time as the bytes arrive; it announces that with the ASGI extension `BOUNDED`.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from io import BytesIO
from itertools import chain

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from llmring_server.errors import (
    BadRequest,
    BodyTooLarge,
    HeadersTooLarge,
    HttpVersionNotSupported,
    RequestTimeout,
    UnsupportedMediaType,
    UriTooLong,
)
from llmring_server.web.body_memory import Reservation

Headers = list[tuple[bytes, bytes]]

KIB = 1024
MIB = 1024 * KIB

# A server that also speaks HTTP/2 and 3 calls them `2` and `3`; `2.0` and `0.9` are text that a
# client sent as HTTP/1.
HTTP_VERSIONS = {"1.0", "1.1", "2", "3"}

MAX_TARGET_BYTES = 8 * KIB
MAX_HEADER_FIELDS = 100
MAX_HEADER_BYTES = 16 * KIB

# A request must arrive within this time, plus one second for each so many bytes of it.
BODY_GRACE_SECONDS = 10.0
MIN_BYTES_PER_SECOND = 16 * KIB

# To parse and to store a body takes several times its size. Larger ones take turns.
LARGE_BODY_BYTES = 8 * MIB

# The ASGI extension of a server that limits size and time itself. To do so again for each request
# costs 6 µs.
BOUNDED = "llmring.bounded"

JSON = "application/json"
NDJSON = "application/x-ndjson"

# If one of these were sent twice, a proxy in front might take the other value than we do.
SINGLE_HEADERS = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"host",
        b"idempotency-key",
        b"transfer-encoding",
        b"x-api-key",
        b"x-project-id",
        b"x-project-key",
        b"x-proxy-signature",
        b"x-user-id",
    }
)

_HOST = re.compile(rb"(?:[\w.~%!$&'()*+,;=-]*|\[[\da-fA-F:.]+\])(?::\d*)?", re.ASCII)


def check_head(scope: Scope) -> dict[bytes, bytes]:
    """Reject a head that is too large or ambiguous; return its headers by name."""
    headers: Headers = scope["headers"]
    if scope["http_version"] not in HTTP_VERSIONS:
        raise HttpVersionNotSupported
    if BOUNDED not in scope.get("extensions", ()):
        check_size(headers, scope.get("raw_path") or b"", scope["query_string"])
    by_name = _reject_duplicates(headers)
    if b"transfer-encoding" in by_name:
        _check_framing(by_name, scope["http_version"])
    # Only HTTP/1.1 requires a Host header; "@" is not a host.
    default_host = b"@" if scope["http_version"] == "1.1" else b""
    if not _is_host(by_name.get(b"host", default_host)):
        raise BadRequest("Send one Host header: the name of this server, and its port.")
    return by_name


def check_size(headers: Headers, *target: bytes) -> None:
    """Reject a request target or header fields that are too large."""
    if len(b"".join(target)) > MAX_TARGET_BYTES:
        raise UriTooLong
    if (
        len(headers) > MAX_HEADER_FIELDS
        or len(b"".join(chain.from_iterable(headers))) > MAX_HEADER_BYTES
    ):
        raise HeadersTooLarge


@lru_cache(64)  # nearly all requests have the same host
def _is_host(name: bytes) -> bool:
    return bool(_HOST.fullmatch(name))


def _reject_duplicates(headers: Headers) -> dict[bytes, bytes]:
    by_name = dict(headers)
    if len(by_name) < len(headers):
        names = [name for name, _ in headers]
        for name in sorted(SINGLE_HEADERS):
            if names.count(name) > 1:
                raise BadRequest(f"Send this header only once: {name.decode()}.")
    return by_name


def _check_framing(headers: Mapping[bytes, bytes], http_version: str) -> None:
    is_chunked = headers[b"transfer-encoding"].lower() == b"chunked"
    if not is_chunked or b"content-length" in headers or http_version == "1.0":
        raise BadRequest("Send either Content-Length or `Transfer-Encoding: chunked`.")


def may_lose_framing(scope: Scope) -> bool:
    """Tell if a server may misread what follows the head of this request.

    uvicorn's parser takes what follows an offer of another protocol for that protocol: it drops
    the rest of the packet, and reads the next packet as a request, even if it is the body of this
    one. A client could choose a request for whoever shares its connection. The response must close
    the connection. Our own server reads on correctly.
    """
    if BOUNDED in scope.get("extensions", ()) or not scope["http_version"].startswith("1"):
        return False
    return b"upgrade" in dict(scope["headers"])


def receive_with_deadline(scope: Scope, receive: Receive) -> Receive:
    """Return a `receive` that raises RequestTimeout if the body arrives too slowly."""
    if BOUNDED in scope.get("extensions", ()):
        return receive
    deadline = asyncio.get_running_loop().time() + BODY_GRACE_SECONDS
    is_incomplete = True

    async def receive_in_time() -> Message:
        nonlocal deadline, is_incomplete
        if not is_incomplete:  # what is awaited now is that the client disconnects
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError as exc:
            raise RequestTimeout from exc
        deadline += len(message.get("body", b"")) / MIN_BYTES_PER_SECOND
        is_incomplete = message.get("more_body", False)
        return message

    return receive_in_time


def media_type(headers: Mapping[bytes, bytes], *supported: str) -> str:
    """Return the media type of the body, which must be one of `supported` and not encoded."""
    content_type = headers.get(b"content-type", b"").decode("latin-1")
    if content_type in supported and b"content-encoding" not in headers:
        return content_type
    media, _, parameters = content_type.lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    encoding = headers.get(b"content-encoding", b"identity").lower()
    if media.strip() not in supported or charset not in {"", "utf-8"} or encoding != b"identity":
        raise UnsupportedMediaType
    return media.strip()


async def read_body(
    headers: Mapping[bytes, bytes],
    receive: Receive,
    max_bytes: int,
    reserve: Callable[[], Reservation],
) -> bytes:
    """Read a body of at most `max_bytes`; reject a longer one before it is in memory.

    If it arrives in several parts, it occupies what `reserve` returns. The caller releases that
    once the request is done, also after an error.
    """
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    data, has_more = _body_part(await receive())
    if has_more:
        return await _read_parts(data, receive, max_bytes, reserve())
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    if not data and length != b"0" and b"upgrade" in headers:
        raise BadRequest(
            "The web server drops the body of a request that has the header field Upgrade:"
            " send the request without it, as HTTP/1.1."
        )
    return data


def _too_large(max_bytes: int) -> BodyTooLarge:
    limit = f"{max_bytes:,} bytes" if max_bytes % KIB else f"{max_bytes // KIB:,} KiB"
    if not max_bytes % MIB:
        limit = f"{max_bytes // MIB} MiB"
    return BodyTooLarge(f"The request body exceeds the limit of this endpoint, {limit}.")


async def _read_parts(
    part: bytes, receive: Receive, max_bytes: int, reservation: Reservation
) -> bytes:
    body = BytesIO()  # which returns what was written to it without another copy
    has_more = True
    while True:
        if body.tell() + len(part) > max_bytes:
            raise _too_large(max_bytes)
        reservation.add(len(part))
        body.write(part)
        if not has_more:
            return body.getvalue()
        part, has_more = _body_part(await receive())


def _body_part(message: Message) -> tuple[bytes, bool]:
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)
