"""How much is kept of what was said, for how long, and how it is found again."""

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
from llmring_server.conversations.models import ConversationPage, Level, NewConversation, NewMessage
from llmring_server.core.identity import LIBRARY, PROJECT_SCOPES, ProjectId
from llmring_server.maintenance import maintain
from tests.conversations.test_conversations import ROOT, begun, said
from tests.conversations.test_exchanges import LOG, SENT

SECRET = f"secret-{uuid4().hex}"
TALK: dict[str, Any] = {
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


async def found(client: httpx.AsyncClient, query: str) -> list[str]:
    answer = await client.get(ROOT, params={"q": query})
    assert answer.status_code == 200, answer.text
    return sorted(each["title"] for each in answer.json())


async def test_search_finds_words_in_titles_and_contents(client: httpx.AsyncClient) -> None:
    tea = await begun(client, title="Tea with Alice")
    coffee = await begun(client, title="Coffee")
    await said(client, tea, "Green or black?", "The Größe of the cup")
    parts = [{"type": "text", "text": "A black cat"}, {"type": "image", "url": "mountain"}]
    await client.post(f"{coffee}/messages", json={"role": "user", "content": parts})
    for query, titles in {
        "alice": ["Tea with Alice"],
        "BLACK": ["Coffee", "Tea with Alice"],
        "black cat": ["Coffee"],
        '"cat black"': [],
        "größe": ["Tea with Alice"],
        "black -cat": ["Tea with Alice"],
        "green or cat": ["Coffee", "Tea with Alice"],
        "mountain": [],
        "blac": [],
        "'; --": [],
        "!!! & | <-> ((": [],
    }.items():
        assert await found(client, query) == titles, query
    assert len(await found(client, "")) == 2


@pytest.mark.parametrize("many", [3, 1000])
async def test_search_pages_by_cursor_whether_words_are_rare_or_common(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    monkeypatch.setattr("llmring_server.conversations.service.MANY", many)
    await begun(client, title="no")
    await begun(client, title="Needle")
    for title in "abcde":
        await said(client, await begun(client, title=title), "needle", "needle")
    page = await client.get(f"{ROOT}?q=needle&limit=2")
    seen = [each["title"] for each in page.json()]
    while link := page.links.get("next"):
        page = await client.get(ROOT + link["url"])
        seen += [each["title"] for each in page.json()]
    assert seen == [*"edcba", "Needle"]


@pytest.mark.parametrize("level", ["none", "metadata", "full"])
@pytest.mark.parametrize("ceiling", ["none", "metadata", "full"])
async def test_no_more_is_kept_than_server_and_client_allow(
    db: AsyncDatabaseManager, key: str, project_id: ProjectId, ceiling: Level, level: Level
) -> None:
    async with client_of(db, key, auth="open", conversation_content=ceiling) as client:
        path = await begun(client, title="Tea")
        batch = {"messages": [TALK], "logging_level": level}
        answer = await client.post(f"{path}/messages/batch", json=batch)
        assert answer.status_code == 200
        stored = (await client.get(f"{path}/messages")).json()
    if "none" in {ceiling, level}:
        assert stored == []
        return
    [message] = stored
    assert (message["tool_calls"], message["metadata"]) == ([{"name": "look"}], {"a": 1})
    assert len(message["content_hash"]) == 64
    kept = SECRET if ceiling == level == "full" else None
    assert (message["content"], message["tool_results"]) == (kept, kept and [kept])
    assert len(await Ring(db).conversations.list(project_id, ConversationPage(q=SECRET))) == bool(
        kept
    )


async def test_what_is_not_to_be_kept_is_nowhere(
    db: AsyncDatabaseManager, key: str, project_id: ProjectId
) -> None:
    sent = SENT | {"messages": [{"content": SECRET}], "response": {"content": SECRET}}
    async with client_of(db, key, auth="open") as client:
        id = (await client.post(LOG, json=sent)).json()["conversation_id"]
        await client.post(f"{ROOT}/{id}/messages", json=TALK)
    rows = await db.fetch_all(
        "SELECT m::text FROM {{tables.messages}} m WHERE project_id = $1", project_id
    )
    assert len(rows) == 3
    assert SECRET not in str(rows)


async def test_log_at_level_none_counts_the_call_and_keeps_no_word(
    db: AsyncDatabaseManager, key: str, project_id: ProjectId
) -> None:
    async with client_of(db, key, auth="open", conversation_content="none") as client:
        told = (await client.post(LOG, json=SENT)).json()
        assert told["conversation_id"]
        assert told["message_id"]
        assert (await client.get(ROOT)).json() == []
    assert (await Ring(db).usage.stats(project_id)).summary.total_requests == 1


@pytest.fixture
def mortal(owner: AsyncDatabaseManager) -> Ring:
    """A ring that may maintain."""
    return Ring(owner, Settings(conversation_content="full"))


async def aged(ring: Ring, project_id: ProjectId, days: int, messages: int = 7) -> None:
    """Begin a conversation of so many days ago."""
    id = (await ring.conversations.create(project_id, NewConversation(title=f"{days} days"))).id
    await ring.conversations.append(
        project_id, id, [NewMessage(role="user", content="Hi")] * messages
    )
    for change in (
        "{{tables.messages}} SET created_at = now() - $2::interval WHERE conversation_id = $1",
        "{{tables.conversations}} SET updated_at = now() - $2::interval WHERE id = $1",
    ):
        await ring.db.execute(f"UPDATE {change}", id, timedelta(days=days))


async def test_maintenance_forgets_what_a_project_need_not_keep(
    mortal: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.maintenance.BATCH_SIZE", 3)
    mine, other = [
        await mortal.projects.create(f"project {uuid4()}", actor=LIBRARY) for _ in range(2)
    ]
    for project_id in (mine, other):
        for days in (0, 29, 31):
            await aged(mortal, project_id, days)
    await mortal.projects.retain(mine, 30, actor=LIBRARY)
    assert (await maintain(mortal.db, actor=LIBRARY)).deleted["messages"] >= 7
    left = [each.title for each in await mortal.conversations.list(mine)]
    assert left == ["0 days", "29 days"]
    assert len(await mortal.conversations.list(other)) == 3
    await mortal.projects.retain(mine, None, actor=LIBRARY)
    assert (await maintain(mortal.db, actor=LIBRARY)).deleted["messages"] == 0


async def test_forget_needs_an_admin_and_is_for_one_s_own(mortal: Ring) -> None:
    path = f"{ROOT}/old-messages"
    key = await mortal.keys.issue(
        f"project {uuid4()}", KeyOptions(scopes=PROJECT_SCOPES), actor=LIBRARY
    )
    other = await mortal.keys.issue(f"project {uuid4()}", actor=LIBRARY)
    for project_id in (key.project_id, other.project_id):
        await aged(mortal, project_id, 31)
        await aged(mortal, project_id, 29)
    async with client_of(mortal.db, other.secret) as client:
        for query in ("", "?retention_days=1", "?retention_days=abc"):
            assert (await client.delete(path + query)).status_code == 403
    async with client_of(mortal.db, key.secret) as client:
        for wrong in ("0", "-1", "1000000000", "abc"):
            answer = await client.delete(f"{path}?retention_days={wrong}")
            assert answer.status_code == 422
        answer = await client.delete(path)
        assert answer.json() == {"deleted_count": 7, "retention_days": 30}
        assert len((await client.get(ROOT)).json()) == 2
    assert len(await mortal.conversations.list(other.project_id)) == 2


async def test_environments_keep_content_at_home_only(url: str, tmp_path: Path) -> None:
    for name, kept in (("dev", "full"), ("prod", "metadata")):
        with open_environment(name, tmp_path, {"LLMRING_DATABASE_URL": url}) as environment:
            assert environment.settings.conversation_content == kept
