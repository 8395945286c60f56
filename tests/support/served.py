"""Servers as users start them, and clients that write bytes."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from llmring_server.server.in_process import listen
from tests.cli.test_db import ENVIRONMENT, PROGRAM
from tests.faults.test_kills import LONGEST, until
from tests.support.invalid_wire_requests import get


def exchange(port: int, data: bytes) -> bytes:
    """Send, as far as the other side lets us, and read all that it says until it closes."""
    told = bytearray()
    with socket.create_connection(("127.0.0.1", port), LONGEST) as connection:
        with suppress(ConnectionError):
            connection.sendall(data)
        with suppress(ConnectionError):
            while part := connection.recv(64 * 1024):
                told += part
    return bytes(told)


async def ask(port: int, data: bytes) -> bytes:
    return await asyncio.to_thread(exchange, port, data)


def statuses(told: bytes) -> list[int]:
    return [int(each[:3]) for each in told.split(b"HTTP/1.1 ")[1:]]


class Served:
    """`llmring-server serve`, as users start it."""

    def __init__(self, port: int, process: asyncio.subprocess.Process) -> None:
        self.port = port
        self.process = process

    def peak(self) -> int:
        """Return the most memory that it ever held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def answers(port: int) -> bool:
    with suppress(OSError):
        return statuses(exchange(port, get(target=b"/health/live"))) == [200]
    return False


@asynccontextmanager
async def serve(given: dict[str, str], output: Path) -> AsyncIterator[Served]:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    environ = ENVIRONMENT | {f"LLMRING_{name.upper()}": value for name, value in given.items()}
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(PROGRAM, "serve", "--env", "prod", "--port", str(port)),
            env=environ,
            stdout=file,
            stderr=file,
        )
    try:
        await until(lambda: answers(port))
        yield Served(port, process)
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), LONGEST)
