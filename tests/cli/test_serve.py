"""Serving in a program with `Server`, and from the command line with `serve`."""

import asyncio
import fcntl
import gc
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Server, Settings, create_app
from llmring_server.cli.running import RunningServer, running_servers
from llmring_server.cli.serve import application
from llmring_server.db.postgres_supervisor import DataDirectory, lock_file
from llmring_server.server.in_process import listen
from tests.cli.test_db import ENVIRONMENT, PROGRAM, run, with_password
from tests.conftest import CALL
from tests.faults.test_kills import children, has_no_supervisor, until
from tests.support.invalid_wire_requests import get
from tests.support.postgres import make_cluster, wait_until_stopped
from tests.support.served import ask, statuses

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]

LOG = "/api/v1/log"
ROOT = Path(__file__).parents[2]
PROGRAMS = f"{Path(PROGRAM).parent}{os.pathsep}{os.environ['PATH']}"


class Serving(NamedTuple):
    """A running `llmring-server serve`."""

    process: Process
    output: Path
    client: httpx.AsyncClient

    def text(self) -> str:
        return self.output.read_text()

    async def find_client(self) -> None:
        """Wait until the server has printed its URL."""
        async with asyncio.timeout(60):
            while not (printed := re.search(r"API +(\S+)", self.text())):
                assert self.process.returncode is None, self.text()
                await asyncio.sleep(0.02)
        self.client.base_url = httpx.URL(printed[1])

    async def ids(self) -> list[str]:
        response = await self.client.get("/api/v1/logs?limit=500")
        return sorted(log["id"] for log in response.raise_for_status().json())

    async def log(self) -> str:
        response = await self.client.post(LOG, json=CALL)
        return str(response.raise_for_status().json()["log_id"])

    async def end(self, request: signal.Signals) -> int:
        self.process.send_signal(request)
        return await asyncio.wait_for(self.process.wait(), 60)


Serve = Callable[..., AbstractAsyncContextManager[Serving]]


def supervisor_of(data_dir: Path) -> int:
    return int((data_dir / "supervisor.lock").read_text())


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """A data folder that PostgreSQL can enter, removed when its supervisor has ended."""
    data_dir = Path(tempfile.mkdtemp(prefix="llmring-"))
    data_dir.chmod(0o711)
    make_cluster(data_dir)
    yield data_dir
    deadline = time.monotonic() + 30
    while lock_file(data_dir / "supervisor.lock", fcntl.LOCK_EX) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    shutil.rmtree(data_dir)


@pytest.fixture
def serve(data_dir: Path, tmp_path: Path, key: str) -> Serve:
    @asynccontextmanager
    async def serve(*options: str, **settings: str) -> AsyncIterator[Serving]:
        output = tmp_path / uuid4().hex
        with output.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *(PROGRAM, "serve", "--port", "0", "--data-dir", str(data_dir), *options),
                env=ENVIRONMENT | settings, stdout=file, stderr=file,
            )  # fmt: skip
        try:
            async with httpx.AsyncClient(headers={"X-API-Key": key}, timeout=30) as client:
                serving = Serving(process, output, client)
                await serving.find_client()
                yield serving
        finally:
            if process.returncode is None:
                await serving.end(signal.SIGKILL)

    return serve


async def test_in_process_server_serves_until_it_is_stopped(ring: Ring) -> None:
    server = Server(ring, port=0)
    await server.start()
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        assert (await client.get("/health")).json()["status"] == "healthy"
        await server.stop()
        with pytest.raises(httpx.ConnectError):
            await client.get("/health")
    await ring.ping()


async def test_two_in_process_servers_serve_separate_rings(
    db: AsyncDatabaseManager, ring: Ring, key: str
) -> None:
    open_ring = Ring(db, Settings(auth="open"))
    async with (
        Server(ring, port=0) as first,
        Server(open_ring, port=0) as second,
        httpx.AsyncClient(headers={"X-API-Key": key}, timeout=60) as client,
    ):
        assert (await client.post(first.url + LOG, json=CALL)).status_code == 401
        assert (await client.post(second.url + LOG, json=CALL)).status_code == 200


