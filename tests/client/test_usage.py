"""The published client's logging against a running server."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from typing import Any

import httpx
import pytest
from anthropic.types import Message as AnthropicMessage
from google.genai.types import GenerateContentResponse
from llmring.logging import decorators  # type: ignore[import-untyped]
from llmring.schemas import LLMRequest, LLMResponse, Message  # type: ignore[import-untyped]
from llmring.server_client import ServerClient  # type: ignore[import-untyped]
from llmring.services.logging_service import LoggingService  # type: ignore[import-untyped]
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Server, Settings
from llmring_server.core.identity import ProjectId
from llmring_server.usage.models import Call
from tests.conftest import CALL


@pytest.fixture
async def server(db: AsyncDatabaseManager) -> AsyncIterator[Server]:
    async with Server(
        Ring(db, Settings(auth="open", conversation_content="full")), port=0
    ) as server:
        yield server


@pytest.fixture
async def remote(server: Server, key: str) -> AsyncIterator[ServerClient]:
    async with ServerClient(server.url, key) as remote:
        yield remote


@pytest.fixture
async def decorated(
    server: Server, key: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[dict[str, Any]]:
    """Arguments for a decorator, with a client, which the fixture closes."""
    opened = []

    def open_client(**kwargs: Any) -> ServerClient:
        opened.append(ServerClient(**kwargs))
        return opened[-1]

    monkeypatch.setattr(decorators, "ServerClient", open_client)
    yield {"server_url": server.url, "api_key": key, "alias": "fast", "origin": "app"}
    for client in opened:
        await client.close()


async def only_log(ring: Ring, project_id: ProjectId) -> Call:
    """Wait for the decorators' background tasks; return the one call that was logged."""
    tasks = {getattr(task.get_coro(), "__name__", ""): task for task in asyncio.all_tasks()}
    await asyncio.gather(*(tasks[name] for name in tasks if name.startswith("_log_")))
    [log] = await ring.usage.logs(project_id)
    return log


async def chat(
    remote: ServerClient, alias: str, usage: Mapping[str, int | None], **more: Any
) -> None:
    """Log a call as `LLMRing.chat` does."""
    service = LoggingService(remote, log_metadata=True, log_conversations=False, origin="tests")
    service.set_conversation_id(more.get("conversation"))
    await service.log_request_response(
        LLMRequest(messages=[Message(role="user", content="Hi")], model=alias),
        LLMResponse(content="Hello", model="gpt-4o", finish_reason="stop", usage=usage),
        *(alias, "openai", "gpt-4o", more.get("cost_info"), more.get("profile")),
    )


async def test_server_client_reads_back_what_it_posted(remote: ServerClient) -> None:
    posted = await remote.post("/api/v1/log", json=CALL | {"cost": 0.25})
    [log] = await remote.get("/api/v1/logs", params={"model": None, "limit": 10})
    assert (log["id"], log["cost"]) == (posted["log_id"], 0.25)
    assert (await remote.get("/api/v1/stats"))["summary"]["total_cost"] == "0.25"


async def test_server_client_works_after_an_error(remote: ServerClient) -> None:
    with pytest.raises(httpx.HTTPStatusError) as refused:
        await remote.post("/api/v1/log", json={"model": "gpt-4o"})
    assert "provider" in refused.value.response.json()["detail"]
    assert (await remote.get("/health"))["status"] == "healthy"


async def test_error_without_a_key_names_the_header(server: Server) -> None:
    async with ServerClient(server.url) as remote:
        with pytest.raises(httpx.HTTPStatusError) as refused:
            await remote.get("/api/v1/stats")
    assert refused.value.response.status_code == 401
    assert "X-API-Key" in refused.value.response.json()["detail"]


async def test_logging_service_logs_every_field(
    remote: ServerClient, ring: Ring, project_id: ProjectId
) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 200, "cached_tokens": 300}
    price = {"input_cost": 0.1, "output_cost": 0.2, "total_cost": 0.1 + 0.2}
    await chat(remote, "fast", usage, cost_info=price, profile="prod", conversation="conv-1")
    log = await only_log(ring, project_id)
    assert (log.provider, log.model, log.alias, log.profile) == ("openai", "gpt-4o", "fast", "prod")
    assert (log.input_tokens, log.output_tokens, log.cached_input_tokens) == (1000, 200, 300)
    assert (log.cost, log.cost_source) == (Decimal("0.3"), "client")
    assert (log.origin, log.id_at_origin) == ("tests", "conv-1")
    metadata = {
        "model_alias": "openai:gpt-4o",
        "finish_reason": "stop",
        "conversation_id": "conv-1",
    }
    assert log.metadata == metadata


