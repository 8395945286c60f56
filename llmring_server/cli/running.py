"""Running servers: `serve` reports which database it uses to the other commands of its user.

Each server has a file in the user's runtime directory and holds a lock on it. The lock ends with
the process, however it ends, so a file without a lock is stale, also if its process id was reused.
"""

import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

_FILES = "serve-*.json"


class RunningServer(NamedTuple):
    """A `serve` of this user; without a data directory, its database has been configured."""

    pid: int
    env: str
    data_dir: Path | None

    @property
    def database(self) -> str:
        if self.data_dir:
            return f"the data in {self.data_dir}"
        if self.env == "test":
            return "a temporary database"
        return "the database that its LLMRING_DATABASE_URL names"


@contextmanager
def reported(env: str, data_dir: Path | None) -> Iterator[None]:
    """Report this process as a server until the end of the block, if there is a place for it."""
    pid = os.getpid()
    report = {"pid": pid, "env": env, "data_dir": data_dir and str(data_dir.expanduser().resolve())}
    folder = next(filter(_is_usable, _folders()), None)
    if folder is None:
        yield
        return
    for stale in [path for path, server in _files(folder) if server is None]:
        stale.unlink(missing_ok=True)
    path, unfinished = folder / f"serve-{pid}.json", folder / f"new-{pid}"
    with unfinished.open("w") as file:
        # Before the file has its name: readers take a file without a lock for a stale one.
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(report))
        file.flush()
        unfinished.rename(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def running_servers() -> list[RunningServer]:
    """List the servers of this user that are running."""
    folders = [folder for folder in _folders() if _is_private(folder)]
    servers = [server for folder in folders for _, server in _files(folder) if server]
    return sorted(servers, key=lambda server: server.pid)


def _files(folder: Path) -> Iterator[tuple[Path, RunningServer | None]]:
    """Yield each file and its server; None if it has ended."""
    for path in sorted(folder.glob(_FILES)):
        with suppress(FileNotFoundError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                report = json.load(file)
                data_dir = report["data_dir"]
                yield (
                    path,
                    RunningServer(report["pid"], report["env"], data_dir and Path(data_dir)),
                )
            else:
                yield path, None


def _folders() -> list[Path]:
    """Return where servers may report themselves, the best place first.

    A server that a login starts has XDG_RUNTIME_DIR, and one that the system starts may not.
    """
    user = os.geteuid()
    usual = Path(f"/run/user/{user}")
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or usual)
    if runtime != usual:
        return [runtime / "llmring-server"]
    shared = Path(tempfile.gettempdir(), f"llmring-server-{user}")
    own = [usual / "llmring-server", shared]
    return [Path("/run/llmring-server"), *own] if user == 0 else own


def _is_usable(folder: Path) -> bool:
    """Tell whether a server can report itself here; create the folder if it does not exist."""
    with suppress(OSError):
        folder.mkdir(mode=0o700)
    return _is_private(folder) and os.access(folder, os.W_OK)


def _is_private(folder: Path) -> bool:
    """Tell whether only this user can write here: another one could name a database of its own."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    is_shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not is_shared
