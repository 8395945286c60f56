"""Keep a PostgreSQL running while anyone shares a lock: run as a file, imports nothing of ours."""

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
SOCKET = ".s.PGSQL.5432"
SETTINGS = (
    *("listen_addresses=", "shared_buffers=128MB", "max_connections=100"),
    *("wal_level=minimal", "max_wal_senders=0", "log_checkpoints=off"),
    # A statement that fails would write its caller's values into the log.
    "log_min_messages=log",
)
# No PG* setting and no secret of ours is for PostgreSQL to see; not every macOS has C.UTF-8.
ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath}
ATTEMPTS = 5
PR_SET_PDEATHSIG = 1
# Where there is none, a server outlives its guardian until the next one ends it.
PRCTL = getattr(ctypes.CDLL(None), "prctl", None)


class DataDirectory:
    """What lies where in the data folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path / "data"
        self.log = path / "server.log"
        self.clients = path / "clients.lock"
        self.guardian = path / "guardian.lock"

    @property
    def sockets(self) -> Path:
        """Follow the link to a shorter place, where a socket's name could not be that long."""
        return (self.path / "sock").resolve()

    def answers(self) -> bool:
        """Log in as any client does: a server that recovers accepts connections, to refuse them."""
        body = struct.pack("!i", 3 << 16) + f"user\0{USER}\0database\0postgres\0\0".encode()
        with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
            client.settimeout(2)
            client.connect(str(self.sockets / SOCKET))
            client.sendall(struct.pack("!i", len(body) + 4) + body + b"X\0\0\0\4")
            return client.makefile("rb").read().startswith(b"R")
        return False


def take(lock: Path, kind: int) -> int | None:
    """Lock a file until the descriptor is closed, by us and by whoever inherits it."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        return descriptor
    os.close(descriptor)
    return None


def unprivileged() -> pwd.struct_passwd | None:
    """Choose who PostgreSQL runs as: oneself, unless one is root, whom it refuses."""
    if os.geteuid() != 0:
        return None
    for name in (os.environ.get("LLMRING_PG_OS_USER", ""), "postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise PermissionError("PostgreSQL refuses root: name a user with LLMRING_PG_OS_USER")


def launched(program: Path, *arguments: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start one of PostgreSQL's programs as the user that it may run as."""
    if user := unprivileged():
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}
    options |= {"cwd": "/", "env": ENVIRONMENT, "umask": 0o077, "stdin": subprocess.DEVNULL}
    return subprocess.Popen((program, *arguments), **options)  # noqa: S603 - a shell is not asked


def give(folder: Path) -> None:
    if user := unprivileged():
        os.chown(folder, user.pw_uid, user.pw_gid)


def barrier(folder: Path) -> Path | None:
    """Find what keeps the server's user out of `folder`."""
    enter = partial(launched, Path("/bin/sh"), "-c", 'cd "$0"', stderr=subprocess.DEVNULL)
    ways = filter(Path.is_dir, (*reversed(folder.parents), folder))
    return next((each for each in ways if enter(each).wait()), None)


def command_of(process: int) -> str:
    if sys.platform == "linux":
        with suppress(OSError):
            return os.fsdecode(Path(f"/proc/{process}/cmdline").read_bytes()).replace("\0", " ")
        return ""
    ps = launched(Path("/bin/ps"), "-wwocommand=", f"-p{process}", stdout=subprocess.PIPE)
    return os.fsdecode(ps.communicate()[0])


def is_server(process: int, data: Path) -> bool:
    """Tell a PostgreSQL on `data` from a stranger who has its old number."""
    program, _, arguments = command_of(process).strip().partition(" -D ")
    return program.endswith("postgres") and f"{arguments} ".startswith(f"{data} ")


def end(process: int, lives: Callable[[], bool]) -> None:
    """Ask for a fast shutdown, then for an immediate one."""
    for request in (signal.SIGINT, signal.SIGQUIT):
        with suppress(ProcessLookupError):
            os.kill(process, request)
        deadline = time.monotonic() + 30
        while lives() and time.monotonic() < deadline:
            time.sleep(0.02)


class Supervisor:
    def __init__(self, home: DataDirectory, programs: Path, linger: float) -> None:
        self.home, self.programs, self.linger = home, programs, linger
        self.clients = os.open(home.clients, os.O_RDWR)
        self.seen, self.over = time.monotonic(), False
        for request in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(request, self.finish)

    def finish(self, *_: object) -> None:
        self.over = True

    def wanted(self) -> bool:
        """Look for clients; without any keep the lock, so that none joins a server that stops."""
        try:
            fcntl.flock(self.clients, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.seen = time.monotonic()
        else:
            self.over = self.over or time.monotonic() - self.seen > self.linger
            if not self.over:
                fcntl.flock(self.clients, fcntl.LOCK_UN)
        return not self.over

    def settle(self) -> None:
        """End the server of an earlier guardian; its number alone may be a stranger's by now."""
        file = self.home.data / "postmaster.pid"
        if not file.exists():
            return
        number = file.read_text(errors="replace").partition("\n")[0]
        if number.isdigit() and is_server(int(number), self.home.data):
            end(int(number), lambda: is_server(int(number), self.home.data))
        # PostgreSQL still finds whoever uses these data, by the shared memory.
        file.unlink(missing_ok=True)

    def start(self) -> subprocess.Popen[bytes]:
        self.settle()
        settings = (*SETTINGS, f"unix_socket_directories={self.home.sockets}")
        options = [each for setting in settings for each in ("-c", setting)]
        tie = PRCTL and partial(PRCTL, PR_SET_PDEATHSIG, signal.SIGINT)
        server = self.programs / "postgres"
        return launched(server, "-D", self.home.data, *options, preexec_fn=tie)

    def watch(self, server: subprocess.Popen[bytes]) -> bool:
        """Stay until the server has ended; say whether it ever answered."""
        answered = False
        while server.poll() is None:
            answered = answered or self.home.answers()
            if not self.wanted():
                end(server.pid, lambda: server.poll() is None)
            time.sleep(0.1)
        return answered

    def guard(self) -> None:
        proven, failures = False, 0
        while self.wanted():
            answered = self.watch(self.start())
            proven, failures = proven or answered, 0 if answered else failures + 1
            if failures == ATTEMPTS and not proven:
                sys.exit(f"PostgreSQL ended {failures} times before it answered: giving up")
            time.sleep(min(5, 0.05 * 2**failures))


def main(linger: str, home: str, programs: str) -> None:
    # Whoever starts us need not stay to reap us.
    if os.fork():
        return
    guardian = Supervisor(DataDirectory(Path(home)), Path(programs), float(linger))
    guardian.home.guardian.write_text(f"{os.getpid()}\n")
    guardian.guard()
    with suppress(OSError):
        guardian.home.sockets.rmdir()


if __name__ == "__main__":
    main(*sys.argv[1:])
