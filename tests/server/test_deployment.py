"""Deployment: proxies and units of systemd, as docs/deployment.md has them."""

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from llmring_server import Ring
from llmring_server.access.audit import AuditPage
from llmring_server.access.keys import IssuedKey, KeyOptions
from llmring_server.core.identity import LIBRARY
from llmring_server.server.in_process import listen, uvicorn_options
from llmring_server.server.protocol import KEEP_ALIVE_SECONDS
from llmring_server.settings import Settings
from tests.conftest import CALL
from tests.faults.test_kills import LONGEST, until
from tests.support.served import is_live, serve

DOCUMENT = Path(__file__).parents[2] / "docs" / "deployment.md"
UNITS = re.compile(r"```ini\n(\[Unit\]\n.*?)```", re.DOTALL)
# Another address of this machine than the proxies', and its network in the audit log.
CLIENT, NETWORK = "127.5.6.7", "127.5.6.0/24"
REQUESTS = 100
MIB = 2**20


class Proxy(NamedTuple):
    """A proxy: its program, the package that has it, and how it is started in a folder."""

    package: str
    program: str
    language: str
    prepare: Callable[[str, Path, str, str], list[str]]


def start_nginx(config: str, folder: Path, port: str, server: str) -> list[str]:
    """Return the arguments for a server that keeps all its files in the folder."""
    config = config.replace("listen 80;", f"listen 127.0.0.1:{port};")
    config = config.replace("127.0.0.1:8000", f"127.0.0.1:{server}")
    names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{name}_temp_path {folder}/{name};\n" for name in names)
    log = f"pid {folder}/pid; error_log {folder}/error.log; daemon off;"
    if os.geteuid() == 0:
        # Its workers use files in the folder, which only its owner may enter.
        log = f"user root; {log}"
    main = f"{log} events {{}} http {{ access_log off;\n{paths}{config}\n}}"
    (folder / "nginx.conf").write_text(main)
    return ["-p", str(folder), "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"]


def start_caddy(config: str, folder: Path, port: str, server: str) -> list[str]:
    config = config.replace("example.org {", f"http://127.0.0.1:{port} {{", 1)
    config = config.replace("127.0.0.1:8000", f"127.0.0.1:{server}")
    (folder / "Caddyfile").write_text(f"{{\n\tadmin off\n}}\n{config}")
    return ["run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]


PROXIES = {
    "nginx": Proxy("nginx", "usr/sbin/nginx", "nginx", start_nginx),
    "caddy": Proxy("caddy", "usr/bin/caddy", "caddyfile", start_caddy),
}


def documented(language: str) -> str:
    """Return the only block of the document in this language."""
    [block] = re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return str(block)


def program_of(proxy: Proxy, folder: Path) -> str:
    """Return the installed program, or that of the distribution's package, unpacked here."""
    installed = shutil.which(Path(proxy.program).name, path=f"{os.defpath}:/usr/sbin")
    if installed:
        return installed
    download = ("apt-get", "download", proxy.package)
    if not shutil.which("apt-get") or subprocess.run(download, cwd=folder, check=False).returncode:
        pytest.fail(f"there is no {proxy.package}: apt-get install {proxy.package}")
    [package] = folder.glob("*.deb")
    subprocess.run(("/usr/bin/dpkg", "-x", package, folder), check=True)
    return str(folder / proxy.program)


class Front(NamedTuple):
    """A proxy that runs, the port of the server behind it, and a key."""

    url: str
    server_port: int
    key: IssuedKey


@asynccontextmanager
async def running(proxy: Proxy, ring: Ring, folder: Path) -> AsyncIterator[Front]:
    settings = ring.settings
    given = {
        "database_url": settings.database_url or "",
        "database_schema": settings.database_schema,
        "trusted_proxies": "127.0.0.1",
    }
    options = KeyOptions(scopes=["log:write", "read", "conversations", "admin"])
    key = await ring.keys.issue("app", options, actor=LIBRARY)
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    config = documented(proxy.language)
    async with serve(given, folder / "server.log") as server:
        arguments = proxy.prepare(config, folder, str(port), str(server.port))
        process = await asyncio.create_subprocess_exec(
            *(program_of(proxy, folder), *arguments),
            env={"PATH": os.defpath, "HOME": str(folder)},
            stderr=subprocess.DEVNULL,
        )
        try:
            await until(lambda: answers(port))
            yield Front(f"http://127.0.0.1:{port}/llmring", server.port, key)
        finally:
            process.terminate()
            await asyncio.wait_for(process.wait(), LONGEST)


def answers(port: int) -> bool:
    try:
        url = f"http://127.0.0.1:{port}/llmring/health/ready"
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def connections_to(port: int) -> int:
    """Count the connections to a port of this machine, also those that were closed lately."""
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(row.split()[2].endswith(f":{port:04X}") for row in rows)


def test_documented_configurations_fit_the_limits_of_the_server() -> None:
    nginx = documented("nginx")
    [body] = re.findall(r"client_max_body_size (\d+)m;", nginx)
    assert int(body) * MIB == Settings().max_messages_bytes
    for seconds in re.findall(r"keepalive(?:_timeout)? (\d+)s", nginx + documented("caddyfile")):
        assert int(seconds) < KEEP_ALIVE_SECONDS
    service, maintenance, timer = UNITS.findall(DOCUMENT.read_text())
    [stop] = re.findall(r"^TimeoutStopSec=(\d+)s$", service, re.MULTILINE)
    assert int(stop) > uvicorn_options(Settings())["timeout_graceful_shutdown"]
    for unit in (service, maintenance):
        [command] = re.findall(r"^ExecStart=\S+/llmring-server (.*)$", unit, re.MULTILINE)
        assert "--env prod" in command
    assert "OnCalendar=daily" in timer


@pytest.mark.full
def test_systemd_accepts_the_documented_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.fail("there is no systemd-analyze: apt-get install systemd")
    names = ("llmring-server.service", "llmring-maintain.service", "llmring-maintain.timer")
    units = UNITS.findall(DOCUMENT.read_text())
    for name, unit in zip(names, units, strict=True):
        # The verifier looks for the program.
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit, flags=re.MULTILINE)
        (tmp_path / name).write_text(text)
        command = [program, "verify", "--man=no", str(tmp_path / name)]
        verified = subprocess.run(command, check=False, capture_output=True, text=True)
        own = [line for line in verified.stderr.splitlines() if str(tmp_path) in line]
        assert (verified.returncode, own) == (0, []), verified.stderr


