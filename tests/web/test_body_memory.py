"""Memory limits of bodies in several parts: each owner has its own, and all memory is released."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import pytest
import uvicorn
from pgdbm import AsyncDatabaseManager
from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llmring_server import LIBRARY, Ring, Settings, build
from llmring_server.access.keys import KeyOptions
from llmring_server.core.identity import ProjectId
from llmring_server.errors import Overloaded
from llmring_server.server.in_process import listen
from llmring_server.server.protocol import BoundedHttpProtocol
from llmring_server.web import body_memory, request_limits
from llmring_server.web.body_memory import BodyMemory
from tests.faults.test_kills import LONGEST, until
from tests.support.invalid_bodies import GOOD
from tests.support.invalid_wire_requests import CLOSE, JSON, head

KIB, MIB = 1024, 1024**2
LOCAL = "127.0.0.0/24"
HERE, THERE = "192.0.2.1", "198.51.100.1"

REGISTER, VERIFY, LOG = "/api/v1/cli/register", "/api/v1/receipts/verify", "/api/v1/log"
EXCHANGES = "/api/v1/conversations/log"


# Over sockets.


class _Uvicorn(uvicorn.Server):
    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        with listen("127.0.0.1", 0) as listener:
            serving = asyncio.create_task(self._serve(sockets=[listener]))
            await until(lambda: self.started)
            yield listener.getsockname()[1]
            self.should_exit = self.force_exit = True
            await serving


async def hold_body(port: int, path: str) -> socket.socket:
    """Send all but the last KiB of a body of 256 KiB, without a key."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.settimeout(0)
    length = b"Content-Length: %d" % (256 * KIB)
    request = head(b"POST %b HTTP/1.1" % path.encode(), b"Host: test", JSON, length)
    with suppress(ConnectionError):
        await asyncio.get_running_loop().sock_sendall(connection, request + b"[" * 255 * KIB)
    return connection


async def read_response(reader: asyncio.StreamReader) -> int:
    return int((await reader.read()).split()[1])


