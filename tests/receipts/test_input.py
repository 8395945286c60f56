"""Receipts of what is too large to count, and of what cannot be written."""

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings, build
from llmring_server.core.identity import ProjectId
from llmring_verify.canonical_json import MAX_SAFE_INTEGER
from tests.receipts.test_generate import ALL, PATH, ring, settings
from tests.support.signing import OLD, called, keyring

__all__ = ["ring", "settings"]

LARGEST = {"input_tokens": MAX_SAFE_INTEGER, "output_tokens": 0}
HALF = {"receipt": {"receipt_id": "\udc00"}}


@pytest.mark.parametrize("sent", [HALF, OLD | {"receipt_id": "\udc00"}, OLD | {"model": "\udc00"}])
async def test_verify_receipt_of_what_is_no_text(
    client: httpx.AsyncClient, sent: dict[str, Any]
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await client.post(f"{PATH}/verify", content=json.dumps(sent), headers=headers)
    assert (answer.status_code, answer.json()["valid"]) == (200, False)


async def test_calls_that_add_up_to_too_much_are_refused(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    ids = await called(ring, project_id, *[LARGEST] * 1100)
    for path in ("generate", "preview"):
        answer = await client.post(f"{PATH}/{path}", json={"log_ids": ids})
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")


async def test_a_project_asks_for_little_at_once_that_takes_long(
    db: AsyncDatabaseManager, project_id: ProjectId, key: str
) -> None:
    app, id = build(db, Settings(auth="open"), keyring=keyring()), uuid4()
    transport = httpx.ASGITransport(app=app)
    headers = {"X-API-Key": key}
    async with httpx.AsyncClient(
        transport=transport, base_url=f"http://test{PATH}", headers=headers
    ) as client:
        with (
            app.state.limits.concurrency_slot(project_id),
            app.state.limits.concurrency_slot(project_id),
        ):
            answers = [
                await client.get(f"/{id}/logs"), await client.get(f"/{id}/proof/{id}"),
                await client.get("/uncertified"), await client.post("/generate", json=ALL),
                await client.post("/preview", json=ALL),
                await client.post("/issue", json={"log_id": str(id)}),
            ]  # fmt: skip
        assert {answer.status_code for answer in answers} == {429}
        assert (await client.post("/preview", json=ALL)).status_code == 200
