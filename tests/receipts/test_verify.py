"""What a receipt proves in each of its forms, and what is refused of them."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import new_id
from llmring_server.receipts.models import ReceiptRequest
from tests.receipts.test_generate import ALL, PATH, made, ring, settings
from tests.receipts.test_read import verified
from tests.support.signing import OLD, called

__all__ = ["ring", "settings"]


def bare(told: dict[str, Any]) -> dict[str, Any]:
    return {name: told[name] for name in OLD}


async def test_verify_receipt_says_what_it_proved(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    await called(ring, project_id, {}, {})
    answer = await made(client, **ALL)
    told = answer["receipt"]
    for document, form in (
        (answer, "envelope"), (told, "envelope"), (told["envelope"], "envelope"),
        (bare(told), "fields"), (OLD, "fields"),
    ):  # fmt: skip
        found = await verified(client, document)
        assert (found["valid"], found["form"]) == (True, form)
    found = await verified(client, bare(told) | {"receipt_type": "single"})
    assert (found["valid"], found["form"]) == (False, None)


async def test_store_receipt_takes_no_new_one_without_its_envelope(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    await called(ring, project_id, {}, {})
    told = (await made(client))["receipt"]
    other = {"X-API-Key": uuid4().hex}
    for receipt, status in ((bare(told), 400), (told, 200), (OLD, 200)):
        answer = await client.post(PATH, json={"receipt": receipt}, headers=other)
        assert answer.status_code == status


async def test_a_key_without_a_time_has_no_nbf(client: httpx.AsyncClient) -> None:
    [key] = (await client.get("/.well-known/jwks.json")).json()["keys"]
    assert "nbf" not in key


async def test_calls_that_were_long_ago_are_of_their_conversation(
    ring: Ring, project_id: ProjectId
) -> None:
    to, old = str(new_id()), (datetime.now(UTC) - timedelta(days=399)).isoformat()
    linked = {"metadata": {"conversation_id": to}}
    await called(ring, project_id, linked, linked | {"logged_at": old})
    told = await ring.receipts.generate(project_id, ReceiptRequest(conversation_id=UUID(to)))
    assert told["certified_count"] == 2
