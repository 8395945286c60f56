"""Calls to certify, and requests for their receipts."""

from typing import Any

import httpx

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.receipts import ReceiptRequest
from llmring_server.usage.models import NewCall
from llmring_verify import legacy, receipt
from tests.conftest import CALL
from tests.support.signing import KID, keyring

PATH = "/api/v1/receipts"
# All calls that no receipt certifies yet, as a body over HTTP and for the library.
UNCERTIFIED_BODY = {"since_last_receipt": True}
UNCERTIFIED = ReceiptRequest(since_last_receipt=True)
# An exchange that is the only report of its call: the client's decorators send it.
EXCHANGE: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi"}],
    "response": {"content": "hello", "model": "gpt-4o-mini"},
    "metadata": {
        "provider": "openai",
        "model": "gpt-4o-mini",
        "alias": "fast",
        "input_tokens": 10,
        "output_tokens": 2,
        "cost": 0.5,
    },
}


async def log_calls(ring: Ring, project_id: ProjectId, *calls: dict[str, Any]) -> list[str]:
    """Log calls, and return their ids."""
    new_calls = [NewCall.model_validate(CALL | call) for call in calls]
    results = await ring.usage.log_many(project_id, new_calls)
    return [str(result.log_id) for result in results]


async def generate(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    """Generate a receipt, by default of all uncertified calls; return the response."""
    response = await client.post(f"{PATH}/generate", json=body or UNCERTIFIED_BODY)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


async def verify(client: httpx.AsyncClient, document: Any) -> dict[str, Any]:
    """Verify a document without an API key; return the response."""
    response = await client.post(f"{PATH}/verify", json=document, headers={"X-API-Key": ""})
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


def verified_body(response: dict[str, Any]) -> dict[str, Any]:
    """Check both signatures of a receipt; return the receipt in its envelope."""
    key = keyring().active
    legacy_body = legacy.signed_bytes(response)
    assert key.is_valid_signature(legacy_body, legacy.signature(response))
    kid, signed, signature = receipt.open_envelope(response["envelope"])
    assert kid == KID
    assert key.is_valid_signature(signed, signature)
    body: dict[str, Any] = response["envelope"]["receipt"]
    return body
