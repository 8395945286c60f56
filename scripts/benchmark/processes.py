"""Processes of ours: started, awaited, ended; and what they cost, as far as the system tells."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGINT
from tempfile import TemporaryDirectory
from typing import Any

PROC = Path("/proc")
PATIENCE = 60
MIB = 2**20


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextmanager
def serving(
    command: Sequence[str], port: int, environment: Mapping[str, str], **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in an empty folder, from when it answers to the end of the block."""
    with TemporaryDirectory(prefix="bench-") as folder, Path(folder, "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603, commands of ours
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # A terminal's Ctrl-C is for us, who end it in due order.
            start_new_session=True,
            **options,
        )
        try:
            _await(process, port, Path(folder, "log"))
            yield process
        finally:
            end(process)


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            told = log.read_text(errors="replace")[-2000:]
            raise ChildProcessError(f"{process.args!r} does not serve:\n{told}")
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and see to it."""
    # Of PostgreSQL, SIGTERM would ask to wait until all clients have left.
    process.send_signal(SIGINT)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def await_end(pid: int | None) -> None:
    """Wait for the end of a process that somebody else ends."""
    deadline = time.monotonic() + PATIENCE
    while pid and (PROC / str(pid)).exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def _status(pid: int) -> list[int]:
    """Return a process's parent, and its ticks with those of its children that have ended."""
    # The name before the last parenthesis may hold anything, blanks too.
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return [int(fields[1]), sum(map(int, fields[11:15]))]


def _statuses() -> dict[int, list[int]]:
    found = {}
    for entry in PROC.glob("[0-9]*"):
        with suppress(OSError):
            found[int(entry.name)] = _status(int(entry.name))
    return found


def cpu_seconds(root: int | None) -> float | None:
    """Add up what a process and its descendants have used of the CPU; None if it is not here."""
    statuses = _statuses()
    if root not in statuses:
        return None
    family, size = {root}, 0
    while len(family) > size:
        size = len(family)
        family |= {pid for pid, (parent, _) in statuses.items() if parent in family}
    return sum(statuses[pid][1] for pid in family) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float | None:
    """Return how much memory a process holds."""
    with suppress(OSError):
        pages = int((PROC / str(pid) / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB
    return None
