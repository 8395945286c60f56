"""Receipts over HTTP: made in four ways, listed, shown, kept."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.core.identity import ProjectId
from llmring_verify import legacy, receipt
from llmring_verify.keys import key_id
from tests.support.signing import KID, SEED, called, keyring

PATH = "/api/v1/receipts"
ALL = {"since_last_receipt": True}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings.model_validate(
        settings.model_dump() | {"receipts_private_key_b64": SEED, "receipt_issuer": "us"}
    )


@pytest.fixture
def ring(db: AsyncDatabaseManager) -> Ring:
    return Ring(db, Settings(conversation_content="full"), keyring())


async def made(client: httpx.AsyncClient, **wanted: Any) -> dict[str, Any]:
    answer = await client.post(f"{PATH}/generate", json=wanted or ALL)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def proved(told: dict[str, Any]) -> dict[str, Any]:
    """Check both signatures of a receipt, and return what it says."""
    key = keyring().active
    assert key.is_valid_signature(legacy.signed_bytes(told), legacy.signature(told))
    kid, signed, signature = receipt.open_envelope(told["envelope"])
    assert (kid, key.is_valid_signature(signed, signature)) == (KID, True)
    body: dict[str, Any] = told["envelope"]["receipt"]
    return body


async def test_generate_receipt_of_what_no_receipt_certifies(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    ids = await called(ring, project_id, *[{"cost": 0.1, "alias": f"a{n}"} for n in range(3)])
    answer = await made(client, **ALL, description="July", tags=["x", "y"])
    assert answer["certified_count"] == 3
    told = answer["receipt"]
    assert list(told)[:13] == list(legacy.FIELDS)
    assert (told["receipt_type"], told["model"]) == ("batch", "batch:3 calls")
    assert (told["provider"], told["alias"]) == ("openai", "mixed")
    assert (told["total_tokens"], told["total_cost"]) == (3600, 0.3)
    body = proved(told)
    assert (body["kind"], body["count"], body["issuer"]) == ("batch", 3, "us")
    assert (body["description"], body["tags"]) == ("July", ["x", "y"])
    assert body["totals"]["cost"]["amount"] == "0.3000000000"
    assert (body["project_id"], body["kid"]) == (str(project_id), KID)
    assert told["batch_summary"]["log_ids"] == sorted(ids)
    again = await client.post(f"{PATH}/generate", json=ALL)
    assert (again.status_code, again.json()["detail"]) == (
        400, "No logs found matching the criteria",
    )  # fmt: skip


async def test_generate_receipt_of_one_call_holds_it(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    call = {"cost": 0.0025, "alias": "fast", "reasoning_output_tokens": 5, "latency_ms": 70}
    [id] = await called(ring, project_id, call | {"metadata": {"secret": "s"}})
    told = (await made(client, log_ids=[id]))["receipt"]
    assert (told["receipt_type"], told["batch_summary"]) == ("single", None)
    assert (told["model"], told["alias"], told["profile"]) == ("gpt-4o-mini", "fast", "default")
    body = proved(told)
    assert (body["kind"], body["log_id"], body["latency_ms"]) == ("usage", id, 70)
    assert body["cost"] == {"currency": "USD", "amount": "0.0025000000", "source": "client"}
    assert body["details"] == {"reasoning_output_tokens": 5}
    assert "secret" not in str(told)


async def test_generate_receipt_of_a_span_of_time(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    times = [now - timedelta(days=days) for days in (1, 2, 3, 40)]
    await called(ring, project_id, *[{"logged_at": at.isoformat()} for at in times])
    # Naive times are UTC, both ends are included, and a date is its whole day.
    since, until = (f"{at:%Y-%m-%dT%H:%M:%S}" for at in (times[2], times[1]))
    assert (await made(client, start_date=since, end_date=until))["certified_count"] == 2
    for end, count in ((f"{times[1]:%Y-%m-%d}", 2), (f"{times[2]:%Y-%m-%d}", 1)):
        made_so = await made(client, start_date=f"{times[2]:%Y-%m-%d}", end_date=end)
        assert made_so["certified_count"] == count
    # What a receipt certifies may be certified again, but not as the rest.
    assert (await made(client))["certified_count"] == 2


async def test_generate_receipt_of_a_conversation_counts_each_call_once(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    sent = {
        "messages": [{"role": "user", "content": "hi"}],
        "response": {"content": "hello", "model": "gpt-4o-mini"},
        "metadata": {
            "provider": "openai", "model": "gpt-4o-mini", "profile": None,
            "input_tokens": 10, "output_tokens": 2, "cost": 0.5,
        },
    }  # fmt: skip
    answer = (await client.post("/api/v1/conversations/log", json=sent)).json()
    # Its client reports the call apart, too: that is the one that counts.
    assert answer["receipt"] is None
    id = answer["conversation_id"]
    linked = {"cost": 0.5, "metadata": {"conversation_id": id}}
    await called(ring, project_id, linked, {"cost": 1}, linked)
    told = (await made(client, conversation_id=id))["receipt"]
    assert (told["total_cost"], told["batch_summary"]["total_conversations"]) == (1, 1)
    assert told["batch_summary"]["conversation_ids"] == [id]
    assert (await made(client))["receipt"]["total_cost"] == 1


@pytest.mark.parametrize(
    ("wanted", "status"),
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
        (ALL | {"description": "x" * 1001}, 422),
        (ALL | {"description": "\0"}, 422),
        (ALL | {"tags": ["x" * 101]}, 422),
        (ALL | {"tags": ["x"] * 51}, 422),
        ({"log_ids": [str(uuid4())] * 10_001}, 422),
    ],
)
async def test_generate_receipt_refuses_what_makes_no_sense(
    client: httpx.AsyncClient,
    ring: Ring,
    project_id: ProjectId,
    wanted: dict[str, Any],
    status: int,
) -> None:
    await called(ring, project_id, {})
    answer = await client.post(f"{PATH}/generate", json=wanted)
    assert answer.status_code == status
    assert (await client.get(PATH)).json()["total"] == 0
    assert (await client.get(f"{PATH}/uncertified")).json()["total"] == 1


async def test_preview_receipt_says_what_the_receipt_will_say(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    empty = await client.post(f"{PATH}/preview", json=ALL)
    assert empty.json()["message"] == "No logs found matching the criteria"
    assert (empty.json()["total_logs"], empty.json()["total_cost"]) == (0, 0)
    await called(ring, project_id, {"cost": 0.1}, {"model": "o1", "alias": "slow", "cost": 0.2})
    told = (await client.post(f"{PATH}/preview", json=ALL)).json()
    assert (await client.get(PATH)).json()["total"] == 0
    summary = (await made(client))["receipt"]["batch_summary"]
    assert told["receipt_type"] == "batch"
    assert {name: told[name] for name in summary.keys() & told.keys()} == {
        name: summary[name] for name in summary.keys() & told.keys()
    }
    assert told["by_model"]["openai:o1"] == {"calls": 1, "cost": 0.2, "tokens": 1200}
    assert told["by_alias"].keys() == {"default", "slow"}


async def test_issue_receipt_signs_what_is_stored_and_nothing_else(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    [id] = await called(ring, project_id, {"cost": 0.1})
    first = await client.post(f"{PATH}/issue", json={"log_id": id, "total_cost": 5})
    assert proved(first.json())["log_id"] == id
    assert first.json()["total_cost"] == 0.1
    again = await client.post(f"{PATH}/issue", json={"log_id": id})
    assert again.content == first.content
    made_up = {
        "alias": "a", "provider": "p", "model": "m", "prompt_tokens": 1, "completion_tokens": 1,
        "total_tokens": 2, "input_cost": 1.0, "output_cost": 1.0, "total_cost": 2.0,
    }  # fmt: skip
    assert (await client.post(f"{PATH}/issue", json=made_up)).status_code == 422
    assert (await client.post(f"{PATH}/issue", json={"log_id": str(uuid4())})).status_code == 404
    nobody = await client.post(f"{PATH}/issue", json={"log_id": id}, headers={"X-API-Key": ""})
    assert nobody.status_code == 401
    assert (await client.get(PATH)).json()["total"] == 1


def test_the_key_s_id_is_of_its_spki() -> None:
    assert key_id(keyring().active.public) == KID
