"""What a body may be: UTF-8 JSON, uncompressed, and bounded."""

from collections.abc import Mapping

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from llmring_server.errors import TooLarge, UnsupportedMedia

KIB = 1024

JSON = "application/json"
NDJSON = "application/x-ndjson"


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
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)
        if size > cap:
            raise TooLarge
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
