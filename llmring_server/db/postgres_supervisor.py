"""Supervisor of the embedded PostgreSQL: keeps it running while any process holds a shared lock.

It runs as a file, in a separate process, and imports nothing of this package: it must start fast
and outlive the process that started it.
"""

import ctypes
import fcntl
import os
import pwd
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

USER = "llmring"
SOCKET_NAME = ".s.PGSQL.5432"
SETTINGS = (
    "listen_addresses=",
    "shared_buffers=128MB",
    "max_connections=100",
    "wal_level=minimal",
    "max_wal_senders=0",
    "log_checkpoints=off",
    # The log entry of a failed statement would contain its caller's values.
    "log_min_messages=log",
)
# PostgreSQL must see neither PG* variables nor secrets. Not every macOS has C.UTF-8.
ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath}
# How often PostgreSQL may end before it has ever answered.
MAX_FAILED_STARTS = 5
MAX_RESTART_PAUSE_SECONDS = 5.0
POLL_SECONDS = 0.1
SHUTDOWN_TIMEOUT_SECONDS = 30.0
LOGIN_TIMEOUT_SECONDS = 2.0
PR_SET_PDEATHSIG = 1
# Where this does not exist, a server outlives its supervisor until the next one stops it.
PRCTL = getattr(ctypes.CDLL(None), "prctl", None)


class DataDirectory:
    """The files in the data directory of an embedded PostgreSQL."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path / "data"
        self.log = path / "server.log"
        # Every client holds a shared lock of this file.
        self.clients_lock = path / "clients.lock"
        # The supervisor holds an exclusive lock of this file, and writes its process id into it.
        self.supervisor_lock = path / "supervisor.lock"

    @property
    def sockets(self) -> Path:
        """The directory of the socket: a link to a shorter path if the name would be too long."""
        return (self.path / "sock").resolve()

    def answers(self) -> bool:
        """Tell whether a client can log in.

        A connection alone proves nothing: during recovery, PostgreSQL accepts it and rejects the
        login.
        """
        body = struct.pack("!i", 3 << 16) + f"user\0{USER}\0database\0postgres\0\0".encode()
        startup = struct.pack("!i", len(body) + 4) + body
        terminate = b"X\0\0\0\4"
        with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
            client.settimeout(LOGIN_TIMEOUT_SECONDS)
            client.connect(str(self.sockets / SOCKET_NAME))
            client.sendall(startup + terminate)
            authentication = b"R"
            return client.makefile("rb").read().startswith(authentication)
        return False


def lock_file(path: Path, kind: int) -> int | None:
    """Lock a file and return its descriptor; None if another process holds the lock.

    The lock lasts until every copy of the descriptor is closed, also those that children inherit.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        return descriptor
    os.close(descriptor)
    return None


def postgres_user() -> pwd.struct_passwd | None:
    """Return the user to run PostgreSQL as; None: the current one. PostgreSQL rejects root."""
    if os.geteuid() != 0:
        return None
    if named := os.environ.get("LLMRING_PG_OS_USER"):
        try:
            return pwd.getpwnam(named)
        except KeyError:
            raise PermissionError("LLMRING_PG_OS_USER names no user of this system") from None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise PermissionError("PostgreSQL cannot run as root: name a user with LLMRING_PG_OS_USER")


