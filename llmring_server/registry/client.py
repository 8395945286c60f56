"""The only place from which we call anyone: the registry that was configured, and no one else."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import httpx

from llmring_server.errors import BodyTooLarge, RingError, UnsupportedMediaType

TIMEOUT = httpx.Timeout(5, connect=2)
TOTAL_TIMEOUT = 10.0
MAX_FILE_BYTES = 5 * 1024 * 1024

FetchedFile = bytes | RingError

# Uncompressed, so that what is small on the wire is small in memory.
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "llmring-server"}


async def fetch_provider_file(base: str, providers: Sequence[str]) -> dict[str, FetchedFile]:
    """Fetch the current file of each provider, all at once; each succeeds or fails by itself.

    Together they take 10 seconds and 5 MiB at most, shared out evenly.
    """
    deadline = asyncio.get_running_loop().time() + TOTAL_TIMEOUT
    urls = [f"{base}/{provider}/models.json" for provider in providers]
    share = MAX_FILE_BYTES // len(urls)
    # Reading the certificates takes a while.
    client = await asyncio.to_thread(
        lambda: httpx.AsyncClient(
            follow_redirects=False, trust_env=False, timeout=TIMEOUT, headers=_HEADERS
        )
    )
    async with client:
        found = await asyncio.gather(*(_fetch(client, url, share, deadline) for url in urls))
    return dict(zip(providers, found, strict=True))


async def _fetch(client: httpx.AsyncClient, url: str, share: int, deadline: float) -> FetchedFile:
    try:
        async with asyncio.timeout_at(deadline), client.stream("GET", url) as answer:
            _check(answer)
            return b"".join([chunk async for chunk in _bounded(answer, share)])
    except RingError as exc:
        return exc
    except (TimeoutError, httpx.TimeoutException):
        return RingError("no answer in time")
    except httpx.HTTPError as exc:
        # Of its text we cannot tell what is in it.
        return RingError(f"no connection ({type(exc).__name__})")


def _check(answer: httpx.Response) -> None:
    if answer.status_code != httpx.codes.OK:
        raise RingError(f"it answered {answer.status_code}")
    media, _, parameters = answer.headers.get("content-type", "").lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    if media.strip() not in {"application/json", "text/json"} or charset not in {"", "utf-8"}:
        raise UnsupportedMediaType("it did not answer in JSON and UTF-8")
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMediaType("its answer was compressed")


async def _bounded(answer: httpx.Response, most: int) -> AsyncIterator[bytes]:
    async for chunk in answer.aiter_raw():
        most -= len(chunk)
        if most < 0:
            raise BodyTooLarge("it answered with too much")
        yield chunk
