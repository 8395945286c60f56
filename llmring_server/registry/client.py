"""HTTP client of the model registry: the only place that dials out, to the configured registry."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import httpx2

from llmring_server.errors import BodyTooLarge, RingError, UnsupportedMediaType

TIMEOUT = httpx2.Timeout(5, connect=2)
TOTAL_TIMEOUT = 10.0
MAX_TOTAL_BYTES = 5 * 1024 * 1024

FetchedFile = bytes | RingError

# Uncompressed, so that a response that is small on the wire is small in memory.
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "llmring-server"}


async def fetch_provider_files(base_url: str, providers: Sequence[str]) -> dict[str, FetchedFile]:
    """Fetch the current file of each provider concurrently; each succeeds or fails independently.

    All together are limited to 10 seconds and 5 MiB, of which each gets an equal share.
    """
    deadline = asyncio.get_running_loop().time() + TOTAL_TIMEOUT
    max_bytes = MAX_TOTAL_BYTES // len(providers)
    # Loading the certificates takes a while.
    client = await asyncio.to_thread(_client)
    async with client:
        fetches = [
            _fetch(client, f"{base_url}/{provider}/models.json", max_bytes, deadline)
            for provider in providers
        ]
        files = await asyncio.gather(*fetches)
    return dict(zip(providers, files, strict=True))


def _client() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        follow_redirects=False, trust_env=False, timeout=TIMEOUT, headers=_HEADERS
    )


async def _fetch(
    client: httpx2.AsyncClient, url: str, max_bytes: int, deadline: float
) -> FetchedFile:
    try:
        async with asyncio.timeout_at(deadline), client.stream("GET", url) as response:
            _check_headers(response)
            return b"".join([chunk async for chunk in _limited_body(response, max_bytes)])
    except RingError as exc:
        return exc
    except (TimeoutError, httpx2.TimeoutException):
        return RingError("the registry did not respond in time")
    except httpx2.HTTPError as exc:
        # Its text may contain anything.
        return RingError(f"no connection to the registry ({type(exc).__name__})")


def _check_headers(response: httpx2.Response) -> None:
    if response.status_code != httpx2.codes.OK:
        raise RingError(f"the registry responded with status {response.status_code}")
    media_type, _, parameters = response.headers.get("content-type", "").lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    if media_type.strip() not in {"application/json", "text/json"} or charset not in {"", "utf-8"}:
        raise UnsupportedMediaType("the response is not JSON in UTF-8")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMediaType("the response is compressed")


async def _limited_body(response: httpx2.Response, max_bytes: int) -> AsyncIterator[bytes]:
    remaining = max_bytes
    async for chunk in response.aiter_raw():
        remaining -= len(chunk)
        if remaining < 0:
            raise BodyTooLarge("the response is too large")
        yield chunk
