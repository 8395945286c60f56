"""Issuing receipts over HTTP: `generate` in its four ways, `preview` and `issue`."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.asgi import ASGIFactory
from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import new_id
from llmring_server.receipts import ReceiptRequest
from llmring_verify import legacy
from llmring_verify.canonical_json import MAX_SAFE_INTEGER
from tests.support.receipts import PATH, UNCERTIFIED_BODY, generate, log_calls, verified_body
from tests.support.signing import KID, keyring

NO_CALLS = "No logs found matching the criteria"


async def test_generate_receipt_of_uncertified_calls(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    ids = await log_calls(ring, project_id, *[{"cost": 0.1, "alias": f"a{n}"} for n in range(3)])
    result = await generate(client, **UNCERTIFIED_BODY, description="July", tags=["x", "y"])
    assert (result["certified_count"], result["has_more"], result["skipped_count"]) == (3, False, 0)
    receipt = result["receipt"]
    assert list(receipt)[:13] == list(legacy.FIELDS)
    assert (receipt["receipt_type"], receipt["model"]) == ("batch", "batch:3 calls")
    assert (receipt["provider"], receipt["alias"]) == ("openai", "mixed")
    assert (receipt["total_tokens"], receipt["total_cost"]) == (3600, 0.3)
    body = verified_body(receipt)
    assert (body["kind"], body["count"], body["issuer"]) == ("batch", 3, "us")
    assert (body["description"], body["tags"]) == ("July", ["x", "y"])
    assert body["totals"]["cost"]["amount"] == "0.3000000000"
    assert (body["project_id"], body["kid"]) == (str(project_id), KID)
    assert receipt["batch_summary"]["log_ids"] == sorted(ids)
    again = await client.post(f"{PATH}/generate", json=UNCERTIFIED_BODY)
    assert (again.status_code, again.json()["detail"]) == (400, NO_CALLS)


async def test_generate_receipt_of_one_call_contains_it(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    call = {"cost": 0.0025, "alias": "fast", "reasoning_output_tokens": 5, "latency_ms": 70}
    [id] = await log_calls(ring, project_id, call | {"metadata": {"secret": "s"}})
    receipt = (await generate(client, log_ids=[id]))["receipt"]
    assert (receipt["receipt_type"], receipt["batch_summary"]) == ("single", None)
    labels = receipt["model"], receipt["alias"], receipt["profile"]
    assert labels == ("gpt-4o-mini", "fast", "default")
    body = verified_body(receipt)
    assert (body["kind"], body["log_id"], body["latency_ms"]) == ("usage", id, 70)
    assert body["cost"] == {"currency": "USD", "amount": "0.0025000000", "source": "client"}
    assert body["details"] == {"reasoning_output_tokens": 5}
    assert "secret" not in str(receipt)


async def test_generate_receipt_of_a_period(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    times = [now - timedelta(days=days) for days in (1, 2, 3, 40)]
    await log_calls(ring, project_id, *[{"logged_at": at.isoformat()} for at in times])
    # Naive times are UTC, both ends are included, and a date is the whole day.
    since, until = (f"{at:%Y-%m-%dT%H:%M:%S}" for at in (times[2], times[1]))
    result = await generate(client, start_date=since, end_date=until)
    assert result["certified_count"] == 2
    for end, count in ((f"{times[1]:%Y-%m-%d}", 2), (f"{times[2]:%Y-%m-%d}", 1)):
        result = await generate(client, start_date=f"{times[2]:%Y-%m-%d}", end_date=end)
        assert result["certified_count"] == count
    # Certified calls can be certified again, but are not uncertified.
    assert (await generate(client))["certified_count"] == 2


async def test_generate_receipt_of_a_conversation_counts_each_call_once(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    exchange = {
        "messages": [{"role": "user", "content": "hi"}],
        "response": {"content": "hello", "model": "gpt-4o-mini"},
        "metadata": {
            "provider": "openai",
            "model": "gpt-4o-mini",
            "profile": None,
            "input_tokens": 10,
            "output_tokens": 2,
            "cost": 0.5,
        },
    }
    logged = (await client.post("/api/v1/conversations/log", json=exchange)).json()
    # With a profile, the client also logs the call by itself. That is the call that counts.
    assert logged["receipt"] is None
    id = logged["conversation_id"]
    linked = {"cost": 0.5, "metadata": {"conversation_id": id}}
    await log_calls(ring, project_id, linked, {"cost": 1}, linked)
    receipt = (await generate(client, conversation_id=id))["receipt"]
    assert receipt["total_cost"] == 1
    assert receipt["batch_summary"]["total_conversations"] == 1
    assert receipt["batch_summary"]["conversation_ids"] == [id]
    assert (await generate(client))["receipt"]["total_cost"] == 1


async def test_generate_receipt_of_a_conversation_finds_calls_with_old_times(
    ring: Ring, project_id: ProjectId
) -> None:
    id = new_id()
    old = (datetime.now(UTC) - timedelta(days=399)).isoformat()
    linked = {"metadata": {"conversation_id": str(id)}}
    await log_calls(ring, project_id, linked, linked | {"logged_at": old})
    result = await ring.receipts.generate(project_id, ReceiptRequest(conversation_id=id))
    assert result["certified_count"] == 2


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"start_date": "2026-01-01"}, 400),
        ({"log_ids": []}, 400),
        ({"log_ids": [str(uuid4())]}, 400),
        ({"conversation_id": str(uuid4())}, 400),
        ({"log_ids": ["x"]}, 422),
        ({"since_last_receipt": "yes"}, 422),
        ({"start_date": 5, "end_date": 6}, 422),
        ({"start_date": "2026-01-03", "end_date": "2026-01-01"}, 422),
        (UNCERTIFIED_BODY | {"description": "x" * 1001}, 422),
        (UNCERTIFIED_BODY | {"description": "\0"}, 422),
        (UNCERTIFIED_BODY | {"tags": ["x" * 101]}, 422),
        (UNCERTIFIED_BODY | {"tags": ["x"] * 51}, 422),
        ({"log_ids": [str(uuid4())] * 10_001}, 422),
    ],
)
async def test_generate_receipt_rejects_invalid_requests(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId, body: dict[str, Any], status: int
) -> None:
    await log_calls(ring, project_id, {})
    response = await client.post(f"{PATH}/generate", json=body)
    assert response.status_code == status
    assert (await client.get(PATH)).json()["total"] == 0
    assert (await client.get(f"{PATH}/uncertified")).json()["total"] == 1


async def test_generate_receipt_rejects_totals_that_json_cannot_count(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    largest = {"input_tokens": MAX_SAFE_INTEGER, "output_tokens": 0}
    ids = await log_calls(ring, project_id, *[largest] * 1100)
    for path in ("generate", "preview"):
        response = await client.post(f"{PATH}/{path}", json={"log_ids": ids})
        assert (response.status_code, response.json()["code"]) == (422, "validation_error")


async def test_preview_receipt_shows_what_generate_would_certify(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    empty = (await client.post(f"{PATH}/preview", json=UNCERTIFIED_BODY)).json()
    assert (empty["message"], empty["total_logs"], empty["total_cost"]) == (NO_CALLS, 0, 0)
    slow = {"model": "o1", "alias": "slow", "cost": 0.2}
    await log_calls(ring, project_id, {"cost": 0.1}, slow)
    preview = (await client.post(f"{PATH}/preview", json=UNCERTIFIED_BODY)).json()
    assert (await client.get(PATH)).json()["total"] == 0
    summary = (await generate(client))["receipt"]["batch_summary"]
    assert preview["receipt_type"] == "batch"
    common = summary.keys() & preview.keys()
    assert {name: preview[name] for name in common} == {name: summary[name] for name in common}
    assert preview["by_model"]["openai:o1"] == {"calls": 1, "cost": 0.2, "tokens": 1200}
    assert preview["by_alias"].keys() == {"default", "slow"}


async def test_issue_receipt_signs_the_stored_call_only(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    [id] = await log_calls(ring, project_id, {"cost": 0.1})
    first = await client.post(f"{PATH}/issue", json={"log_id": id, "total_cost": 5})
    assert verified_body(first.json())["log_id"] == id
    assert first.json()["total_cost"] == 0.1
    again = await client.post(f"{PATH}/issue", json={"log_id": id})
    assert again.content == first.content
    # Older servers signed any receipt that they were sent.
    unsigned = {
        "alias": "a",
        "provider": "p",
        "model": "m",
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "total_tokens": 2,
        "input_cost": 1.0,
        "output_cost": 1.0,
        "total_cost": 2.0,
    }
    assert (await client.post(f"{PATH}/issue", json=unsigned)).status_code == 422
    assert (await client.post(f"{PATH}/issue", json={"log_id": str(uuid4())})).status_code == 404
    no_key = await client.post(f"{PATH}/issue", json={"log_id": id}, headers={"X-API-Key": ""})
    assert no_key.status_code == 401
    assert (await client.get(PATH)).json()["total"] == 1


async def test_a_project_has_few_places_for_long_reads(
    db: AsyncDatabaseManager, project_id: ProjectId, key: str
) -> None:
    # Of five connections, one is for long statements and one for long transactions.
    ring = Ring(
        db, Settings(auth="open", acquire_timeout=0.5, statement_timeout=0.5), keyring=keyring()
    )
    [log_id] = await log_calls(ring, project_id, {})
    result = await ring.receipts.generate(project_id, ReceiptRequest(since_last_receipt=True))
    id = result["receipt"]["receipt_id"]
    transport = httpx.ASGITransport(app=ASGIFactory(ring.settings).around(ring))
    async with httpx.AsyncClient(
        transport=transport, base_url=f"http://test{PATH}", headers={"X-API-Key": key}
    ) as client:
        database = ring._database
        async with database.long_statement(project_id), database.long_transaction(project_id):
            responses = await asyncio.gather(
                client.get(f"/{id}/logs"),
                client.get(f"/{id}/proof/{log_id}"),
                client.get(f"/{id}/export"),
                client.get("/uncertified"),
                client.post("/generate", json=UNCERTIFIED_BODY),
                client.post("/preview", json={"log_ids": [log_id]}),
                client.post("/issue", json={"log_id": log_id}),
            )
            assert {response.status_code for response in responses} == {429}
        free = await client.post("/preview", json={"log_ids": [log_id]})
        assert free.status_code == 200


async def test_a_summary_is_bounded_and_adds_up(ring: Ring, project_id: ProjectId) -> None:
    calls = [{"model": f"m{n}", "metadata": {"conversation_id": str(uuid4())}} for n in range(105)]
    await log_calls(ring, project_id, *calls)
    result = await ring.receipts.generate(project_id, ReceiptRequest(since_last_receipt=True))
    summary = result["receipt"]["batch_summary"]
    assert summary
    assert (summary["total_calls"], summary["total_conversations"]) == (105, 105)
    assert len(summary["by_model"]) == 101
    assert summary["by_model"]["(others)"]["calls"] == 5
    assert sum(group["calls"] for group in summary["by_model"].values()) == 105
    assert (len(summary["log_ids"]), len(summary["conversation_ids"])) == (100, 100)
