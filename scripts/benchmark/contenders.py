"""The servers that are measured: each one worker of uvicorn, without an access log."""

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from llmring_verify.receipt import base64url
from scripts.benchmark import peer
from scripts.benchmark.postgres import SCHEMA, database
from scripts.benchmark.processes import free_port, serving

ROOT = Path(__file__).parents[2]
FROM_HERE = ("--app-dir", str(ROOT))


class Contender(NamedTuple):
    """A server that runs, and its database, if it has one."""

    name: str
    port: int
    pid: int
    database: str | None = None

    def get(self, path: str, key: str) -> tuple[Message, Any]:
        """Ask once; return the headers and the body of the answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            connection.request("GET", path, headers={"X-API-Key": key})
            answer = connection.getresponse()
            return answer.headers, orjson.loads(answer.read())
        finally:
            connection.close()

    def post(self, path: str, key: str, body: Any) -> Any:
        """Send once; return the body of the answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=600)
        headers = {"X-API-Key": key, "Content-Type": "application/json"}
        try:
            connection.request("POST", path, orjson.dumps(body), headers)
            return orjson.loads(connection.getresponse().read())
        finally:
            connection.close()


def _uvicorn(python: Path, app: str, port: int, *options: str) -> list[str]:
    options = ("--host", "127.0.0.1", "--port", str(port), "--no-access-log", *options)
    return [str(python), "-m", "uvicorn", app, *options]


def _environment(url: str) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "LLMRING_AUTH": "open",
        "LLMRING_CONVERSATION_CONTENT": "full",
        "LLMRING_DATABASE_URL": url,
        "LLMRING_DATABASE_SCHEMA": SCHEMA,
    }


@contextmanager
def _ours(name: str, server: str, *command: str, **more: str) -> Iterator[Contender]:
    port = free_port()
    # As it is served in earnest.
    command = (*command, "serve", "--env", "prod", "--port", str(port))
    with database(server) as url, serving(command, port, _environment(url) | more) as process:
        yield Contender(name, port, process.pid, url)


def ours(server: str) -> AbstractContextManager[Contender]:
    return _ours("ours", server, str(Path(sys.executable).with_name("llmring-server")))


def signing(server: str) -> AbstractContextManager[Contender]:
    """Return ours with a key for receipts."""
    key = base64url(secrets.token_bytes(32))
    program = str(Path(sys.executable).with_name("llmring-server"))
    return _ours("signing", server, program, LLMRING_RECEIPTS_PRIVATE_KEY_B64=key)


def unguarded(server: str) -> AbstractContextManager[Contender]:
    return _ours("unguarded", server, sys.executable, str(Path(__file__).with_name("unguarded.py")))


@contextmanager
def theirs(server: str) -> Iterator[Contender]:
    port = free_port()
    command = _uvicorn(peer.python(), "llmring_server.main:app", port)
    with database(server) as url, serving(command, port, _environment(url)) as process:
        yield Contender("peer", port, process.pid, url)


@contextmanager
def bare(_: str) -> Iterator[Contender]:
    port = free_port()
    command = _uvicorn(Path(sys.executable), "scripts.benchmark.bare:app", port, *FROM_HERE)
    with serving(command, port, {"PATH": os.defpath}) as process:
        yield Contender("bare", port, process.pid)


Maker = Callable[[str], AbstractContextManager[Contender]]
ALONE: list[Maker] = [ours]
WITH_PEER: list[Maker] = [ours, theirs]


@contextmanager
def running(server: str, *makers: Maker) -> Iterator[list[Contender]]:
    """Run them side by side: who is not asked costs nothing."""
    with ExitStack() as stack:
        yield [stack.enter_context(make(server)) for make in makers]
