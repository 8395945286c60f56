"""What every server refuses at every route, before anything reads the request."""

import asyncio
import re
from functools import lru_cache
from itertools import chain

from starlette.types import Message, Receive, Scope

from llmring_server.errors import BadRequest, HeadTooLarge, RequestTimeout, TargetTooLong

Headers = list[tuple[bytes, bytes]]

LONGEST_HEAD = 16 * 1024
LONGEST_TARGET = 8 * 1024
MOST_FIELDS = 100

# A request may take so many seconds to arrive, and one more for each so many bytes of it.
PATIENCE = 10.0
SLOWEST = 16 * 1024

# What a server says that bounds size and time itself: to do so at each request costs 6 µs.
BOUNDED = "llmring.bounded"

# Said twice, these could mean one thing to us and another to whoever stands before us.
ONCE = {
    b"authorization", b"content-encoding", b"content-length", b"content-type", b"host",
    b"idempotency-key", b"transfer-encoding", b"x-api-key", b"x-gateway-signature",
    b"x-project-id", b"x-user-id",
}  # fmt: skip

_HOST = re.compile(rb"(?:[\w.~%!$&'()*+,;=-]*|\[[\da-fA-F:.]+\])(?::\d*)?", re.ASCII)


def check(scope: Scope) -> dict[bytes, bytes]:
    """Refuse a head that is too large or may be read in two ways; return its headers by name."""
    headers: Headers = scope["headers"]
    if BOUNDED not in scope.get("extensions", ()):
        check_size(headers, scope.get("raw_path") or b"", scope["query_string"])
    found = _sole(headers)
    if b"transfer-encoding" in found:
        _check_framing(found, scope["http_version"])
    # HTTP/1.0 knew no Host.
    if not _is_host(found.get(b"host", b"@" if scope["http_version"] == "1.1" else b"")):
        raise BadRequest("Send one Host: the name of this server, and its port.")
    return found


def check_size(headers: Headers, *target: bytes) -> None:
    if len(b"".join(target)) > LONGEST_TARGET:
        raise TargetTooLong
    if len(headers) > MOST_FIELDS or len(b"".join(chain.from_iterable(headers))) > LONGEST_HEAD:
        raise HeadTooLarge


@lru_cache(64)  # it is nearly always the same
def _is_host(name: bytes) -> bool:
    return bool(_HOST.fullmatch(name))


def _sole(headers: Headers) -> dict[bytes, bytes]:
    found = dict(headers)
    if len(found) < len(headers):
        names = [name for name, _ in headers]
        if twice := [name.decode() for name in ONCE if names.count(name) > 1]:
            raise BadRequest(f"Send this header once: {twice[0]}.")
    return found


def _check_framing(found: dict[bytes, bytes], version: str) -> None:
    plain = found[b"transfer-encoding"].lower() == b"chunked"
    if not plain or b"content-length" in found or version == "1.0":
        raise BadRequest("Send a Content-Length or `Transfer-Encoding: chunked`.")


def hurried(scope: Scope, receive: Receive) -> Receive:
    """Let nobody wait for a body that is too long in coming."""
    if BOUNDED in scope.get("extensions", ()):
        return receive
    due, coming = asyncio.get_running_loop().time() + PATIENCE, True

    async def receive_in_time() -> Message:
        nonlocal due, coming
        if not coming:  # what is awaited now is the client's leaving
            return await receive()
        try:
            async with asyncio.timeout_at(due):
                message = await receive()
        except TimeoutError as exc:
            raise RequestTimeout from exc
        due += len(message.get("body", b"")) / SLOWEST
        coming = message.get("more_body", False)
        return message

    return receive_in_time
