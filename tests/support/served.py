"""Servers started from the command line, and clients that send raw bytes."""

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
    """Send as much as the server accepts, and read until it closes the connection."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), LONGEST) as connection:
        with suppress(ConnectionError):
            connection.sendall(data)
        with suppress(ConnectionError):
            while part := connection.recv(64 * 1024):
                received += part
    return bytes(received)


async def ask(port: int, data: bytes) -> bytes:
    return await asyncio.to_thread(exchange, port, data)


def statuses(received: bytes) -> list[int]:
    return [int(response[:3]) for response in received.split(b"HTTP/1.1 ")[1:]]


class Served:
    """A running `llmring-server serve`."""

    def __init__(self, port: int, process: asyncio.subprocess.Process) -> None:
        self.port = port
        self.process = process

    def peak(self) -> int:
        """Return the peak memory of the process in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def reset_peak(self) -> None:
        """Make the peak begin at what the process has in memory now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


def is_live(port: int) -> bool:
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
        await until(lambda: is_live(port))
        yield Served(port, process)
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), LONGEST)
