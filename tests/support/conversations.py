"""Conversations to test with: requests, and helpers that send them."""

from typing import Any

import httpx

from llmring_server.conversations import Exchange

CONVERSATIONS = "/api/v1/conversations"
LOG_EXCHANGE = f"{CONVERSATIONS}/log"

# As the client's decorators send it: without a profile, so this is the only report of the call.
METADATA: dict[str, Any] = {
    "provider": "openai",
    "model": "gpt-4o",
    "alias": "fast",
    "origin": "app",
    "input_tokens": 1000,
    "output_tokens": 200,
    "cached_tokens": None,
}
EXCHANGE: dict[str, Any] = {
    "messages": [{"role": "developer", "content": "Be kind"}, {"content": [{"text": "Hi"}]}],
    "response": {"content": "Hello", "model": "gpt-4o-2024", "finish_reason": "stop", "usage": {}},
    "metadata": METADATA,
}


def exchange(**fields: Any) -> Exchange:
    return Exchange.model_validate(EXCHANGE | fields)


async def log_exchange(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post(LOG_EXCHANGE, json=EXCHANGE | fields)
    assert response.status_code == 200, response.text
    logged: dict[str, Any] = response.json()
    return logged


async def create_conversation(client: httpx.AsyncClient, **fields: Any) -> str:
    """Create a conversation and return its path."""
    response = await client.post(CONVERSATIONS, json=fields)
    assert response.status_code == 200, response.text
    return f"{CONVERSATIONS}/{response.json()['id']}"


async def add_texts(client: httpx.AsyncClient, path: str, *texts: str) -> None:
    """Add the user's messages to the conversation at `path`."""
    messages = [{"role": "user", "content": text} for text in texts]
    response = await client.post(f"{path}/messages/batch", json={"messages": messages})
    assert response.status_code == 200, response.text