@pytest.mark.full
@pytest.mark.xdist_group("processes")
@pytest.mark.parametrize("name", PROXIES)
async def test_the_server_behind_a_proxy(name: str, alone: Ring, tmp_path: Path) -> None:
    async with running(PROXIES[name], alone, tmp_path) as front:
        transport = httpx.AsyncHTTPTransport(local_address=CLIENT)
        headers = {"X-API-Key": front.key.secret, "X-Forwarded-For": "192.0.2.1"}
        async with httpx.AsyncClient(
            transport=transport, base_url=front.url, headers=headers, timeout=60
        ) as client:
            await check_prefix_and_connections(client, front)
            await check_bodies(client)
            if name == "nginx":
                await check_limit(client)
            await check_export(client, front)
            await check_address(client, alone, front)
    assert is_live(front.server_port) is False


async def check_prefix_and_connections(client: httpx.AsyncClient, front: Front) -> None:
    """Links lead to the same place, and connections to the server are used again."""
    before = connections_to(front.server_port)
    for _ in range(REQUESTS):
        assert (await client.post("/api/v1/log", json=CALL)).status_code == 200
    assert connections_to(front.server_port) - before < REQUESTS / 10
    seen: list[Any] = []
    url = httpx.URL("/api/v1/logs?limit=30")
    while (page := await client.get(url)).json():
        seen += page.json()
        link = re.fullmatch(r'<(.*)>; rel="next"', page.headers["Link"])
        assert link
        url = page.url.join(link[1])
    assert len(seen) == REQUESTS


async def check_bodies(client: httpx.AsyncClient) -> None:
    """A body of 20 MiB arrives."""
    conversation = (await client.post("/api/v1/conversations", json={})).json()
    path = f"/api/v1/conversations/{conversation['id']}/messages/batch"
    message = {"role": "user", "content": "words " * (MIB // 3)}
    stored = await client.post(path, json={"messages": [message] * 10})
    assert stored.status_code == 200


async def check_limit(client: httpx.AsyncClient) -> None:
    """The proxy itself refuses a body that the server would refuse."""
    refused = await client.post("/api/v1/conversations", content=b" " * 33 * MIB)
    assert refused.status_code == 413
    assert "nginx" in refused.headers["Server"]


async def check_export(client: httpx.AsyncClient, front: Front) -> None:
    """An export has all calls, and nothing of it was written to a file of the proxy."""
    for _ in range(20):
        batch = [CALL | {"metadata": {"text": "x" * 1000}}] * 500
        assert (await client.post("/api/v1/logs/batch", json=batch)).status_code == 200
    direct = f"http://127.0.0.1:{front.server_port}/api/v1/logs/export"
    headers = {"Accept-Encoding": "identity"}
    exported = await client.get("/api/v1/logs/export", headers=headers)
    assert exported.content == (await client.get(direct, headers=headers)).content
    assert exported.content.count(b"\n") >= REQUESTS + 10_000


async def check_address(client: httpx.AsyncClient, ring: Ring, front: Front) -> None:
    """The audit log has the client's address, not that of the proxy or one that was made up."""
    issued = await client.post("/api/v1/keys", json={"scopes": ["read"]})
    assert issued.status_code == 200
    since = datetime.now(UTC) - timedelta(hours=1)
    newest, *_ = await ring.audit.events(since, front.key.project_id, AuditPage())
    assert newest.remote == NETWORK
