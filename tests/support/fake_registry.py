"""A model registry on this machine that responds well, badly, or not at all."""

import asyncio
import gzip
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from llmring_server import Ring
from llmring_server.registry.client import MAX_TOTAL_BYTES

PROVIDERS = ("openai", "anthropic", "google")
OK = "200 OK"
UTF_8 = "Content-Type: application/json; charset=utf-8"


def document(provider: str, version: int = 7, **changes: Any) -> dict[str, Any]:
    """Make a file of four models, with `changes` to its first."""
    models = {
        f"{provider}:model-{number}": {
            "provider": provider,
            "model_name": f"model-{number}",
            "display_name": f"Model {number}",
            "model_aliases": [f"alias-{number}"],
            "max_input_tokens": 0,
            "supports_vision": number == 0,
            "supports_thinking": number == 1,
            "speed_tier": None,
            "dollars_per_million_tokens_input": 2.5,
            "dollars_per_million_tokens_output": 10.0,
            "dollars_per_million_tokens_cached_input": 0.25,
        }
        for number in range(4)
    }
    models[f"{provider}:model-0"] |= changes
    updated_at = f"2026-08-{10 + version:02}T12:00:00.123456"
    return {"provider": provider, "version": version, "updated_at": updated_at, "models": models}


def http_response(body: bytes, status: str = OK, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", *(headers or [UTF_8]), f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "Connection: close", "", ""]).encode() + body


def priced(spelled: str) -> Callable[[str], bytes]:
    """Write a price in this form."""
    return lambda provider: http_response(
        json.dumps(document(provider, 8)).replace("2.5", spelled, 1).encode()
    )


def changed_file(change: Callable[[dict[str, Any]], object]) -> Callable[[str], bytes]:
    """Respond with a changed file."""

    def changed(provider: str) -> bytes:
        file = document(provider, 8)
        change(file)
        return http_response(json.dumps(file).encode())

    return changed


def many(count: int) -> Callable[[dict[str, Any]], object]:
    return lambda file: file["models"].update(
        {f"{file['provider']}:{number}": {} for number in range(count)}
    )


def raise_prices(file: dict[str, Any]) -> None:
    for model in file["models"].values():
        model["dollars_per_million_tokens_output"] *= 1000


def remove_models(file: dict[str, Any]) -> None:
    for number in range(3):
        del file["models"][f"{file['provider']}:model-{number}"]


GOOD = json.dumps(document("openai", 8)).encode()

# Responses that must be rejected, and what the outcome says.
BAD: dict[str, tuple[Callable[[str], bytes], str]] = {
    "redirect": (
        lambda _: http_response(b"", "302 Found", "Location: /elsewhere"),
        "responded with status 302",
    ),
    "error": (lambda _: http_response(b"{}", "500 Oops"), "responded with status 500"),
    "html": (lambda _: http_response(GOOD, OK, "Content-Type: text/html"), "not JSON in UTF-8"),
    "charset": (lambda _: http_response(GOOD, OK, f"{UTF_8[:-5]}latin-1"), "not JSON in UTF-8"),
    "gzip bomb": (
        lambda _: http_response(
            gzip.compress(bytes(2 * MAX_TOTAL_BYTES)), OK, UTF_8, "Content-Encoding: gzip"
        ),
        "compressed",
    ),
    "too large": (lambda _: http_response(bytes(MAX_TOTAL_BYTES)), "too large"),
    "a million models": (
        lambda _: http_response(b'{"models": {' + b'"openai:x":{},' * 10**6),
        "too large",
    ),
    "20,000 models": (changed_file(many(20_000)), "at most 10,000 keys"),
    "not JSON": (lambda _: http_response(b"{"), "not strict JSON"),
    "not UTF-8": (lambda _: http_response(b'{"\xff": 1}'), "not strict JSON"),
    "a list": (lambda _: http_response(b"[]"), "not a registry file of"),
    "another's": (
        lambda _: http_response(json.dumps(document("ollama", 8)).encode()),
        "not a registry file of",
    ),
    "no version": (changed_file(lambda file: file.pop("version")), "version"),
    "no models": (changed_file(lambda file: file["models"].clear()), "models"),
    "another's model": (changed_file(lambda file: file["models"].update({"x:y": {}})), "'x:y'"),
    "escapes": (changed_file(lambda file: file["models"].update({"openai:\x1b[": {}})), "is not"),
    "NaN": (priced("NaN"), "not strict JSON"),
    "negative": (priced("-0.01"), "dollars_per_million_tokens_input"),
    "dear": (priced("10000.01"), "dollars_per_million_tokens_input"),
    "text": (priced('"2.5"'), "dollars_per_million_tokens_input"),
}
SUSPICIOUS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "1000 times dearer": (changed_file(raise_prices), "goes from 10.0 to 10000.0 and 3 more"),
    "for nothing": (priced("0"), "goes from 2.5 to 0"),
    "half of it missing": (changed_file(remove_models), "3 of 4 models are missing"),
}


class FakeRegistry:
    """Responds according to `mode`, and counts the requests."""

    server: asyncio.Server

    def __init__(self) -> None:
        self.mode = "good"
        self.asked: Counter[str] = Counter()
        self.files = {provider: document(provider) for provider in PROVIDERS}
        self.url = ""

    def content(self, provider: str) -> bytes:
        return json.dumps(self.files[provider]).encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
            self.asked[path] += 1
            await self._answer(path.split("/")[1], writer)
            await writer.drain()
        writer.close()

    async def _answer(self, provider: str, writer: asyncio.StreamWriter) -> None:
        if self.mode in {"hang", "drip", "endless"}:
            await self._go_on(writer)
        elif self.mode == "good":
            writer.write(http_response(self.content(provider)))
        else:
            writer.write((BAD | SUSPICIOUS)[self.mode][0](provider))

    async def _go_on(self, writer: asyncio.StreamWriter) -> None:
        """Send nothing, too little, or an endless response."""
        writer.write(b"" if self.mode == "hang" else f"HTTP/1.1 {OK}\r\n{UTF_8}\r\n\r\n".encode())
        while self.mode in {"hang", "drip", "endless"} and not writer.is_closing():
            writer.write(b" " * {"hang": 0, "drip": 1, "endless": 2**16}[self.mode])
            await writer.drain()
            await asyncio.sleep(0 if self.mode == "endless" else 0.05)

    async def stop(self) -> None:
        self.mode = "good"
        self.server.close()
        await self.server.wait_closed()
        # Pending requests fail now and not during the next test.
        asking = (task for task in asyncio.all_tasks() if "_refresh" in str(task.get_coro()))
        await asyncio.gather(*asking, return_exceptions=True)


@asynccontextmanager
async def fake_registry() -> AsyncIterator[FakeRegistry]:
    fake = FakeRegistry()
    fake.server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.url = f"http://127.0.0.1:{fake.server.sockets[0].getsockname()[1]}"
    try:
        yield fake
    finally:
        await fake.stop()


async def swept(ring: Ring) -> None:
    """Wait for the background refresh."""
    await ring.registry.wait_for_refresh()
