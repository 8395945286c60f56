"""Exports: all selected calls, as CSV or as JSON lines."""

import csv
import io
import json

import httpx

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.usage.models import NewCall
from tests.conftest import CALL

BATCH = "/api/v1/logs/batch"


async def test_export_calls_as_csv_that_is_safe_to_open(client: httpx.AsyncClient) -> None:
    aliases = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", 'say "hi"', "two\nlines", "plain", "ünï"]
    await client.post(BATCH, json=[CALL | {"alias": alias, "cost": 0.5} for alias in aliases])
    response = await client.get("/api/v1/logs/export?format=csv")
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert response.headers["Content-Disposition"] == 'attachment; filename="calls.csv"'
    rows = list(csv.DictReader(io.StringIO(response.text, newline="")))
    expected = ["'" + alias if alias[0] in "=+-@\t\r" else alias for alias in aliases]
    assert sorted(row["alias"] for row in rows) == sorted(expected)
    assert {row["cost"] for row in rows} == {"0.5"}


async def test_export_calls_as_lines_equals_the_list(client: httpx.AsyncClient) -> None:
    await client.post(BATCH, json=[CALL | {"model": model, "cost": 1} for model in "aabb"])
    response = await client.get("/api/v1/logs/export?format=jsonl&model=a")
    listed = (await client.get("/api/v1/logs?model=a")).json()
    assert [json.loads(line) for line in response.text.splitlines()] == listed
    assert len(listed) == 2


async def test_export_calls_without_calls(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/v1/logs/export?format=jsonl")).text == ""
    assert (await client.get("/api/v1/logs/export")).text.startswith("id,logged_at,provider,")
    assert (await client.get("/api/v1/logs/export?format=xlsx")).status_code == 422


async def test_export_calls_in_more_than_one_chunk(ring: Ring, project_id: ProjectId) -> None:
    await ring.usage.log_many(project_id, [NewCall(**CALL)] * 1700)
    exported = [(call.logged_at, call.id) async for call in ring.usage.export(project_id)]
    assert len(set(exported)) == 1700
    assert exported == sorted(exported, reverse=True)


async def test_export_leaves_the_callers_transaction_unchanged(
    ring: Ring, project_id: ProjectId
) -> None:
    async with ring.db.transaction() as tx:
        await tx.execute("SET LOCAL idle_in_transaction_session_timeout = '33s'")
        assert [call async for call in ring.within(tx).usage.export(project_id)] == []
        assert await tx.fetch_value("SHOW idle_in_transaction_session_timeout") == "33s"
