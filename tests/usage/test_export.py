"""Exports: all selected calls, as CSV or as JSON lines."""

import csv
import io
import json

import httpx
from pgdbm import AsyncDatabaseManager

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


async def test_stored_json_is_sent_as_it_is(
    client: httpx.AsyncClient, owner: AsyncDatabaseManager, ring: Ring, project_id: ProjectId
) -> None:
    """Also JSON that a newer or an older server has written in another way."""
    stored = '{"n": 1.10,\n"list" : [ 1e2 ]}'
    logged = await ring.usage.log(project_id, NewCall(**CALL))
    await owner.execute(
        "UPDATE {{tables.usage_logs}} SET metadata = $1 WHERE id = $2", stored, logged.log_id
    )
    listed = await client.get("/api/v1/logs")
    assert f'"metadata":{stored},' in listed.text
    # A line break between tokens would end the line.
    on_one_line = stored.replace("\n", " ")
    lines = await client.get("/api/v1/logs/export?format=jsonl")
    assert f'"metadata":{on_one_line},' in lines.text
    assert len(lines.text.splitlines()) == 1
    [row] = csv.DictReader(io.StringIO((await client.get("/api/v1/logs/export")).text, newline=""))
    assert row["metadata"] == stored
    [call] = await ring.usage.logs(project_id)
    assert call.metadata == {"n": 1.1, "list": [100]}


async def test_every_cell_of_csv_is_quoted_as_python_does(
    client: httpx.AsyncClient,
) -> None:
    texts = ["a,b", '"', "a\r\nb", " a ", "a;b", "'", "a\t", "a\x0bb", "\u2028", '{"a": "b"}']
    await client.post(BATCH, json=[CALL | {"alias": text, "cost": 1} for text in texts])
    exported = (await client.get("/api/v1/logs/export")).text
    rows = list(csv.reader(io.StringIO(exported, newline="")))
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    assert written.getvalue() == exported
    assert {row[4] for row in rows[1:]} == {*texts}
