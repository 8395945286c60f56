"""Full-text search of conversations."""

import httpx
import pytest

from tests.support.conversations import CONVERSATIONS, add_texts, create_conversation


async def titles_of(client: httpx.AsyncClient, query: str) -> list[str]:
    """Return the titles of the conversations that a query finds."""
    response = await client.get(CONVERSATIONS, params={"q": query})
    assert response.status_code == 200, response.text
    return sorted(each["title"] for each in response.json())


async def test_search_finds_words_in_titles_and_contents(client: httpx.AsyncClient) -> None:
    tea = await create_conversation(client, title="Tea with Alice")
    coffee = await create_conversation(client, title="Coffee")
    await add_texts(client, tea, "Green or black?", "The Größe of the cup")
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
        assert await titles_of(client, query) == titles, query
    assert len(await titles_of(client, "")) == 2


@pytest.mark.parametrize("match_limit", [3, 1000], ids=["common words", "rare words"])
async def test_search_returns_pages_whether_words_are_rare_or_common(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, match_limit: int
) -> None:
    monkeypatch.setattr("llmring_server.conversations.service.SEARCH_MATCH_LIMIT", match_limit)
    await create_conversation(client, title="no")
    await create_conversation(client, title="Needle")
    for title in "abcde":
        path = await create_conversation(client, title=title)
        await add_texts(client, path, "needle", "needle")
    page = await client.get(f"{CONVERSATIONS}?q=needle&limit=2")
    titles = [each["title"] for each in page.json()]
    while link := page.links.get("next"):
        page = await client.get(CONVERSATIONS + link["url"])
        titles += [each["title"] for each in page.json()]
    assert titles == [*"edcba", "Needle"]
