"""The published client goes on with its conversations, however much of them a server stores.

The server is as in production: with issued keys, and only the content level set.
"""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from llmring.mcp.client.stateless_engine import (  # type: ignore[import-untyped]
    ChatRequest,
    StatelessChatEngine,
)
from llmring.schemas import LLMRequest, LLMResponse, Message  # type: ignore[import-untyped]
from llmring.service_extended import (  # type: ignore[import-untyped]
    ConversationManager,
    LLMRingSession,
)
from llmring.services.logging_service import LoggingService  # type: ignore[import-untyped]
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Server, Settings
from llmring_server.access.keys import IssuedKey
from llmring_server.core.identity import LIBRARY

USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "cached_tokens": None}
# What the default stores is the first of these.
LEVELS: list[dict[str, Any]] = [
    {},
    {"conversation_content": "full"},
    {"conversation_content": "metadata"},
    {"conversation_content": "none"},
]


class Provider:
    """A model that repeats what it was told, and may tell how much it was."""

    def __init__(self, usage: dict[str, int | None] | None) -> None:
        self.usage = usage
        self.heard: list[list[Any]] = []

    async def chat(self, messages: list[Message], **_: Any) -> LLMResponse:
        self.heard.append([message.content for message in messages])
        content = f"You said: {messages[-1].content}"
        return LLMResponse(content=content, model="openai:gpt-4o", usage=self.usage)


@pytest.fixture
async def issued(ring: Ring) -> IssuedKey:
    return await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)


@pytest.fixture(params=LEVELS, ids=lambda level: str(level.get("conversation_content", "default")))
def level(request: pytest.FixtureRequest) -> Settings:
    return Settings(**request.param)


@pytest.fixture
async def server(level: Settings, db: AsyncDatabaseManager) -> AsyncIterator[Server]:
    async with Server(Ring(db, level), port=0) as server:
        yield server


@pytest.fixture
async def session(server: Server, issued: IssuedKey) -> AsyncIterator[LLMRingSession]:
    # With a registry, the session would download a tokenizer.
    url = f"{server.url}/nowhere"
    async with LLMRingSession(
        server_url=server.url, api_key=issued.secret, registry_url=url
    ) as session:
        session.providers["openai"] = Provider(USAGE)
        yield session
        # The session does not close this client.
        await session.server_client.close()


async def test_conversation_manager_loads_a_conversation_and_goes_on(
    session: LLMRingSession, ring: Ring, issued: IssuedKey, level: Settings
) -> None:
    manager = ConversationManager(session)
    id = await manager.start_conversation("Tea", "Be kind", "openai:gpt-4o")
    await manager.send_message("Hi", model="openai:gpt-4o")
    other = ConversationManager(session)
    assert await other.load_conversation(id)
    response = await other.send_message("And you?", model="openai:gpt-4o")
    assert response.content == "You said: And you?"
    heard = session.providers["openai"].heard[-1]
    assert heard[-1] == "And you?"
    if level.conversation_content == "full":
        assert heard == ["Be kind", "Hi", "You said: Hi", "And you?"]
    assert None not in heard
    assert len(await ring.usage.logs(issued.project_id)) == 2


@pytest.mark.parametrize("usage", [USAGE, None], ids=["counted", "not counted"])
async def test_stateless_engine_goes_on(
    session: LLMRingSession,
    server: Server,
    issued: IssuedKey,
    level: Settings,
    usage: dict[str, int | None] | None,
) -> None:
    session.providers["openai"] = Provider(usage)
    engine = StatelessChatEngine(
        session, "openai:gpt-4o", llmring_server_url=server.url, api_key=issued.secret
    )
    first = await engine.process_request(ChatRequest(message="Hi", model="openai:gpt-4o"))
    again = ChatRequest(first.conversation_id, message="And you?", model="openai:gpt-4o")
    second = await engine.process_request(again)
    assert second.message.content == "You said: And you?"
    heard = session.providers["openai"].heard[-1]
    assert None not in heard
    if level.conversation_content == "full":
        assert heard[:3] == ["Hi", "You said: Hi", "And you?"]
    await engine.conversation_manager.http_client.close()


async def test_logging_service_logs_the_exchange_and_its_call(
    session: LLMRingSession, ring: Ring, issued: IssuedKey
) -> None:
    service = LoggingService(
        session.server_client, log_metadata=True, log_conversations=True, origin="tests"
    )
    for _ in range(2):
        await service.log_request_response(
            LLMRequest(messages=[Message(role="user", content="Hi")], model="fast"),
            LLMResponse(content="Hello", model="openai:gpt-4o", usage=USAGE),
            *("fast", "openai", "gpt-4o", None, None),
        )
    assert len(await ring.usage.logs(issued.project_id)) == 2
