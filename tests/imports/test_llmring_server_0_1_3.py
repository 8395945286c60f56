"""The import of a database that llmring-server 0.1.3 itself created and filled."""

import re
import subprocess
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from llmring_server.core.identity import project_of_key
from scripts.benchmark.postgres import (
    execute,
    fetch,
    running_cluster,
    system_programs,
    temporary_database,
)
from scripts.benchmark.servers import ServerUnderTest, peer
from tests.cli.test_db import ENVIRONMENT, PROGRAM
from tests.faults.test_kills import seeded_random

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("processes")]

KEYS = ("sk-first-key", "sk-second-key")
USER, PROJECT = "6f1c9f1e-2f57-4d3a-9a3e-0d7d5a0c1b11", "6f1c9f1e-2f57-4d3a-9a3e-0d7d5a0c1b22"
KILLS = 12
# More calls of the same owners, so that an import takes a while.
MORE_CALLS = """
INSERT INTO usage_logs (api_key_id, model, provider, input_tokens, output_tokens, cost, created_at)
SELECT '{key}', 'gpt-4o', 'openai', n % 100, 1, n * 0.00000017, now() - n * interval '7 seconds'
FROM generate_series(1, 40000) AS n
"""
SUMS = {
    "calls": "SELECT count(*), sum(input_tokens + output_tokens)::bigint, sum(cost)"
    " FROM usage_logs",
    "messages": "SELECT count(*), sum(input_tokens)::bigint, sum(output_tokens)::bigint"
    " FROM messages",
    "conversations": "SELECT count(*), sum(message_count)::bigint, sum(total_input_tokens)::bigint,"
    " sum(total_cost) FROM conversations",
    "executions": "SELECT count(*), sum(duration_ms)::bigint FROM mcp_client.{executions}",
    "servers": "SELECT count(*) FROM mcp_client.servers",
    "templates": "SELECT name, created_by, is_active, usage_count FROM {templates}",
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A PostgreSQL with pgcrypto, which 0.1.3 needs: that of the operating system."""
    if system_programs() is None:
        pytest.fail("there is no PostgreSQL with pgcrypto: apt-get install postgresql")
    with running_cluster(None, with_extensions=True) as url:
        yield url


@pytest.fixture(scope="module")
def old(cluster: str) -> Iterator[str]:
    """The URL of the database of a 0.1.3, which its own code has filled."""
    with peer(cluster) as server:
        assert server.database
        for key in KEYS:
            fill(server, key)
            execute(server.database, MORE_CALLS.format(key=key))
        # Its own code cannot create one, unless a parent's pool encodes JSON.
        execute(
            server.database,
            "INSERT INTO conversation_templates (api_key_id, name, created_by)"
            " VALUES ('sk-first-key', 'Support', 'ann')",
        )
        yield server.database


def fill(server: ServerUnderTest, key: str) -> None:
    """Post every kind of data, as the client does."""
    for number in range(50):
        call = {
            "provider": "openai",
            "model": "gpt-4o-mini",
            "input_tokens": 100 + number,
            "output_tokens": 10,
            "cost": 0.00001234 * number,
            "alias": "fast",
            "origin": "test",
            "id_at_origin": f"{key}-{number}",
            "metadata": {"number": number},
        }
        server.post("/api/v1/log", key, call)
    for number in range(10):
        logged = {
            "messages": [{"role": "user", "content": f"Question {number}"}],
            "response": {"content": f"Answer {number}", "model": "gpt-4o-mini"},
            "metadata": {
                "provider": "openai",
                "model": "gpt-4o-mini",
                "cost": 0.0001,
                "input_tokens": 7,
                "output_tokens": 3,
            },
        }
        server.post("/api/v1/conversations/log", key, logged)
    server_id = server.post(
        "/api/v1/mcp/servers",
        key,
        {
            "name": "files",
            "url": "https://mcp.example.org/mcp",
            "transport_type": "http",
            "auth_config": {"token": "secret"},
        },
    )["id"]
    tool = {"server_id": server_id, "name": "read", "input_schema": {"type": "object"}}
    tool_id = server.post("/api/v1/mcp/tools", key, tool)["id"]
    for number in range(5):
        execution = {"input": {"n": number}, "output": {"ok": True}, "duration_ms": number}
        server.post(f"/api/v1/mcp/tools/{tool_id}/execute", key, execution)


def sums_of(url: str, **tables: str) -> dict[str, Any]:
    return {name: tuple(fetch(url, sql.format(**tables))[0]) for name, sql in SUMS.items()}


def environment_of(url: str) -> dict[str, str]:
    own = {"LLMRING_DATABASE_URL": url, "LLMRING_SEALING_KEYS": "11" * 32, "LLMRING_AUTH": "open"}
    return ENVIRONMENT | own


def start_import(old: str, new: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [PROGRAM, "import", "llmring", "--env", "prod", "--from", old],
        env=environment_of(new),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def new(cluster: str) -> Iterator[str]:
    with temporary_database(cluster) as url:
        create = [PROGRAM, "db", "create", "--env", "prod"]
        subprocess.run(create, env=environment_of(url), check=True, capture_output=True)
        yield url


def test_everything_is_imported_once_although_the_import_is_killed(old: str, new: str) -> None:
    random = seeded_random()
    for _ in range(KILLS):
        process = start_import(old, new)
        try:
            process.communicate(timeout=random.uniform(0.5, 3))
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    process = start_import(old, new)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stdout + stderr
    assert "not stored" not in stdout
    expected = sums_of(old, executions="tool_executions", templates="conversation_templates")
    here = {"executions": "executions", "templates": "templates"}
    assert sums_of(new, **here) == expected
    again = start_import(old, new)
    stdout, _ = again.communicate()
    assert re.search(r"^stored: 0$", stdout, re.MULTILINE)
    assert sums_of(new, **here) == expected
    projects = {row[0] for row in fetch(new, "SELECT DISTINCT project_id FROM usage_logs")}
    assert projects == {UUID(str(project_of_key(key))) for key in KEYS}
    for key in KEYS:
        assert key not in stdout + stderr