async def test_server_prices_calls_that_the_logging_service_cannot_price(
    remote: ServerClient, ring: Ring, project_id: ProjectId
) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "cached_tokens": None}
    await chat(remote, "openai:gpt-4o", usage)
    log = await only_log(ring, project_id)
    assert (log.alias, log.profile, log.id_at_origin) == (None, "default", None)
    assert log.cached_input_tokens == 0
    assert (log.cost, log.cost_source) == (Decimal("0.0000225"), "offline")


async def test_logging_service_feeds_the_statistics(
    remote: ServerClient, ring: Ring, project_id: ProjectId
) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    for profile in ("prod", "prod", None):
        await chat(remote, "fast", usage, cost_info={"total_cost": 0.1}, profile=profile)
    stats = await ring.usage.stats(project_id)
    assert (stats.summary.total_cost, stats.summary.total_tokens) == (Decimal("0.3"), 45)
    assert stats.by_alias["fast"].cost == stats.by_origin["tests"].cost == Decimal("0.3")
    profiles = {name: totals.requests for name, totals in stats.by_profile.items()}
    assert profiles == {"prod": 2, "default": 1}


USAGE = {"prompt_tokens": 100, "completion_tokens": 20}
CHOICE = {"finish_reason": "stop", "message": {"content": "Hello"}}
OPENAI = ChatCompletion.construct(
    model="gpt-4o", choices=[CHOICE], usage={**USAGE, "prompt_tokens_details": {}}
)
ANTHROPIC = AnthropicMessage.construct(
    model="claude-4",
    content=[{"type": "text", "text": "Hello"}],
    stop_reason="end_turn",
    usage={"input_tokens": 50, "output_tokens": 7, "cache_read_input_tokens": 40},
)
GOOGLE = GenerateContentResponse.model_validate(
    {"model_version": "gemini-3", "usage_metadata": {"prompt_token_count": 9}}
)


@pytest.mark.parametrize(
    ("response", "logged"),
    [
        (OPENAI, ("openai", "gpt-4o", 100, 20, 0, "stop", "offline")),  # cached tokens are null
        (ANTHROPIC, ("anthropic", "claude-4", 50, 7, 40, "end_turn", "unpriced")),
        (GOOGLE, ("google", "gemini-3", 9, 0, 0, None, "unpriced")),  # output tokens are null
    ],
    ids=["openai", "anthropic", "google"],
)
async def test_log_llm_call_logs_the_providers_response(
    decorated: dict[str, Any], ring: Ring, project_id: ProjectId, response: object, logged: object
) -> None:
    async def call_model(_: str) -> object:
        return response

    assert await decorators.log_llm_call(**decorated)(call_model)("Hi") is response
    log = await only_log(ring, project_id)
    tokens = log.input_tokens, log.output_tokens, log.cached_input_tokens
    fields = log.provider, log.model, *tokens, log.metadata["finish_reason"], log.cost_source
    assert (fields, log.alias, log.origin) == (logged, "fast", "app")


async def test_log_llm_stream_logs_the_final_usage(
    decorated: dict[str, Any], ring: Ring, project_id: ProjectId
) -> None:
    async def stream(_: str) -> AsyncIterator[ChatCompletionChunk]:
        yield ChatCompletionChunk.construct(model="gpt-4o", choices=[{"delta": {"content": "Hi"}}])
        yield ChatCompletionChunk.construct(model="gpt-4o", choices=[], usage=OPENAI.usage)

    chunks = [chunk async for chunk in decorators.log_llm_stream(**decorated)(stream)("Hi")]
    log = await only_log(ring, project_id)
    assert len(chunks) == 2
    assert (log.provider, log.model, log.alias, log.origin) == ("openai", "gpt-4o", "fast", "app")
    assert (log.input_tokens, log.output_tokens, log.cached_input_tokens) == (100, 20, 0)