async def status_of_log_in_two_reads(port: int, key: str) -> int:
    """Send a call in two parts; between them the server answers another request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    fields = b"X-API-Key: " + key.encode(), b"Content-Length: %d" % len(GOOD)
    writer.write(head(b"POST /api/v1/log HTTP/1.1", b"Host: test", CLOSE, JSON, *fields))
    writer.write(GOOD[:9])
    await writer.drain()
    other, other_writer = await asyncio.open_connection("127.0.0.1", port)
    other_writer.write(head(b"GET /health/live HTTP/1.1", b"Host: test", CLOSE))
    assert await read_response(other) == 200
    other_writer.close()
    writer.write(GOOD[9:])
    status = await read_response(reader)
    writer.close()
    return status


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [BoundedHttpProtocol, HttpToolsProtocol])
@pytest.mark.parametrize("path", [REGISTER, VERIFY, LOG])
async def test_400_held_bodies_without_a_key_refuse_no_body_with_one(
    db: AsyncDatabaseManager, protocol: type[HttpToolsProtocol], path: str
) -> None:
    app: Any = build(db)
    key = await Ring(db).keys.issue(f"p {uuid4()}", KeyOptions(), actor=LIBRARY)
    config = uvicorn.Config(app, http=protocol, ws="none", log_config=None, lifespan="off")
    async with asyncio.timeout(LONGEST), _Uvicorn(config).running() as port:
        # From now on the key is known, whatever else comes from its network.
        assert await status_of_log_in_two_reads(port, key.secret) == 200
        held = await asyncio.gather(*(hold_body(port, path) for _ in range(400)))
        if path != LOG:  # there, callers without a key are refused before their bodies are read
            await until(lambda: app.body_memory.used[LOCAL] > 700 * KIB)
        for _ in range(5):
            assert await status_of_log_in_two_reads(port, key.secret) == 200
        assert app.body_memory.used["all"] <= MIB
        for connection in held:
            connection.close()
        await until(lambda: not app.body_memory.used)


# Part by part.


class Upload:
    """A request whose body arrives as a test sends it."""

    def __init__(
        self, app: Any, path: str = LOG, address: str = HERE, key: str = "k", **headers: str
    ) -> None:
        headers = {"host": "test", "content-type": "application/json", **headers}
        if key:
            headers["x-api-key"] = key
        scope = {
            "type": "http", "method": "POST", "path": path, "http_version": "1.1",
            "query_string": b"", "root_path": "", "client": (address, 1),
            "headers": [
                (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
            ],
        }  # fmt: skip
        self.messages: list[Message] = []
        self._parts = asyncio.Queue[Message]()
        self._is_reading = False
        self.request = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        if self._is_reading:
            self._parts.task_done()
        self._is_reading = True
        return await self._parts.get()

    async def _send(self, message: Message) -> None:
        self.messages.append(message)

    def put(self, message: Message) -> None:
        self._parts.put_nowait(message)

    async def pass_on(self, message: Message) -> None:
        """Return when the app has read the message, and waits for the next or is done."""
        self.put(message)
        read = asyncio.create_task(self._parts.join())
        async with asyncio.timeout(LONGEST):
            await asyncio.wait([read, self.request], return_when=asyncio.FIRST_COMPLETED)
        read.cancel()

    async def send(self, part: bytes, *, is_last: bool = False) -> "Upload":
        await self.pass_on({"type": "http.request", "body": part, "more_body": not is_last})
        return self

    async def disconnect(self) -> None:
        await self.pass_on({"type": "http.disconnect"})

    async def cancel(self) -> None:
        self.request.cancel()
        with suppress(asyncio.CancelledError):
            await self.request

    async def finish(self, part: bytes) -> int:
        """Send the last part; return the status of the response."""
        await self.send(part, is_last=True)
        async with asyncio.timeout(LONGEST):
            await self.request
        return self.status

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def problem(self) -> dict[str, Any]:
        return dict(json.loads(self.messages[1]["body"]))


def app_of(db: AsyncDatabaseManager, **settings: Any) -> Any:
    return build(db, Settings(**{"auth": "open", "max_messages_bytes": MIB} | settings))


async def test_a_project_cannot_use_the_memory_of_another(db: AsyncDatabaseManager) -> None:
    app = app_of(db, max_project_body_bytes=MIB)
    mine = [await Upload(app, key="mine").send(b" " * 255 * KIB) for _ in range(4)]
    refused = Upload(app, key="mine")
    assert await (await refused.send(b" " * 5 * KIB)).finish(GOOD) == 503
    assert refused.problem["code"] == "overloaded"
    assert "one at a time" in refused.problem["detail"]
    assert (b"retry-after", b"1") in refused.messages[0]["headers"]
    # A body that arrives at once needs none of it, and others have their own limit.
    assert await Upload(app, key="mine").finish(GOOD) == 200
    assert await (await Upload(app, key="other").send(GOOD[:9])).finish(GOOD[9:]) == 200
    await mine.pop().disconnect()
    assert await (await Upload(app, key="mine").send(GOOD[:9])).finish(GOOD[9:]) == 200
    for upload in mine:
        await upload.cancel()
    assert not app.body_memory.used


@pytest.mark.parametrize("path", [REGISTER, VERIFY])
async def test_unauthenticated_callers_have_a_limit_by_network(
    db: AsyncDatabaseManager, path: str
) -> None:
    app = app_of(db)

    async def hold(address: str) -> Upload:
        return await Upload(app, path, address, key="").send(b"[" * 255 * KIB)

    # The fifth body of a network would exceed its limit, and the 65th that of all.
    held = [await hold(f"192.0.{number // 4}.{number % 4}") for number in range(64)]
    assert not any(upload.messages for upload in held)
    for address, text in {"192.0.0.9": "Your network", "198.51.100.1": "The server"}.items():
        refused = await Upload(app, path, address, key="").send(b"[" * 255 * KIB)
        assert refused.status == 503
        assert text in refused.problem["detail"]
    assert await (await Upload(app, address="192.0.0.9").send(GOOD[:9])).finish(GOOD[9:]) == 200
    for upload in held:
        await upload.disconnect()
    assert not app.body_memory.used


async def test_a_caller_that_a_signature_will_name_counts_for_its_project(
    db: AsyncDatabaseManager,
) -> None:
    app = app_of(db, auth="proxy", proxy_secrets="s" * 32)
    mine, other = str(uuid4()), str(uuid4())
    signature = f"v1,t=1,n={'0' * 32},s={'0' * 64}"

    def upload(project: str) -> Upload:
        headers = {"x_user_id": mine, "x_project_id": project, "x_proxy_signature": signature}
        return Upload(app, EXCHANGES, key="", **headers)

    held = await upload(mine).send(b" " * 600 * KIB)
    assert app.body_memory.used == {
        UUID(mine): 600 * KIB, "192.0.2.0/24": 600 * KIB, "all": 600 * KIB
    }  # fmt: skip
    for project in (mine, other):
        assert await (await upload(project).send(b" ")).finish(b"{}") == 401
    await held.disconnect()
    assert not app.body_memory.used


async def test_a_body_occupies_memory_until_its_request_is_done(
    db: AsyncDatabaseManager,
) -> None:
    app = app_of(db)
    create = Upload(app, "/api/v1/conversations")
    assert await create.finish(b"{}") == 200
    conversation_id = json.loads(create.messages[1]["body"])["id"]
    body = json.dumps({"role": "user", "content": "Hi"}).encode()
    upload = Upload(app, f"/api/v1/conversations/{conversation_id}/messages")
    async with db.transaction() as transaction:
        lock = "SELECT FROM {{tables.conversations}} WHERE id = $1::text::uuid FOR UPDATE"
        await transaction.fetch_all(lock, conversation_id)
        await upload.send(body[:5])
        upload.put({"type": "http.request", "body": body[5:], "more_body": False})
        await until(lambda: app.body_memory.used["all"] == len(body))
    await upload.request
    assert upload.status == 200
    assert not app.body_memory.used


# Limits.


def project() -> ProjectId:
    return ProjectId(uuid4())


def test_the_limit_of_a_project_holds_the_largest_body() -> None:
    for settings, largest in (
        (Settings(), 32 * MIB),
        (Settings(max_messages_bytes=96 * MIB, max_project_body_bytes=96 * MIB), 96 * MIB),
        (Settings(max_messages_bytes=MIB), 32 * MIB),
        (Settings(max_messages_bytes=MIB, max_project_body_bytes=5 * MIB), 5 * MIB),
    ):
        memory = BodyMemory(settings)
        mine = project()
        memory.of_project(mine).add(largest - 1)
        memory.of_project(mine).add(1)
        with pytest.raises(Overloaded, match="Your project"):
            memory.of_project(mine).add(1)


@pytest.mark.parametrize(
    ("max_messages", "max_project"), [(33 * MIB, None), (None, 31 * MIB), (5 * MIB, 4 * MIB)]
)
def test_a_limit_below_the_largest_body_is_refused(
    max_messages: int | None, max_project: int | None
) -> None:
    sizes = {"max_messages_bytes": max_messages, "max_project_body_bytes": max_project}
    text = "LLMRING_MAX_PROJECT_BODY_BYTES must be at least LLMRING_MAX_MESSAGES_BYTES"
    with pytest.raises(ValueError, match=text):
        Settings(**{name: size for name, size in sizes.items() if size})


def test_all_projects_have_no_more_than_there_is() -> None:
    memory = BodyMemory(Settings(max_messages_bytes=MIB))
    reservations = [memory.of_project(project()) for _ in range(3)]
    for reservation in reservations:
        reservation.add(32 * MIB)
    last = memory.of_project(project())
    with pytest.raises(Overloaded, match="The server"):
        last.add(1)
    reservations[0].release()
    last.add(32 * MIB)
    # What was refused is not counted, and what is released twice is released once.
    last.release()
    last.release()
    assert memory.used["all"] == 64 * MIB


def test_forged_signatures_of_one_network_leave_half_to_others() -> None:
    memory = BodyMemory(Settings())
    for _ in range(48):
        memory.of_claimed_project(project(), HERE).add(MIB)
    with pytest.raises(Overloaded, match="Your network"):
        memory.of_claimed_project(project(), HERE).add(MIB)
    assert memory.used["all"] == body_memory.MAX_BYTES // 2
    memory.of_claimed_project(project(), THERE).add(32 * MIB)


# Giving back.


async def in_full(upload: Upload) -> None:
    await upload.finish(GOOD[50:])


async def beyond_the_limit(upload: Upload) -> None:
    for _ in range(2):
        await upload.send(b" " * 200 * KIB)


async def too_late(upload: Upload) -> None:
    async with asyncio.timeout(LONGEST):
        await upload.request
    assert upload.status == 408


ENDS: dict[str, tuple[bytes, Callable[[Upload], Any]]] = {
    "stored": (GOOD[:50], in_full),
    "not JSON": (b"}", in_full),
    "invalid": (b"[", lambda upload: upload.finish(b"]")),
    "too many values": (b"[", lambda upload: upload.finish(b"0," * 100_000)),
    "beyond the limit": (GOOD[:50], beyond_the_limit),
    "client gone": (GOOD[:50], Upload.disconnect),
    "cancelled": (GOOD[:50], Upload.cancel),
    "too late": (GOOD[:50], too_late),
}


@pytest.mark.parametrize("path", [LOG, "/api/v1/logs/batch", EXCHANGES, REGISTER, VERIFY])
@pytest.mark.parametrize("end", ENDS)
async def test_memory_is_given_back_however_a_request_ends(
    db: AsyncDatabaseManager, monkeypatch: pytest.MonkeyPatch, path: str, end: str
) -> None:
    if end == "too late":
        monkeypatch.setattr(request_limits, "BODY_GRACE_SECONDS", 0.05)
    app = app_of(db)
    start, finish = ENDS[end]
    for cuts in (1, 5):
        upload = Upload(app, path)
        size = -(-len(start) // cuts)
        for first in range(0, len(start), size):
            await upload.send(start[first : first + size])
        assert end == "too late" or app.body_memory.used["all"] == len(start)
        await finish(upload)
        if end == "beyond the limit" and not upload.request.done():
            await upload.disconnect()
        assert not app.body_memory.used
