"""Hosts: the server inside FastAPI, Starlette, Quart, a script, and a thread."""

import asyncio
import os
import sys
import threading
import urllib.request
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import orjson
import pytest

from llmring_server import NewCall, Settings
from llmring_server.core.identity import project_of_key
from tests.conftest import CALL, SCHEMA
from tests.support.hosts import HOSTS, PREFIX, USER, ServerThread, serving
from tests.support.postgres import database

SCRIPT = """
import asyncio, os
from llmring_server import NewCall, Ring, Settings, project_of_key

async def main():
    url = os.environ["DATABASE_URL"]
    settings = Settings(database_url=url, database_schema="tested", registry_url="none")
    project = project_of_key("my-app")
    async with Ring.open(settings) as ring:
        call = NewCall(provider="openai", model="gpt-4o-mini", input_tokens=1200, output_tokens=300)
        await asyncio.gather(*(ring.usage.log(project, call) for _ in range(10)))
        stats = await ring.usage.stats(project)
        print(stats.summary.total_requests, stats.summary.total_cost)

asyncio.run(main())
"""


@pytest.fixture
def own_database(server_url: str, template: str) -> AbstractAsyncContextManager[str]:
    return database(server_url, "host", template)


@pytest.mark.parametrize("name", HOSTS)
async def test_a_web_framework_serves_it_beside_its_own_routes(
    name: str, own_database: AbstractAsyncContextManager[str]
) -> None:
    async with own_database as url:
        before = asyncio.all_tasks()
        async with serving(HOSTS[name](url, SCHEMA)) as client:
            assert (await client.post("/answers", json=CALL)).json() == {"cost": "0.00027"}
            logged = await client.post(PREFIX + "/api/v1/log", json=CALL, headers=USER)
            assert logged.json()["cost"] == 0.00027
            calls = await client.get(PREFIX + "/api/v1/logs", headers=USER, params={"limit": 1})
            assert len(calls.json()) == 1
            next_page = calls.url.join(calls.links["next"]["url"])
            assert len((await client.get(next_page, headers=USER)).json()) == 1
            openapi = (await client.get(PREFIX + "/openapi.json")).json()
            assert openapi["servers"] == [{"url": PREFIX}]
            assert (await client.get(PREFIX + "/api/v1/logs")).status_code == 401
            assert (await client.get(PREFIX + "/api/v1/log")).status_code == 405
            assert (await client.get(PREFIX + "/health/ready")).status_code == 200
            assert (await client.get("/api/v1/logs", headers=USER)).status_code == 404
            stats = (await client.get(PREFIX + "/api/v1/stats", headers=USER)).json()
            assert stats["summary"]["total_requests"] == 2
        assert asyncio.all_tasks() == before


async def test_a_script_ends_by_itself_and_leaves_nothing_open(
    own_database: AbstractAsyncContextManager[str], tmp_path: Path
) -> None:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    async with own_database as url:
        # Python then reports what was not closed; it reports what was not awaited in any case.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "default::ResourceWarning", path),
            env=os.environ | {"DATABASE_URL": url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, errors.decode()) == (0, "")
    assert output.decode() == "10 0.0036\n"


async def test_a_synchronous_program_runs_it_in_a_thread(
    own_database: AbstractAsyncContextManager[str], key: str
) -> None:
    def program(url: str) -> tuple[int, int]:
        settings = Settings(database_url=url, database_schema=SCHEMA, auth="open")
        with ServerThread(settings) as server:
            request = urllib.request.Request(  # noqa: S310, the server's own URL
                server.url + "/api/v1/log",
                orjson.dumps(CALL),
                {"X-API-Key": key, "Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
                status: int = response.status
            project = project_of_key(key)
            server.run(server.ring.usage.log(project, NewCall(**CALL)))
            return status, server.run(server.ring.usage.stats(project)).summary.total_requests

    async with own_database as url:
        threads = threading.enumerate()
        assert await asyncio.to_thread(program, url) == (200, 2)
        assert len(threading.enumerate()) <= len(threads) + 1  # that of to_thread
