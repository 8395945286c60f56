"""Receipts of what is too large to count, and of what cannot be written."""

import json
from typing import Any

import httpx
import pytest

from llmring_server import Ring
from llmring_server.tenant import Tenant
from llmring_verify.strict import MOST
from tests.signers import OLD, called
from tests.test_receipts import PATH, ring, settings

__all__ = ["ring", "settings"]

LARGEST = {"input_tokens": MOST, "output_tokens": 0}
HALF = {"receipt": {"receipt_id": "\udc00"}}


@pytest.mark.parametrize("sent", [HALF, OLD | {"receipt_id": "\udc00"}, OLD | {"model": "\udc00"}])
async def test_verify_receipt_of_what_is_no_text(
    client: httpx.AsyncClient, sent: dict[str, Any]
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await client.post(f"{PATH}/verify", content=json.dumps(sent), headers=headers)
    assert (answer.status_code, answer.json()["valid"]) == (200, False)


async def test_calls_that_add_up_to_too_much_are_refused(
    client: httpx.AsyncClient, ring: Ring, tenant: Tenant
) -> None:
    ids = await called(ring, tenant, *[LARGEST] * 1100)
    for path in ("generate", "preview"):
        answer = await client.post(f"{PATH}/{path}", json={"log_ids": ids})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
