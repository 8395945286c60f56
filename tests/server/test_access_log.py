"""Access log of `serve`: one line for each request, without secrets."""

import io
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from pgdbm import AsyncDatabaseManager
from starlette.types import Receive, Scope, Send

from llmring_server import Settings, build
from llmring_server.server.access_log import AccessLog
from tests.conftest import CALL

LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    r" (?P<method>\S+) (?P<path>\S+) (?P<status>\S+) \d+\.\d ms (?P<request_id>\S+)\n"
)


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
async def logged(db: AsyncDatabaseManager, log: io.StringIO) -> AsyncIterator[httpx.AsyncClient]:
    app = AccessLog(build(db, Settings(auth="open", cors_origins=("https://app.example",))), log)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def lines(log: io.StringIO) -> list[tuple[str, ...]]:
    text = log.getvalue()
    matches = list(LINE.finditer(text))
    assert "".join(match[0] for match in matches) == text
    return [match.groups() for match in matches]


async def test_a_request_is_one_line_with_its_id(
    logged: httpx.AsyncClient, log: io.StringIO, key: str
) -> None:
    headers = {"X-API-Key": key}
    answers = [
        await logged.post("/api/v1/log", json=CALL, headers=headers),
        await logged.get("/api/v1/logs?model=secret", headers=headers),
        await logged.get("/nowhere"),
        await logged.get("/api/v1/logs"),
    ]
    assert lines(log) == [
        ("POST", "/api/v1/log", "200", answers[0].headers["X-Request-ID"]),
        ("GET", "/api/v1/logs", "200", answers[1].headers["X-Request-ID"]),
        ("GET", "/nowhere", "404", answers[2].headers["X-Request-ID"]),
        ("GET", "/api/v1/logs", "401", answers[3].headers["X-Request-ID"]),
    ]
    assert "secret" not in log.getvalue()
    assert key not in log.getvalue()


async def test_what_other_middleware_answers_is_logged_without_an_id(
    logged: httpx.AsyncClient, log: io.StringIO
) -> None:
    headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    assert (await logged.options("/api/v1/logs", headers=headers)).status_code == 200
    assert lines(log) == [("OPTIONS", "/api/v1/logs", "200", "-")]


@pytest.mark.parametrize("path", ["/a\nGET /b 200", "/a\x1b[31m", "/a b", "/\N{SNOWMAN}", "/\x85"])
async def test_no_path_forges_a_line_or_reaches_a_terminal(log: io.StringIO, path: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to nothing, as to a client that has disconnected."""

    for raw_path in (None, path.encode(), path.encode("latin-1", "replace")):
        scope = {"type": "http", "method": "GET", "path": path, "raw_path": raw_path}
        await AccessLog(app, log)(scope, None, None)  # type: ignore[arg-type]
    assert [line[2:] for line in lines(log)] == [("-", "-")] * 3
    assert log.getvalue().isascii()


async def test_a_response_that_fails_is_logged_too(log: io.StringIO) -> None:
    async def app(_: Scope, __: Receive, ___: Send) -> None:
        raise ConnectionError

    scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/"}
    with pytest.raises(ConnectionError):
        await AccessLog(app, log)(scope, None, None)  # type: ignore[arg-type]
    assert lines(log) == [("GET", "/", "-", "-")]


async def test_a_log_that_cannot_be_written_costs_no_response(db: AsyncDatabaseManager) -> None:
    class FullDisk(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    transport = httpx.ASGITransport(app=AccessLog(build(db), FullDisk()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/health/live")).status_code == 200