async def test_in_process_server_raises_if_its_port_is_in_use(ring: Ring) -> None:
    async with Server(ring, port=0) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            await Server(ring, port=port).start()


async def test_ctrl_c_stops_serve_cleanly_without_data_loss(serve: Serve) -> None:
    async with serve() as first:
        logged = await first.log()
        assert await first.end(signal.SIGINT) == 0
        assert first.text().endswith("Stopped.\n")
    async with serve() as second:
        assert await second.ids() == [logged]


async def test_second_serve_on_a_data_directory_shares_its_database(serve: Serve) -> None:
    async with serve() as first, serve() as second:
        logged = [await first.log(), await second.log()]
        assert await first.ids() == await second.ids() == sorted(logged)
        assert await first.end(signal.SIGINT) == 0
        assert len(await second.ids()) == 2


async def test_killed_serve_loses_no_acknowledged_calls(serve: Serve) -> None:
    acknowledged, enough = set(), asyncio.Event()

    async def keep_logging(server: Serving) -> None:
        with suppress(httpx.TransportError):
            while True:
                acknowledged.add(await server.log())
                if len(acknowledged) == 100:
                    enough.set()

    async with serve() as first, asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(keep_logging(first))
        await enough.wait()
        await first.end(signal.SIGKILL)
    async with serve() as second:
        assert acknowledged <= set(await second.ids())


async def test_serve_recovers_when_its_database_and_supervisor_are_killed(
    serve: Serve, data_dir: Path
) -> None:
    async with serve() as first:
        logged = await first.log()
        os.kill(supervisor_of(data_dir), signal.SIGKILL)
        await first.end(signal.SIGKILL)
    async with serve() as second:
        assert await second.ids() == [logged]


async def test_two_workers_serve_the_same_calls(serve: Serve) -> None:
    async with serve("--workers", "2") as server:
        logged = [await server.log() for _ in range(20)]
        assert await server.ids() == sorted(logged)
        assert await server.end(signal.SIGINT) == 0
        assert server.text().count("Waiting for child process") == 2


def processes_below(process: int) -> set[int]:
    below = set(children(process))
    return below.union(*(processes_below(child) for child in below))


