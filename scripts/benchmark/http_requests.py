"""HTTP requests of the load generator as bytes, prepared so that sending one costs little CPU."""

import random
from collections.abc import Iterator, Sequence
from itertools import count, cycle, repeat

_COST = '"cost":0.00123456,'
_CALL = (
    '{"model":"gpt-4o-mini","provider":"openai","input_tokens":1234,"output_tokens":567,'
    '"cached_input_tokens":0,<cost>"latency_ms":850,"alias":"summarizer",'
    '"origin":"<origin>","id_at_origin":"%012d","metadata":{"note":"<note>"}}'
)
CALL_BYTES = 300
# In mode `open`, each key has its own project.
KEYS = [f"key-{number:04}" for number in range(1, 1001)]


def log_requests(origin: str, keys: Sequence[str], *, with_cost: bool) -> Iterator[bytes]:
    """Yield requests that log one call each, each with one of the `keys` at random."""
    call = _call_template(origin, with_cost=with_cost)
    requests = [_post("/api/v1/log", key, CALL_BYTES) + call for key in keys]
    # Drawn in advance: a random choice costs as much CPU as all other work for a request.
    choices = random.Random(1).choices(requests, k=65_536)  # noqa: S311, nothing to guess
    for number, request in enumerate(cycle(choices)):
        yield request % number


def batch_requests(
    origin: str, key: str, size: int, *, with_cost: bool, partial: bool
) -> Iterator[bytes]:
    """Yield requests that log `size` calls each, as a JSON array."""
    path = "/api/v1/logs/batch" + ("?partial=true" if partial else "")
    body = b"[%s]" % b",".join([_call_template(origin, with_cost=with_cost)] * size)
    request = _post(path, key, size * (CALL_BYTES + 1) + 1) + body
    for first in count(step=size):
        yield request % tuple(range(first, first + size))


def get_requests(path: str, key: str) -> Iterator[bytes]:
    return repeat(_head("GET", path, key))


def post_requests(path: str, key: str, body: str) -> Iterator[bytes]:
    return repeat(_post(path, key, len(body)) + body.encode())


def _call_template(origin: str, *, with_cost: bool) -> bytes:
    """Return a call of `CALL_BYTES` bytes, with a placeholder for its number."""
    call = _CALL.replace("<origin>", origin).replace("<cost>", _COST if with_cost else "")
    note = "x" * (CALL_BYTES - len(call.replace("<note>", "") % 0))
    return call.replace("<note>", note).encode()


def _post(path: str, key: str, size: int) -> bytes:
    return _head("POST", path, key, f"Content-Type: application/json\r\nContent-Length: {size}\r\n")


def _head(method: str, path: str, key: str, more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n{more}\r\n".encode()
