"""What clients send: HTTP requests as bytes, made as cheaply as Python can."""

import random
from collections.abc import Iterator, Sequence
from itertools import count, cycle, repeat

_COST = '"cost":0.00123456,'
_EVENT = (
    '{"model":"gpt-4o-mini","provider":"openai","input_tokens":1234,"output_tokens":567,'
    '"cached_input_tokens":0,<cost>"latency_ms":850,"alias":"summarizer",'
    '"origin":"<origin>","id_at_origin":"%012d","metadata":{"note":"<note>"}}'
)
SIZE = 300
# Each names a tenant of its own.
KEYS = [f"key-{number:04}" for number in range(1, 1001)]


def _event(origin: str, *, priced: bool) -> bytes:
    """Return an event of `SIZE` bytes, but for its number; `priced` is left to the server."""
    event = _EVENT.replace("<origin>", origin).replace("<cost>", "" if priced else _COST)
    note = "x" * (SIZE - len(event.replace("<note>", "") % 0))
    return event.replace("<note>", note).encode()


def _head(method: str, path: str, key: str, more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n{more}\r\n".encode()


def _post(path: str, key: str, size: int) -> bytes:
    more = f"Content-Type: application/json\r\nContent-Length: {size}\r\n"
    return _head("POST", path, key, more)


def singles(origin: str, keys: Sequence[str], *, priced: bool) -> Iterator[bytes]:
    """Log one call a request, for one of `keys` at random."""
    event = _event(origin, priced=priced)
    requests = [_post("/api/v1/log", key, SIZE) + event for key in keys]
    # Drawn beforehand: a draw costs as much as all the rest.
    drawn = random.Random(1).choices(requests, k=65_536)  # noqa: S311, nothing to guess
    for number, request in enumerate(cycle(drawn)):
        yield request % number


def batches(origin: str, key: str, size: int, *, priced: bool) -> Iterator[bytes]:
    """Log `size` calls a request, as a JSON array."""
    body = b"[%s]" % b",".join([_event(origin, priced=priced)] * size)
    request = _post("/api/v1/logs/batch", key, size * (SIZE + 1) + 1) + body
    for first in count(step=size):
        yield request % tuple(range(first, first + size))


def gets(path: str, key: str) -> Iterator[bytes]:
    # A path may hold percent signs, which is why this is no template.
    return repeat(_head("GET", path, key))


def posts(path: str, key: str, body: str) -> Iterator[bytes]:
    return repeat(_post(path, key, len(body)) + body.encode())
