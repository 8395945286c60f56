"""What every server refuses at every route, before anything reads the request."""

import asyncio
import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import chain

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from llmring_server.errors import (
    BadRequest,
    BodyTooLarge,
    HeadersTooLarge,
    Overloaded,
    RequestTimeout,
    UnsupportedMediaType,
    UriTooLong,
)

Headers = list[tuple[bytes, bytes]]


MAX_HEADER_BYTES = 16 * 1024


MAX_TARGET_BYTES = 8 * 1024


MAX_HEADER_FIELDS = 100


# A request may take so many seconds to arrive, and one more for each so many bytes of it.
BODY_GRACE_SECONDS = 10.0


MIN_BYTES_PER_SECOND = 16 * 1024


# What a server says that bounds size and time itself: to do so at each request costs 6 µs.
BOUNDED = "llmring.bounded"


# Said twice, these could mean one thing to us and another to whoever stands before us.
SINGLE_HEADERS = {
    b"authorization", b"content-encoding", b"content-length", b"content-type", b"host",
    b"idempotency-key", b"transfer-encoding", b"x-api-key", b"x-proxy-signature",
    b"x-project-id", b"x-user-id",
}  # fmt: skip


_HOST = re.compile(rb"(?:[\w.~%!$&'()*+,;=-]*|\[[\da-fA-F:.]+\])(?::\d*)?", re.ASCII)


def check_head(scope: Scope) -> dict[bytes, bytes]:
    """Refuse a head that is too large or may be read in two ways; return its headers by name."""
    headers: Headers = scope["headers"]
    if BOUNDED not in scope.get("extensions", ()):
        check_size(headers, scope.get("raw_path") or b"", scope["query_string"])
    found = _reject_duplicates(headers)
    if b"transfer-encoding" in found:
        _check_framing(found, scope["http_version"])
    # HTTP/1.0 knew no Host.
    if not _is_host(found.get(b"host", b"@" if scope["http_version"] == "1.1" else b"")):
        raise BadRequest("Send one Host: the name of this server, and its port.")
    return found


def check_size(headers: Headers, *target: bytes) -> None:
    if len(b"".join(target)) > MAX_TARGET_BYTES:
        raise UriTooLong
    if (
        len(headers) > MAX_HEADER_FIELDS
        or len(b"".join(chain.from_iterable(headers))) > MAX_HEADER_BYTES
    ):
        raise HeadersTooLarge


@lru_cache(64)  # it is nearly always the same
def _is_host(name: bytes) -> bool:
    return bool(_HOST.fullmatch(name))


def _reject_duplicates(headers: Headers) -> dict[bytes, bytes]:
    found = dict(headers)
    if len(found) < len(headers):
        names = [name for name, _ in headers]
        if twice := [name.decode() for name in SINGLE_HEADERS if names.count(name) > 1]:
            raise BadRequest(f"Send this header once: {twice[0]}.")
    return found


def _check_framing(found: dict[bytes, bytes], version: str) -> None:
    plain = found[b"transfer-encoding"].lower() == b"chunked"
    if not plain or b"content-length" in found or version == "1.0":
        raise BadRequest("Send a Content-Length or `Transfer-Encoding: chunked`.")


def receive_with_deadline(scope: Scope, receive: Receive) -> Receive:
    """Let nobody wait for a body that is too long in coming."""
    if BOUNDED in scope.get("extensions", ()):
        return receive
    due, coming = asyncio.get_running_loop().time() + BODY_GRACE_SECONDS, True

    async def receive_in_time() -> Message:
        nonlocal due, coming
        if not coming:  # what is awaited now is the client's leaving
            return await receive()
        try:
            async with asyncio.timeout_at(due):
                message = await receive()
        except TimeoutError as exc:
            raise RequestTimeout from exc
        due += len(message.get("body", b"")) / MIN_BYTES_PER_SECOND
        coming = message.get("more_body", False)
        return message

    return receive_in_time


KIB = 1024


JSON = "application/json"


NDJSON = "application/x-ndjson"


class _BodyMemory:
    """What bodies that come in parts may hold together: each has a cap, but there may be many."""

    left = 64 * 1024 * KIB


def media_type(headers: Mapping[bytes, bytes], *allowed: str) -> str:
    """Return which of `allowed` the body is, or refuse it."""
    given = headers.get(b"content-type", b"").decode("latin-1")
    if given in allowed and b"content-encoding" not in headers:
        return given
    media, _, parameters = given.lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    encoding = headers.get(b"content-encoding", b"identity").lower()
    if media.strip() not in allowed or charset not in {"", "utf-8"} or encoding != b"identity":
        raise UnsupportedMediaType
    return media.strip()


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, cap: int) -> bytes:
    """Read a body of at most `cap` bytes; a longer one is refused before it is held."""
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > cap:
        raise BodyTooLarge
    data, more = _part(await receive())
    if more:
        return await _whole(data, receive, cap)
    if len(data) > cap:
        raise BodyTooLarge
    return data


def _part(message: Message) -> tuple[bytes, bool]:
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


async def _whole(part: bytes, receive: Receive, cap: int) -> bytes:
    held, more = bytearray(), True
    try:
        while True:
            held += part
            _BodyMemory.left -= len(part)
            if len(held) > cap:
                raise BodyTooLarge
            if _BodyMemory.left < 0:
                raise Overloaded
            if not more:
                return bytes(held)
            part, more = _part(await receive())
    finally:
        _BodyMemory.left += len(held)
