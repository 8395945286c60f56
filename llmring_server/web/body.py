"""What a body may be: UTF-8 JSON, uncompressed, and bounded."""

from collections.abc import Mapping

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from llmring_server.errors import Overloaded, TooLarge, UnsupportedMedia

KIB = 1024

JSON = "application/json"
NDJSON = "application/x-ndjson"


class _Room:
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
        raise UnsupportedMedia
    return media.strip()


async def read(headers: Mapping[bytes, bytes], receive: Receive, cap: int) -> bytes:
    """Read a body of at most `cap` bytes; a longer one is refused before it is held."""
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > cap:
        raise TooLarge
    data, more = _part(await receive())
    if more:
        return await _whole(data, receive, cap)
    if len(data) > cap:
        raise TooLarge
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
            _Room.left -= len(part)
            if len(held) > cap:
                raise TooLarge
            if _Room.left < 0:
                raise Overloaded
            if not more:
                return bytes(held)
            part, more = _part(await receive())
    finally:
        _Room.left += len(held)
