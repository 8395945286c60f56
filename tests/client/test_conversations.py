"""The published client's conversations against a running server."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from anthropic.types import Message as AnthropicMessage
from anthropic.types import TextBlock, Usage
from llmring.logging import decorators  # type: ignore[import-untyped]
from llmring.mcp.client.conversation_manager_async import (  # type: ignore[import-untyped]
    AsyncConversationManager,
)
from llmring.mcp.http_client import MCPHttpClient  # type: ignore[import-untyped]
from llmring.schemas import LLMRequest, LLMResponse, Message  # type: ignore[import-untyped]
from llmring.server_client import ServerClient  # type: ignore[import-untyped]
from llmring.service_extended import (  # type: ignore[import-untyped]
    ConversationManager,
    LLMRingSession,
)
from llmring.services.logging_service import LoggingService  # type: ignore[import-untyped]
from openai.types.chat import ChatCompletionChunk

from llmring_server import Ring, Server
from llmring_server.conversations.models import Conversation, NewMessage
from llmring_server.core.identity import ProjectId
from tests.client.test_usage import OPENAI, decorated, only_log, remote, server

__all__ = ["decorated", "remote", "server"]

USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "cached_tokens": None}
PARTS = [{"type": "text", "text": "Is this a cat?"}, {"type": "image_url", "image_url": {}}]


class Provider:
    """A model that always returns the same response."""

    async def chat(self, **_: Any) -> LLMResponse:
        return LLMResponse(content="Hello", model="openai:gpt-4o", usage=USAGE)


@pytest.fixture
async def session(server: Server, key: str) -> AsyncIterator[LLMRingSession]:
    # With a registry, the session would download a tokenizer.
    url = f"{server.url}/nowhere"
    async with LLMRingSession(server_url=server.url, api_key=key, registry_url=url) as session:
        session.providers["openai"] = Provider()
        yield session
        # The session does not close this client.
        await session.server_client.close()


async def only_conversation(ring: Ring, project_id: ProjectId) -> Conversation:
    [found] = await ring.conversations.list(project_id)
    return found


async def test_session_stores_its_messages(
    session: LLMRingSession, ring: Ring, project_id: ProjectId
) -> None:
    id = await session.create_conversation("Tea", "Be kind")
    for content in ("Hi", PARTS):
        request = LLMRequest(
            messages=[Message(role="user", content=content)], model="openai:gpt-4o"
        )
        await session.chat_with_conversation(request, id)
    history = await session.get_conversation_history(id, limit=3)
    assert [message["content"] for message in history["messages"]] == ["Hello", PARTS, "Hello"]
    [listed] = await session.list_conversations()
    assert (listed["id"], listed["title"], listed["message_count"]) == (str(id), "Tea", 4)
    assert (listed["total_input_tokens"], listed["total_output_tokens"]) == (200, 40)
    calls = await ring.usage.logs(project_id)
    assert [call.conversation_id for call in calls] == [id, id]


async def test_conversation_manager_loads_a_conversation(session: LLMRingSession) -> None:
    manager = ConversationManager(session)
    id = await manager.start_conversation("Tea", "Be kind", "openai:gpt-4o")
    await manager.send_message("Hi", model="openai:gpt-4o")
    other = ConversationManager(session)
    assert await other.load_conversation(id)
    assert [each["role"] for each in other.get_history()] == ["system", "user", "assistant"]
    assert not await other.load_conversation(uuid4())


async def test_conversation_manager_loads_messages_without_content(
    session: LLMRingSession, ring: Ring, project_id: ProjectId
) -> None:
    conversation = await ring.conversations.create(project_id)
    calls = NewMessage(role="assistant", content=None, tool_calls=[{"id": "call-1"}])
    gemini = NewMessage.model_validate({"role": "model", "parts": [{"text": "Hi"}]})
    await ring.conversations.append(project_id, conversation.id, [calls, gemini])
    manager = ConversationManager(session)
    assert await manager.load_conversation(conversation.id)
    assert [each["content"] for each in manager.get_history()] == ["", ""]


async def test_async_conversation_manager_adds_and_reads(server: Server, key: str) -> None:
    manager = AsyncConversationManager(server.url, key)
    id = await manager.create_conversation("default-user")
    added = [
        await manager.add_message(id, role, "Hi", metadata=metadata)
        for role, metadata in (("user", None), ("tool", {"tool": "look"}))
    ]
    found = await manager.get_conversation(id)
    assert [message.id for message in found.messages] == added
    assert [each.role for each in found.messages] == ["user", "tool"]
    assert found.messages[1].metadata == {"tool": "look"}
    assert len(await manager.get_conversation_messages(id, limit=1)) == 1
    await manager.close()


async def test_mcp_client_adds_and_reads(server: Server, key: str) -> None:
    async with MCPHttpClient(server.url, key) as client:
        id = await client.create_conversation("Tea", model_alias=None, project_id="a user")
        added = await client.add_message(id, "assistant", "Hi", {"a": 1})
        [found] = await client.get_conversation_messages(id)
        assert found | {"warnings": []} == added
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            await client.add_message(uuid4(), "user", "Hi")


async def test_logging_service_stores_the_exchange_and_counts_the_call_once(
    remote: ServerClient, ring: Ring, project_id: ProjectId
) -> None:
    service = LoggingService(remote, log_metadata=True, log_conversations=True, origin="tests")
    await service.log_request_response(
        LLMRequest(messages=[Message(role="user", content=PARTS)], model="fast"),
        LLMResponse(content="Hello", model="openai:gpt-4o", finish_reason="stop", usage=USAGE),
        *("fast", "openai", "gpt-4o"),
        {"input_cost": 0.1, "output_cost": 0.2, "total_cost": 0.1 + 0.2},
        None,
    )
    found = await only_conversation(ring, project_id)
    assert (found.title, found.total_cost) == ("fast conversation", Decimal("0.3"))
    call = await only_log(ring, project_id)
    assert (call.conversation_id, call.cost) == (found.id, Decimal("0.3"))
    question, answer = await ring.conversations.messages(project_id, found.id)
    assert (question.content, answer.content) == (PARTS, "Hello")
    assert answer.metadata["finish_reason"] == "stop"


async def test_log_llm_call_stores_the_exchange_and_counts_the_call(
    decorated: dict[str, Any], ring: Ring, project_id: ProjectId
) -> None:
    async def call_model(_: list[Any]) -> object:
        return OPENAI

    asked = [{"role": "developer", "content": "Be kind"}, {"role": "user", "content": PARTS}]
    await decorators.log_llm_call(**decorated, log_conversations=True)(call_model)(asked)
    call = await only_log(ring, project_id)
    found = await only_conversation(ring, project_id)
    assert (call.conversation_id, call.cost) == (found.id, found.total_cost)
    assert (call.input_tokens, call.output_tokens, call.origin) == (100, 20, "app")
    messages = await ring.conversations.messages(project_id, found.id)
    assert [(message.role, message.content) for message in messages] == [
        ("developer", "Be kind"),
        ("user", PARTS),
        ("assistant", "Hello"),
    ]


async def test_log_llm_call_counts_cache_writes_of_anthropic(
    decorated: dict[str, Any], ring: Ring, project_id: ProjectId
) -> None:
    usage: dict[str, Any] = {
        "input_tokens": 100,
        "output_tokens": 10,
        "cache_creation_input_tokens": 50_000,
    }
    response = AnthropicMessage.construct(
        model="claude-sonnet-4-5",
        content=[TextBlock(type="text", text="Hello")],
        stop_reason="end_turn",
        usage=Usage.construct(**usage, cache_read_input_tokens=0),
    )

    async def call_model(_: str) -> object:
        return response

    logging = decorators.log_llm_call(**decorated, provider="anthropic", log_conversations=True)
    await logging(call_model)("Hi")
    call = await only_log(ring, project_id)
    assert (call.input_tokens, call.output_tokens, call.cost) == (100, 10, Decimal("0.18795"))


async def test_log_llm_stream_stores_the_exchange(
    decorated: dict[str, Any], ring: Ring, project_id: ProjectId
) -> None:
    async def stream(_: str) -> AsyncIterator[ChatCompletionChunk]:
        for text in ("Hel", "lo"):
            choice = {"delta": {"content": text}}
            yield ChatCompletionChunk.construct(model="gpt-4o", choices=[choice])
        yield ChatCompletionChunk.construct(model="gpt-4o", choices=[], usage=OPENAI.usage)

    streaming = decorators.log_llm_stream(**decorated, log_conversations=True)(stream)
    assert len([chunk async for chunk in streaming("Hi")]) == 3
    call = await only_log(ring, project_id)
    found = await only_conversation(ring, project_id)
    assert call.conversation_id == found.id
    messages = await ring.conversations.messages(project_id, found.id)
    assert [message.content for message in messages] == ["Hi", "Hello"]


@pytest.mark.slow
async def test_concurrent_sessions_do_not_mix_conversations(
    session: LLMRingSession, ring: Ring, project_id: ProjectId
) -> None:
    ids: list[UUID] = [await session.create_conversation(f"chat {n}") for n in range(5)]
    request = LLMRequest(messages=[Message(role="user", content="Hi")], model="openai:gpt-4o")
    await asyncio.gather(*(session.chat_with_conversation(request, id) for id in ids * 4))
    found = await ring.conversations.list(project_id)
    assert {each.id: each.message_count for each in found} == dict.fromkeys(ids, 8)
