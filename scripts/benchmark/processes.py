"""Start and stop server processes, and measure their CPU time and memory."""

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
START_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 30
MIB = 2**20


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def run_server(
    command: Sequence[str], port: int, environment: Mapping[str, str], **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in an empty directory, from when it accepts connections to the block's end."""
    with TemporaryDirectory(prefix="bench-") as directory:
        log_path = Path(directory, "log")
        with log_path.open("wb") as log:
            process = subprocess.Popen(  # noqa: S603, the commands are ours
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Keep Ctrl-C of the terminal from it: this process stops everything in order.
                start_new_session=True,
                **options,
            )
        try:
            _wait_until_it_accepts(process, port, log_path)
            yield process
        finally:
            _stop(process)


def _wait_until_it_accepts(process: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not _accepts_connections(port):
        if process.poll() is not None or time.monotonic() > deadline:
            log = log_path.read_text(errors="replace")[-2000:]
            raise ChildProcessError(f"{process.args!r} does not start:\n{log}")
        time.sleep(0.05)


def _accepts_connections(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    # SIGTERM would make PostgreSQL wait until every client has disconnected.
    process.send_signal(SIGINT)
    try:
        process.wait(STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for_exit(pid: int | None) -> None:
    """Wait until a process that is not a child of this one has ended."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while pid and (PROC / str(pid)).exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def cpu_seconds(root: int | None) -> float | None:
    """Return the CPU time of a process and its descendants; None if it does not run here."""
    processes = _all_processes()
    if root not in processes:
        return None
    tree, size = {root}, 0
    while len(tree) > size:
        size = len(tree)
        tree |= {pid for pid, (parent, _) in processes.items() if parent in tree}
    return sum(processes[pid][1] for pid in tree) / os.sysconf("SC_CLK_TCK")


def _all_processes() -> dict[int, tuple[int, int]]:
    """Return the parent and the CPU ticks of each process by its id."""
    found = {}
    for entry in PROC.glob("[0-9]*"):
        with suppress(OSError):
            # The name of the program, in parentheses, may itself contain blanks and parentheses.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            # User and system time, of the process and of its children that have ended.
            found[int(entry.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    return found


def resident_mib(pid: int) -> float | None:
    """Return the resident memory of a process; None if the system does not tell."""
    with suppress(OSError):
        pages = int((PROC / str(pid) / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB
    return None
