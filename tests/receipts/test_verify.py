"""Verifying and storing receipts over HTTP, in each of their forms."""

import json
from copy import deepcopy
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_verify import legacy
from llmring_verify.receipt import base64url
from tests.support.receipts import PATH, UNCERTIFIED_BODY, generate, log_calls, verify
from tests.support.signing import KID, LEGACY_RECEIPT, keyring

JSON = {"Content-Type": "application/json"}
LONE_SURROGATE = "\udc00"


def without_envelope(receipt: dict[str, Any]) -> dict[str, Any]:
    """Return the 13 fields and their signature."""
    return {name: receipt[name] for name in LEGACY_RECEIPT}


async def test_verify_receipt_reports_what_was_proved(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    await log_calls(ring, project_id, {"cost": 0.1}, {})
    response = await generate(client, **UNCERTIFIED_BODY, tags=["t"])
    receipt = response["receipt"]
    for document, form in (
        (response, "envelope"),
        (receipt, "envelope"),
        (receipt["envelope"], "envelope"),
        (without_envelope(receipt), "fields"),
        (LEGACY_RECEIPT, "fields"),
        (LEGACY_RECEIPT | {"unknown": 1}, "fields"),
    ):
        result = await verify(client, document)
        assert (result["valid"], result["form"], result["reason"]) == (True, form, None)
        assert (result["algorithm"], result["kid"]) == ("Ed25519", KID)


async def test_verify_receipt_rejects_every_change(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    await log_calls(ring, project_id, {"cost": 0.1}, {})
    receipt = (await generate(client, **UNCERTIFIED_BODY, tags=["t"]))["receipt"]
    envelope = receipt["envelope"]
    changed_summary = deepcopy(receipt)
    changed_summary["batch_summary"]["by_model"]["openai:gpt-4o-mini"]["cost"] = 9.5
    changed_count = deepcopy(receipt)
    changed_count["envelope"]["receipt"]["count"] = 3
    for document in (
        {name: value for name, value in receipt.items() if name != "envelope"},
        changed_summary,
        changed_count,
        receipt | {"total_cost": 9},
        receipt | {"tags": []},
        receipt | {"description": "d"},
        receipt | {"receipt_type": "single"},
        receipt | {"batch_summary": None},
        without_envelope(receipt) | {"receipt_type": "single"},
        LEGACY_RECEIPT | {"alias": "b"},
        LEGACY_RECEIPT | {"signature": None},
        LEGACY_RECEIPT | {"signature": "ed25519:AA"},
        envelope | {"x": 1},
        envelope | {"signature": {"alg": "none", "kid": KID, "sig": ""}},
    ):
        result = await verify(client, document)
        assert (result["valid"], result["kid"], result["form"]) == (False, None, None)
        assert result["reason"]


@pytest.mark.parametrize(
    ("body", "status"),
    [("{}", 422), ("[]", 422), ("null", 422), ("{", 400), ("", 400), ("[" * 100_000, 400)],
)
async def test_verify_receipt_rejects_what_is_not_a_receipt(
    client: httpx.AsyncClient, body: str, status: int
) -> None:
    response = await client.post(f"{PATH}/verify", content=body, headers=JSON)
    assert response.status_code == status


async def test_verify_receipt_with_a_duplicate_name_is_not_valid(client: httpx.AsyncClient) -> None:
    duplicate = orjson.dumps(LEGACY_RECEIPT)[:-1] + b',"alias":"fast"}'
    response = await client.post(f"{PATH}/verify", content=duplicate, headers=JSON)
    assert (response.status_code, response.json()["valid"]) == (200, False)


@pytest.mark.parametrize(
    "document",
    [
        {"receipt": {"receipt_id": LONE_SURROGATE}},
        LEGACY_RECEIPT | {"receipt_id": LONE_SURROGATE},
        LEGACY_RECEIPT | {"model": LONE_SURROGATE},
    ],
)
async def test_verify_receipt_with_invalid_unicode_is_not_valid(
    client: httpx.AsyncClient, document: dict[str, Any]
) -> None:
    # json.dumps escapes a lone surrogate; no response can contain it.
    response = await client.post(f"{PATH}/verify", content=json.dumps(document), headers=JSON)
    assert (response.status_code, response.json()["valid"]) == (200, False)


async def test_store_receipt_that_was_signed_earlier(client: httpx.AsyncClient) -> None:
    id = LEGACY_RECEIPT["receipt_id"]
    for _ in range(2):
        response = await client.post(PATH, json={"receipt": LEGACY_RECEIPT})
        assert response.json() == {"receipt_id": id, "status": "verified"}
    stored = (await client.get(f"{PATH}/{id}")).json()
    assert stored | LEGACY_RECEIPT == stored
    assert (stored["envelope"], stored["receipt_type"]) == (None, "single")
    calls = (await client.get(f"{PATH}/{id}/logs")).json()
    assert (calls["logs"], calls["total"]) == ([], 0)
    other = LEGACY_RECEIPT | {"alias": "another"}
    signature = await keyring().sign(legacy.signed_bytes(other))
    other["signature"] = f"ed25519:{base64url(signature)}"
    assert (await client.post(PATH, json={"receipt": other})).status_code == 409
    forged = await client.post(PATH, json={"receipt": LEGACY_RECEIPT | {"total_cost": 2.0}})
    assert forged.status_code == 400
    assert forged.json()["detail"].startswith("Invalid receipt signature")
    assert (await client.get(PATH)).json()["total"] == 1


@pytest.mark.parametrize("missing", [*legacy.FIELDS, "signature"])
async def test_store_receipt_rejects_incomplete_receipts(
    client: httpx.AsyncClient, missing: str
) -> None:
    incomplete = {name: value for name, value in LEGACY_RECEIPT.items() if name != missing}
    for receipt in (incomplete, {}):
        response = await client.post(PATH, json={"receipt": receipt})
        assert response.status_code == 400
        assert response.json()["detail"].startswith("Invalid receipt signature")


async def test_store_receipt_needs_the_envelope_of_a_new_receipt(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    await log_calls(ring, project_id, {}, {})
    receipt = (await generate(client))["receipt"]
    other_project = {"X-API-Key": uuid4().hex}
    for document, status in (
        (without_envelope(receipt), 400),
        (receipt, 200),
        (LEGACY_RECEIPT, 200),
    ):
        response = await client.post(PATH, json={"receipt": document}, headers=other_project)
        assert response.status_code == status
