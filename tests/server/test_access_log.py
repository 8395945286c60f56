"""Access log of `serve`: one line for each request, without secrets."""

import io
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import httpx
import pytest
from pgdbm import AsyncDatabaseManager
from starlette.types import ASGIApp, Receive, Scope, Send

from llmring_server import Settings, build
from llmring_server.server.access_log import AccessLog
from tests.conftest import CALL
from tests.faults.test_kills import until

LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    r" (?P<method>\S+) (?P<path>\S+) (?P<status>\S+) \d+\.\d ms (?P<request_id>\S+)\n"
)


class Logged(NamedTuple):
    """An app with an access log, and a client of it."""

    app: AccessLog
    stream: io.StringIO
    client: httpx.AsyncClient

    def text(self) -> str:
        self.app.flush()
        return self.stream.getvalue()

    def lines(self) -> list[tuple[str, ...]]:
        text = self.text()
        matches = list(LINE.finditer(text))
        assert "".join(match[0] for match in matches) == text
        return [match.groups() for match in matches]


@asynccontextmanager
async def logged_app(app: ASGIApp) -> AsyncIterator[Logged]:
    stream = io.StringIO()
    log = AccessLog(app, stream)
    transport = httpx.ASGITransport(app=log)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield Logged(log, stream, client)


@pytest.fixture
async def logged(db: AsyncDatabaseManager) -> AsyncIterator[Logged]:
    settings = Settings(auth="open", cors_origins=("https://app.example",))
    async with logged_app(build(db, settings)) as logged:
        yield logged


async def test_a_request_is_one_line_with_its_id(logged: Logged, key: str) -> None:
    headers = {"X-API-Key": key}
    answers = [
        await logged.client.post("/api/v1/log", json=CALL, headers=headers),
        await logged.client.get("/api/v1/logs?model=secret", headers=headers),
        await logged.client.get("/nowhere"),
        await logged.client.get("/api/v1/logs"),
    ]
    assert logged.lines() == [
        ("POST", "/api/v1/log", "200", answers[0].headers["X-Request-ID"]),
        ("GET", "/api/v1/logs", "200", answers[1].headers["X-Request-ID"]),
        ("GET", "/nowhere", "404", answers[2].headers["X-Request-ID"]),
        ("GET", "/api/v1/logs", "401", answers[3].headers["X-Request-ID"]),
    ]
    assert "secret" not in logged.text()
    assert key not in logged.text()


async def test_the_time_is_that_of_the_response_in_utc(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    for now in (1_700_000_000.0, 1_700_000_000.9999, 1_700_000_001.0):
        with monkeypatch.context() as patch:
            patch.setattr("llmring_server.server.access_log.time.time", lambda now=now: now)
            await logged.client.get("/health/live")
    assert [line.split(" ")[0] for line in logged.text().splitlines()] == [
        "2023-11-14T22:13:20.000Z",
        "2023-11-14T22:13:20.999Z",
        "2023-11-14T22:13:21.000Z",
    ]


async def test_lines_are_written_without_further_requests(logged: Logged) -> None:
    for _ in range(3):
        await logged.client.get("/health/live")
    await until(lambda: logged.stream.getvalue().count("/health/live") == 3)


async def test_the_last_lines_are_written_when_the_server_ends(logged: Logged) -> None:
    await logged.client.get("/health/live")
    messages = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]

    async def receive() -> dict[str, str]:
        return messages.pop()

    async def send(_: object) -> None:
        pass

    await logged.app({"type": "lifespan", "state": {}}, receive, send)
    assert logged.stream.getvalue().count("/health/live") == 1


async def test_what_other_middleware_answers_is_logged_without_an_id(logged: Logged) -> None:
    headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    assert (await logged.client.options("/api/v1/logs", headers=headers)).status_code == 200
    assert logged.lines() == [("OPTIONS", "/api/v1/logs", "200", "-")]


@pytest.mark.parametrize("path", ["/a\nGET /b 200", "/a\x1b[31m", "/a b", "/\N{SNOWMAN}", "/\x85"])
async def test_no_path_forges_a_line_or_controls_a_terminal(path: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        """Do not respond, as to a client that has disconnected."""

    async with logged_app(app) as logged:
        for raw_path in (None, path.encode(), path.encode("latin-1", "replace")):
            scope = {"type": "http", "method": "GET", "path": path, "raw_path": raw_path}
            await logged.app(scope, None, None)  # type: ignore[arg-type]
        assert [line[2:] for line in logged.lines()] == [("-", "-")] * 3
        assert logged.text().isascii()


async def test_a_response_that_fails_is_logged_too() -> None:
    async def app(_: Scope, __: Receive, ___: Send) -> None:
        raise ConnectionError

    async with logged_app(app) as logged:
        with pytest.raises(ConnectionError):
            await logged.client.get("/")
        assert logged.lines() == [("GET", "/", "-", "-")]


async def test_a_log_that_cannot_be_written_costs_no_response(db: AsyncDatabaseManager) -> None:
    class FullDisk(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    log = AccessLog(build(db), FullDisk())
    transport = httpx.ASGITransport(app=log)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for _ in range(2):
            assert (await client.get("/health/live")).status_code == 200
            log.flush()