def spawn(program: Path, *arguments: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a program as the user that PostgreSQL runs as."""
    if user := postgres_user():
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}
    options |= {"cwd": "/", "env": ENVIRONMENT, "umask": 0o077, "stdin": subprocess.DEVNULL}
    return subprocess.Popen((program, *arguments), **options)  # noqa: S603 - no shell is involved


def chown_to_postgres(folder: Path) -> None:
    if user := postgres_user():
        os.chown(folder, user.pw_uid, user.pw_gid)


def inaccessible_ancestor(folder: Path) -> Path | None:
    """Return the first directory on the way to `folder` that PostgreSQL's user cannot enter."""
    for ancestor in (*reversed(folder.parents), folder):
        if not ancestor.is_dir():
            continue
        shell = spawn(Path("/bin/sh"), "-c", 'cd "$0"', ancestor, stderr=subprocess.DEVNULL)
        if shell.wait() != 0:
            return ancestor
    return None


def command_of(process: int) -> str:
    if sys.platform == "linux":
        with suppress(OSError):
            return os.fsdecode(Path(f"/proc/{process}/cmdline").read_bytes()).replace("\0", " ")
        return ""
    ps = spawn(Path("/bin/ps"), "-wwocommand=", f"-p{process}", stdout=subprocess.PIPE)
    output, _ = ps.communicate()
    return os.fsdecode(output)


def is_postgres_on(process: int, data: Path) -> bool:
    """Tell whether a process is a PostgreSQL on `data`: its id may have been reused."""
    program, _, arguments = command_of(process).strip().partition(" -D ")
    return program.endswith("postgres") and f"{arguments} ".startswith(f"{data} ")


def stop(process: int, is_running: Callable[[], bool]) -> None:
    """Request a fast shutdown, and if that takes too long, an immediate one."""
    for request in (signal.SIGINT, signal.SIGQUIT):
        with suppress(ProcessLookupError):
            os.kill(process, request)
        deadline = time.monotonic() + SHUTDOWN_TIMEOUT_SECONDS
        while is_running() and time.monotonic() < deadline:
            time.sleep(0.02)


class Supervisor:
    """Runs one PostgreSQL, restarts it when it ends, and stops it when no client is left."""

    def __init__(self, directory: DataDirectory, programs: Path, linger: float) -> None:
        self.directory = directory
        self.programs = programs
        # How long PostgreSQL keeps running without clients, in seconds.
        self.linger = linger
        self.clients_lock = os.open(directory.clients_lock, os.O_RDWR)
        self.last_client_at = time.monotonic()
        self.is_stopping = False
        for request in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(request, self.request_stop)

    def request_stop(self, *_: object) -> None:
        self.is_stopping = True

    def has_clients(self) -> bool:
        """Tell whether to go on. Once not, keep the lock: no client may join a stopping server."""
        try:
            fcntl.flock(self.clients_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.last_client_at = time.monotonic()
        else:
            if time.monotonic() - self.last_client_at > self.linger:
                self.is_stopping = True
            if not self.is_stopping:
                fcntl.flock(self.clients_lock, fcntl.LOCK_UN)
        return not self.is_stopping

    def stop_orphan(self) -> None:
        """Stop the server of an earlier supervisor, if it still runs."""
        pid_file = self.directory.data / "postmaster.pid"
        if not pid_file.exists():
            return
        line = pid_file.read_text(errors="replace").partition("\n")[0]
        if line.isdigit():
            process = int(line)
            is_orphan = partial(is_postgres_on, process, self.directory.data)
            if is_orphan():
                stop(process, is_orphan)
        # PostgreSQL still detects another server on these data by its shared memory.
        pid_file.unlink(missing_ok=True)

    def start(self) -> subprocess.Popen[bytes]:
        self.stop_orphan()
        settings = (*SETTINGS, f"unix_socket_directories={self.directory.sockets}")
        options = [option for setting in settings for option in ("-c", setting)]
        # A supervisor that is killed takes its server with it.
        die_with_parent = PRCTL and partial(PRCTL, PR_SET_PDEATHSIG, signal.SIGINT)
        program = self.programs / "postgres"
        return spawn(program, "-D", self.directory.data, *options, preexec_fn=die_with_parent)

    def watch(self, server: subprocess.Popen[bytes]) -> bool:
        """Wait until the server has ended; return whether it ever answered."""
        answered = False
        while server.poll() is None:
            answered = answered or self.directory.answers()
            if not self.has_clients():
                stop(server.pid, lambda: server.poll() is None)
            time.sleep(POLL_SECONDS)
        return answered

    def run(self) -> None:
        """Keep PostgreSQL running while there are clients."""
        has_ever_answered = False
        failures = 0
        while self.has_clients():
            if self.watch(self.start()):
                has_ever_answered = True
                failures = 0
            else:
                failures += 1
            if failures == MAX_FAILED_STARTS and not has_ever_answered:
                sys.exit(f"PostgreSQL ended {failures} times before it answered: giving up")
            time.sleep(min(MAX_RESTART_PAUSE_SECONDS, 0.05 * 2**failures))


def main(linger: str, path: str, programs: str) -> None:
    # The process that starts the supervisor need not stay to reap it.
    if os.fork():
        return
    directory = DataDirectory(Path(path))
    supervisor = Supervisor(directory, Path(programs), float(linger))
    directory.supervisor_lock.write_text(f"{os.getpid()}\n")
    supervisor.run()
    with suppress(OSError):
        directory.sockets.rmdir()


if __name__ == "__main__":
    main(*sys.argv[1:])
