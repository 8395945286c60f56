"""`llmring-server stats`: the exact totals of a project, in tables and as JSON."""

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.usage.models import NewCall
from tests.cli.test_db import check_output, prod, run
from tests.conftest import CALL

__all__ = ["prod"]

PROD = ("--env", "prod")
EMPTY = "0 calls, 0 tokens, 0.00 USD"


@pytest.fixture
async def project(owner: AsyncDatabaseManager) -> tuple[str, ProjectId, Ring]:
    """A project with a name, and a ring whose role may write."""
    name, ring = f"shop-{uuid4().hex[:8]}", Ring(owner)
    return name, await ring.projects.create(name, actor=LIBRARY), ring


async def test_tables_show_exact_totals(
    project: tuple[str, ProjectId, Ring], prod: dict[str, str]
) -> None:
    name, project_id, ring = project
    calls = [
        CALL | {"cost": "0.00036", "alias": "fast"},
        CALL | {"cost": "1234.5", "status": "error", "origin": "shop"},
        CALL | {"model": "no-such-model"},
    ]
    for call in calls:
        await ring.usage.log(project_id, NewCall(**call))
    shown = check_output("stats", "--project", name, *PROD, **prod)
    lines = [" ".join(line.replace("│", " ").split()) for line in shown.splitlines()]
    assert lines[0].startswith(f"Project {name}, ")
    assert lines[1] == (
        "3 calls (1 failed, 1 without a known price), 3,600 tokens, 1,234.50036 USD"
    )
    today = f"{datetime.now(UTC):%Y-%m-%d} (partial)"
    assert f"{today} 3 1 1,234.50036 gpt-4o-mini" in lines
    assert "gpt-4o-mini 2 1 2,000 400 0 1,234.50036" in lines
    assert "no-such-model 1 0 1,000 200 0 0.00" in lines
    assert "fast 1 0 1,000 200 0 0.00036" in lines
    assert "shop 1 1 1,000 200 0 1,234.50" in lines
    printed = json.loads(check_output("stats", "--project", name, "--json", *PROD, **prod))
    assert printed["summary"]["total_requests"] == 3
    assert printed["summary"]["total_cost"] == "1234.50036"
    assert printed["by_origin"]["shop"]["cost"] == 1234.5
    tomorrow = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}"
    later = check_output("stats", "--project", name, "--start-date", tomorrow, *PROD, **prod)
    assert later.splitlines()[1:] == [EMPTY]


def test_what_cannot_be_read_is_refused(prod: dict[str, str]) -> None:
    name = f"none-{uuid4().hex}"
    unknown = run("stats", "--project", name, *PROD, **prod)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    hours = ("--group-by", "hour", "--start-date", "2026-01-01")
    long = run("stats", *hours, *PROD, **prod)
    assert long.returncode == 2
    assert "at most 31 days long" in long.stderr
