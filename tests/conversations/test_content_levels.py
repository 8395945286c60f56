"""Content levels and retention: how much of a message is stored, and for how long."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings, build
from llmring_server.access.keys import KeyOptions
from llmring_server.cli.environment import open_environment
from llmring_server.conversations import (
    ContentLevel,
    ConversationPage,
    NewConversation,
    NewMessage,
)
from llmring_server.core.identity import LIBRARY, PROJECT_SCOPES, ProjectId
from llmring_server.maintenance import maintain
from tests.support.conversations import (
    CONVERSATIONS,
    EXCHANGE,
    LOG_EXCHANGE,
    create_conversation,
)

SECRET = f"secret-{uuid4().hex}"
MESSAGE: dict[str, Any] = {
    "role": "user",
    "content": SECRET,
    "tool_results": [SECRET],
    "tool_calls": [{"name": "look"}],
    "metadata": {"a": 1},
    "input_tokens": 3,
}


def client_of(db: AsyncDatabaseManager, key: str, **settings: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=build(db, Settings(**settings)))
    headers = {"X-API-Key": key}
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)


@pytest.mark.parametrize("level", ["none", "metadata", "full"])
@pytest.mark.parametrize("server_level", ["none", "metadata", "full"])
async def test_the_lower_level_of_server_and_request_applies(
    db: AsyncDatabaseManager,
    key: str,
    project_id: ProjectId,
    server_level: ContentLevel,
    level: ContentLevel,
) -> None:
    async with client_of(db, key, auth="open", conversation_content=server_level) as client:
        path = await create_conversation(client, title="Tea")
        batch = {"messages": [MESSAGE], "logging_level": level}
        response = await client.post(f"{path}/messages/batch", json=batch)
        assert response.status_code == 200
        stored = (await client.get(f"{path}/messages")).json()
    if "none" in {server_level, level}:
        assert stored == []
        return
    [message] = stored
    [answered] = response.json()
    assert answered == message | {"warnings": []}
    assert (message["tool_calls"], message["metadata"]) == ([{"name": "look"}], {"a": 1})
    assert len(message["content_hash"]) == 64
    is_full = server_level == level == "full"
    assert message["content"] == (SECRET if is_full else "")
    assert message["content_kept"] == is_full
    assert message["tool_results"] == ([SECRET] if is_full else None)
    matches = await Ring(db).conversations.list(project_id, ConversationPage(q=SECRET))
    assert len(matches) == is_full


async def test_level_metadata_stores_content_nowhere(
    db: AsyncDatabaseManager, key: str, project_id: ProjectId
) -> None:
    content = {"content": SECRET, "refusal": SECRET, "parts": [{"text": SECRET}], "id": SECRET}
    body = EXCHANGE | {"messages": [content], "response": content}
    async with client_of(db, key, auth="open", conversation_content="metadata") as client:
        logged = (await client.post(LOG_EXCHANGE, json=body)).json()
        id = logged["conversation_id"]
        await client.post(f"{CONVERSATIONS}/{id}/messages", json=MESSAGE | content)
        found = (await client.get(f"{CONVERSATIONS}/{id}")).json()["messages"]
    assert logged["content_kept"] is False
    assert [(each["content"], each["content_kept"]) for each in found] == [("", False)] * 3
    assert not any("refusal" in each or each["at_origin"] for each in found)
    rows = await db.fetch_all(
        "SELECT m::text FROM {{tables.messages}} m WHERE project_id = $1", project_id
    )
    assert len(rows) == 3
    assert SECRET not in str(rows)


async def test_log_exchange_at_level_none_logs_the_call_only(
    db: AsyncDatabaseManager, key: str, project_id: ProjectId
) -> None:
    async with client_of(db, key, auth="open", conversation_content="none") as client:
        logged = (await client.post(LOG_EXCHANGE, json=EXCHANGE)).json()
        assert logged["conversation_id"]
        assert logged["message_id"]
        assert logged["content_kept"] is False
        again = EXCHANGE | {"conversation_id": logged["conversation_id"]}
        repeated = (await client.post(LOG_EXCHANGE, json=again)).json()
        assert repeated["conversation_id"] == logged["conversation_id"]
        assert repeated["warnings"] == []
        assert (await client.get(CONVERSATIONS)).json() == []
    assert (await Ring(db).usage.stats(project_id)).summary.total_requests == 2


@pytest.mark.parametrize(
    ("fields", "content", "level"),
    [
        ({"content": "Hi"}, "", "metadata"),
        ({"parts": [{"text": "Hi"}]}, "", "metadata"),
        ({"content": "", "tool_results": [1]}, "", "metadata"),
        ({"content": ""}, "", "full"),
        ({"content": []}, [], "full"),
        ({}, "", "full"),
    ],
)
async def test_content_kept_is_false_only_if_something_was_left_out(
    db: AsyncDatabaseManager,
    key: str,
    fields: dict[str, Any],
    content: Any,
    level: ContentLevel,
) -> None:
    async with client_of(db, key, auth="open", conversation_content="metadata") as client:
        path = await create_conversation(client)
        await client.post(f"{path}/messages", json={"role": "user", **fields})
        [message] = (await client.get(f"{path}/messages")).json()
    assert (message["content"], message["content_kept"]) == (content, level == "full")


async def test_content_kept_is_known_of_messages_of_earlier_versions(
    owner: AsyncDatabaseManager, ring: Ring, project_id: ProjectId
) -> None:
    """Their rows have no such column, but a hash if there was content."""
    id = (await ring.conversations.create(project_id)).id
    messages = [NewMessage(role="user", content=content) for content in ("Hi", "Hi", None)]
    await ring.conversations.append(project_id, id, messages[:1])
    await ring.conversations.append(project_id, id, messages[1:], "metadata")
    update = "UPDATE {{tables.messages}} SET content_kept = NULL WHERE conversation_id = $1"
    await owner.execute(update, id)
    found = await ring.conversations.messages(project_id, id)
    contents = [(message.content, message.content_kept) for message in found]
    assert contents == [("Hi", True), ("", False), ("", True)]


@pytest.fixture
def maintainer(owner: AsyncDatabaseManager) -> Ring:
    """A ring whose database role may run maintenance."""
    return Ring(owner, Settings(conversation_content="full"))


async def create_old_conversation(ring: Ring, project_id: ProjectId, days: int) -> None:
    """Create a conversation of 7 messages that was last updated so many days ago."""
    id = (await ring.conversations.create(project_id, NewConversation(title=f"{days} days"))).id
    await ring.conversations.append(project_id, id, [NewMessage(role="user", content="Hi")] * 7)
    for change in (
        "{{tables.messages}} SET created_at = now() - $2::interval WHERE conversation_id = $1",
        "{{tables.conversations}} SET updated_at = now() - $2::interval WHERE id = $1",
    ):
        await ring.db.execute(f"UPDATE {change}", id, timedelta(days=days))


async def test_maintenance_deletes_messages_beyond_the_projects_retention(
    maintainer: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.maintenance.BATCH_SIZE", 3)
    project_id, other_project_id = [
        await maintainer.projects.create(f"project {uuid4()}", actor=LIBRARY) for _ in range(2)
    ]
    for each in (project_id, other_project_id):
        for days in (0, 29, 31):
            await create_old_conversation(maintainer, each, days)
    await maintainer.projects.retain(project_id, 30, actor=LIBRARY)
    assert (await maintain(maintainer.db, actor=LIBRARY)).deleted["messages"] >= 7
    conversations = await maintainer.conversations.list(project_id)
    assert [conversation.title for conversation in conversations] == ["0 days", "29 days"]
    assert len(await maintainer.conversations.list(other_project_id)) == 3
    await maintainer.projects.retain(project_id, None, actor=LIBRARY)
    assert (await maintain(maintainer.db, actor=LIBRARY)).deleted["messages"] == 0


async def test_delete_old_messages_needs_an_admin_and_affects_one_project(
    maintainer: Ring,
) -> None:
    path = f"{CONVERSATIONS}/old-messages"
    admin = await maintainer.keys.issue(
        f"project {uuid4()}", KeyOptions(scopes=PROJECT_SCOPES), actor=LIBRARY
    )
    other = await maintainer.keys.issue(f"project {uuid4()}", actor=LIBRARY)
    for project_id in (admin.project_id, other.project_id):
        await create_old_conversation(maintainer, project_id, 31)
        await create_old_conversation(maintainer, project_id, 29)
    async with client_of(maintainer.db, other.secret) as client:
        for query in ("", "?retention_days=1", "?retention_days=abc"):
            assert (await client.delete(path + query)).status_code == 403
    async with client_of(maintainer.db, admin.secret) as client:
        for invalid in ("0", "-1", "1000000000", "abc"):
            response = await client.delete(f"{path}?retention_days={invalid}")
            assert response.status_code == 422
        response = await client.delete(path)
        assert response.json() == {"deleted_count": 7, "retention_days": 30}
        assert len((await client.get(CONVERSATIONS)).json()) == 2
    assert len(await maintainer.conversations.list(other.project_id)) == 2


async def test_every_environment_stores_content_by_default(url: str, tmp_path: Path) -> None:
    for name in ("dev", "prod"):
        with open_environment(name, tmp_path, {"LLMRING_DATABASE_URL": url}) as environment:
            assert environment.settings.conversation_content == "full"