def is_running(process: int) -> bool:
    """Tell whether a process runs; one that has ended and was not waited for does not."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_workers_and_the_embedded_postgresql_end_with_a_killed_parent(
    serve: Serve, data_dir: Path
) -> None:
    async with serve("--workers", "2") as server:
        await server.log()
        workers = processes_below(server.process.pid)
        assert len(workers) >= 2
        await server.end(signal.SIGKILL)
        await until(lambda: not any(map(is_running, workers)))
        with listen("127.0.0.1", server.client.base_url.port or 0):
            pass
        await until(lambda: has_no_supervisor(DataDirectory(data_dir)))
        assert not (data_dir / "data/postmaster.pid").exists()


async def test_procfile_enforces_the_request_limits_of_serve(
    db: AsyncDatabaseManager, url: str, tmp_path: Path
) -> None:
    prod = {"LLMRING_DATABASE_URL": url, "LLMRING_DATABASE_SCHEMA": db.schema or ""}
    processes = dict(
        line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines() if line
    )
    # On the loopback interface and any free port.
    web = re.sub(r"--host \S+", "--host 127.0.0.1", processes["web"])
    command = shlex.split(web.replace("$PORT", "0"))
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *command, env=ENVIRONMENT | {"PATH": PROGRAMS} | prod, stdout=file, stderr=file
        )
    try:
        async with httpx.AsyncClient(timeout=30) as client:
            await Serving(process, output, client).find_client()
            assert (await client.get("/health/ready")).status_code == 200
            # Only the protocol of `serve` refuses the URL of another host.
            port = client.base_url.port or 0
            assert statuses(await ask(port, get(target=b"http://elsewhere.example/health"))) == [
                400
            ]
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize("is_of_serve", [False, True])
async def test_only_serve_tunes_garbage_collection(
    settings: Settings, *, is_of_serve: bool
) -> None:
    app = application(settings) if is_of_serve else create_app(settings=settings)
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        async with app.router.lifespan_context(app):
            is_tuned = gc.get_threshold() != before and gc.get_freeze_count() > frozen
            is_untouched = gc.get_threshold() == before and gc.get_freeze_count() <= frozen
        assert (is_tuned, is_untouched) == (is_of_serve, not is_of_serve)
    finally:
        gc.set_threshold(*before)
        if is_of_serve:
            gc.unfreeze()


async def test_serve_does_not_print_the_database_password(
    serve: Serve, db: AsyncDatabaseManager, url: str
) -> None:
    secret = url if urlsplit(url).password else with_password(url, "canary")
    prod = {"LLMRING_DATABASE_URL": secret, "LLMRING_DATABASE_SCHEMA": db.schema or ""}
    async with serve("--env", "prod", **prod) as server:
        assert await server.end(signal.SIGINT) == 0
        assert f":{urlsplit(secret).password}@" not in server.text()


@pytest.mark.parametrize(
    ("options", "is_logged"),
    [
        ((), True),
        (("--no-access-log",), False),
        (("--env", "prod"), False),
        (("--env", "prod", "--access-log"), True),
        (("--workers", "2"), True),
    ],
)
async def test_serve_logs_requests_in_dev_or_if_configured(
    serve: Serve, db: AsyncDatabaseManager, url: str, options: tuple[str, ...], *, is_logged: bool
) -> None:
    prod = {"LLMRING_DATABASE_URL": url, "LLMRING_DATABASE_SCHEMA": db.schema or ""}
    async with serve(*options, **(prod if "prod" in options else {})) as server:
        response = await server.client.get("/health/live?secret", headers={"X-API-Key": "canary"})
        assert await server.end(signal.SIGINT) == 0
        line = rf"^[\dT:.-]+Z GET /health/live 200 [\d.]+ ms {response.headers['X-Request-ID']}$"
        assert len(re.findall(line, server.text(), re.MULTILINE)) == is_logged
        assert server.text().count("/health/live") == is_logged
        assert "canary" not in server.text()


@pytest.fixture
def apart(tmp_path: Path) -> dict[str, str]:
    """Settings of a user who runs no other server."""
    return {"XDG_RUNTIME_DIR": str(tmp_path)}


@pytest.fixture
def beside() -> Iterator[Path]:
    """A second data directory."""
    folder = Path(tempfile.mkdtemp(prefix="llmring-"))
    make_cluster(folder)
    yield folder
    wait_until_stopped(DataDirectory(folder))
    shutil.rmtree(folder)


@pytest.fixture
def configured(db: AsyncDatabaseManager, url: str) -> dict[str, str]:
    """Settings with a database, and a password."""
    return {
        "LLMRING_DATABASE_URL": with_password(url, "canary"),
        "LLMRING_DATABASE_SCHEMA": db.schema or "",
    }


def running_servers_of(settings: dict[str, str]) -> list[RunningServer]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        return running_servers()


def reports(folder: Path) -> list[Path]:
    return sorted(folder.glob("llmring-server/*"))


async def command(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    ran = await asyncio.to_thread(run, *arguments, **settings)
    assert "Traceback" not in ran.stderr
    return ran


async def test_commands_use_the_database_of_the_running_server(
    serve: Serve, data_dir: Path, tmp_path: Path, apart: dict[str, str]
) -> None:
    async with serve(LLMRING_AUTH="keys", **apart) as server:
        issued = await command("keys", "issue", "--project", "shop", **apart)
        assert issued.stderr.startswith(f"Database: {data_dir} (embedded PostgreSQL)\n")
        assert "Starting PostgreSQL" not in issued.stderr
        server.client.headers["X-API-Key"] = issued.stdout.strip()
        await server.log()
        for arguments in (("projects", "list"), ("keys", "list"), ("audit",)):
            ran = await command(*arguments, **apart)
            assert (ran.returncode, ran.stderr) == (0, "")
        assert str(data_dir) in (await command("db", "url", **apart)).stdout
        [report] = reports(tmp_path)
        assert json.loads(report.read_text()) == {
            "pid": server.process.pid, "env": "dev", "data_dir": str(data_dir)
        }  # fmt: skip
        assert await server.end(signal.SIGINT) == 0
    assert reports(tmp_path) == []


async def test_a_data_directory_that_is_named_takes_precedence(
    serve: Serve, data_dir: Path, beside: Path, apart: dict[str, str]
) -> None:
    async with serve(**apart):
        for arguments, settings in (
            (("db", "url", "--data-dir", str(beside)), {}),
            (("db", "url"), {"LLMRING_DATA_DIR": str(beside)}),
        ):
            named = await command(*arguments, **apart | settings)
            assert str(beside) in named.stdout
            assert str(data_dir) not in named.stdout
        theirs = {"LLMRING_DATABASE_URL": "postgresql://ada@theirs.example/shop"}
        assert "theirs" in (await command("db", "url", **apart, **theirs)).stdout


async def test_among_several_servers_the_data_directory_must_be_named(
    serve: Serve, data_dir: Path, beside: Path, apart: dict[str, str]
) -> None:
    async with serve(**apart) as first, serve(**apart):
        # Both have the same database.
        assert str(data_dir) in (await command("db", "url", **apart)).stdout
        async with serve("--data-dir", str(beside), **apart) as third:
            refused = await command("keys", "issue", **apart)
            assert refused.returncode == 2
            for server, folder in ((first, data_dir), (third, beside)):
                assert f"  --data-dir {folder} (process {server.process.pid})" in refused.stderr
            assert "Several servers are running; choose one with --data-dir:" in refused.stderr
            assert refused.stdout == ""
            named = await command("db", "url", "--data-dir", str(beside), **apart)
            assert str(beside) in named.stdout
            assert await third.end(signal.SIGINT) == 0
        assert str(data_dir) in (await command("db", "url", **apart)).stdout


@pytest.mark.parametrize("env", ["dev", "prod"])
async def test_commands_say_that_the_server_has_a_database_of_its_own(
    serve: Serve, configured: dict[str, str], apart: dict[str, str], env: str
) -> None:
    async with serve("--env", env, **configured, **apart) as server:
        refused = await command("keys", "issue", **apart)
        assert refused.returncode == 2
        pid = server.process.pid
        assert (
            f"process {pid} uses the database that its LLMRING_DATABASE_URL names" in refused.stderr
        )
        assert "For the data that no server uses now, write --data-dir /" in refused.stderr
        [report] = reports(Path(apart["XDG_RUNTIME_DIR"]))
        assert "canary" not in report.read_text() + refused.stderr
        assert report.parent.stat().st_mode & 0o777 == 0o700
        found = await command("keys", "list", **configured, **apart)
        assert found.returncode == 0


async def test_the_report_of_a_killed_server_is_stale(
    serve: Serve, data_dir: Path, tmp_path: Path, apart: dict[str, str]
) -> None:
    async with serve(**apart) as killed:
        await killed.end(signal.SIGKILL)
    [stale] = reports(tmp_path)
    # The process id now belongs to another process.
    stale = stale.rename(stale.with_name(f"serve-{os.getpid()}.json"))
    assert running_servers_of(apart) == []
    async with serve(**apart) as server:
        assert [report.name for report in reports(tmp_path)] == [f"serve-{server.process.pid}.json"]
        assert str(data_dir) in (await command("db", "url", **apart)).stdout


async def test_reports_that_others_could_write_are_ignored(
    serve: Serve, tmp_path: Path, apart: dict[str, str]
) -> None:
    async with serve(**apart):
        (tmp_path / "llmring-server").chmod(0o777)
        assert running_servers_of(apart) == []
        (tmp_path / "llmring-server").chmod(0o700)
        assert len(running_servers_of(apart)) == 1


def workers_of(pid: int) -> list[int]:
    """Return the processes that uvicorn has started, without Python's resource tracker."""
    children = [
        int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ]
    return [
        child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


@pytest.mark.parametrize(
    ("workers", "option"),
    [
        (1, ()),
        pytest.param(2, ("--workers", "2"), marks=pytest.mark.full),
        pytest.param(1, ("--reload",), marks=pytest.mark.full),
    ],
    ids=["process", "workers", "reload"],
)
async def test_sighup_reloads_the_settings_file(  # noqa: PLR0913, PLR0917, they are fixtures
    serve: Serve,
    db: AsyncDatabaseManager,
    url: str,
    tmp_path: Path,
    workers: int,
    option: tuple[str, ...],
) -> None:
    file = tmp_path / "llmring.toml"
    base = f"database_url = '{url}'\ndatabase_schema = '{db.schema}'\nauth = 'open'\n"
    base += "database_pool_size = 1\n"
    file.write_text(base)
    file.chmod(0o600)
    headers = {"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
    options = ("--env", "prod", "--config", str(file), *option)
    async with serve(*options) as server:

        async def allowed() -> set[str | None]:
            # New connections, so that every worker answers some.
            # While no worker runs, they wait for the one that replaces it.
            base_url = server.client.base_url
            async with httpx.AsyncClient(base_url=base_url, timeout=60) as client:
                answers = [
                    await client.options("/", headers=headers | {"Connection": "close"})
                    for _ in range(1 if workers == 1 else 20)
                ]
            return {answer.headers.get("access-control-allow-origin") for answer in answers}

        async def hang_up(expected: str) -> None:
            before = server.text().count(expected)
            server.process.send_signal(signal.SIGHUP)
            await until(lambda: server.text().count(expected) == before + workers)

        assert await allowed() == {None}
        file.write_text(base + "cors_origins = ['https://a.example']\nlock_timeout = 3\n")
        await hang_up("Settings reloaded; changed: cors_origins.\n")
        assert await allowed() == {"https://a.example"}
        assert "These settings differ and take effect at a restart: lock_timeout." in server.text()
        file.write_text(base + "rate_burst = 'canary'\n")
        await hang_up(f"Settings not reloaded: {file}: rate_burst: Input should be")
        assert await allowed() == {"https://a.example"}
        assert "canary" not in server.text()
        if workers > 1:
            # Workers that replace others have the settings of these.
            for worker in workers_of(server.process.pid):
                os.kill(worker, signal.SIGKILL)
            assert await allowed() == {"https://a.example"}
        assert await server.end(signal.SIGINT) == 0


async def test_a_hangup_does_not_end_a_server_that_starts(tmp_path: Path) -> None:
    file = tmp_path / "llmring.toml"
    with socket.create_server(("127.0.0.1", 0)) as database:
        port = database.getsockname()[1]
        file.write_text(f"database_url = 'postgresql://u@127.0.0.1:{port}/x'\nauth = 'open'\n")
        process = await asyncio.create_subprocess_exec(
            *(PROGRAM, "serve", "--env", "prod", "--config", str(file), "--port", "0"),
            env=ENVIRONMENT,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            connection, _ = await asyncio.to_thread(database.accept)
        process.send_signal(signal.SIGHUP)
        with connection:
            # It refuses TLS, then the user.
            for answer in (b"N", b"E\x00\x00\x00\x17SFATAL\x00C28000\x00Mno\x00\x00"):
                await asyncio.to_thread(connection.recv, 1024)
                connection.sendall(answer)
    _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1, said.decode()
