"""The published client's command line against a running server, as a user types it."""

import csv
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Server, Settings
from llmring_server.conversations.models import NewConversation, NewMessage
from llmring_server.core.identity import ProjectId
from llmring_server.usage.models import NewCall
from tests.conftest import CALL
from tests.support.client_cli import Run, llmring

__all__ = ["llmring"]

COLUMNS = ["logged_at", "provider", "model", "alias", "profile", "origin"]
COLUMNS += ["input_tokens", "output_tokens", "cost"]


@pytest.fixture(params=["open"])
async def server(request: pytest.FixtureRequest, db: AsyncDatabaseManager) -> AsyncIterator[Server]:
    async with Server(
        Ring(db, Settings(auth=request.param, conversation_content="full")), port=0
    ) as server:
        yield server


@pytest.fixture
async def two_calls(ring: Ring, project_id: ProjectId) -> None:
    await ring.usage.log(project_id, NewCall(**CALL, cost=Decimal("0.25"), origin="tests"))
    await ring.usage.log(project_id, NewCall(**CALL, alias="fast", profile="prod"))


async def test_init_finds_the_server_and_saves_its_url(
    llmring: Run, server: Server, key: str, tmp_path: Path
) -> None:
    printed = await llmring("server", "init")
    assert "status=healthy, version=0." in printed
    saved = (tmp_path / ".env.llmring").read_text()
    assert f"LLMRING_SERVER_URL={server.url}\n" in saved
    assert f"LLMRING_API_KEY={key}\n" in saved


async def test_status_reports_a_healthy_server(llmring: Run) -> None:
    printed = await llmring("server", "status")
    assert "status=healthy database=connected" in printed
    assert "API key accepted" in printed


@pytest.mark.parametrize("server", ["keys"], indirect=True)
async def test_status_reports_an_unknown_key(llmring: Run) -> None:
    assert "API key was rejected (401)" in await llmring("server", "status")


async def test_register_returns_a_key(llmring: Run) -> None:
    asked = "--non-interactive", "--email", "a@b.c", "--accept-terms"
    printed = await llmring("register", *asked)
    assert 'LLMRING_API_KEY="llmr_pk_' in printed


@pytest.mark.usefixtures("two_calls")
async def test_stats_as_json_match_the_server(llmring: Run) -> None:
    stats = json.loads(await llmring("server", "stats", "--json"))
    assert (stats["summary"]["total_requests"], stats["summary"]["total_cost"]) == (2, "0.25027")
    assert list(stats["by_alias"]) == ["fast"]


@pytest.mark.usefixtures("two_calls")
async def test_logs_as_a_table_show_every_call(llmring: Run) -> None:
    _, _, newest, oldest = (await llmring("server", "logs")).splitlines()
    assert newest.endswith(":: None :: fast 1000→200 $0.0003")
    assert oldest.endswith(":: tests :: gpt-4o-mini 1000→200 $0.2500")


@pytest.mark.usefixtures("two_calls")
async def test_logs_as_json_match_their_filters(llmring: Run) -> None:
    filters = ("--origin", "tests", "--model", "gpt-4o-mini")
    [log] = json.loads(await llmring("server", "logs", "--json", *filters))
    assert (log["model"], log["cost"], log["cost_source"]) == ("gpt-4o-mini", 0.25, "client")


@pytest.mark.usefixtures("two_calls")
async def test_logs_as_csv_have_a_row_for_each_call_of_a_page(llmring: Run, tmp_path: Path) -> None:
    page = ("--limit", "1", "--offset", "1")
    await llmring("server", "logs", "--output", "csv", "--output-file", "calls.csv", *page)
    with (tmp_path / "calls.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert list(row) == COLUMNS
    assert (row["origin"], row["profile"], row["cost"]) == ("tests", "default", "0.25")


async def test_conversations_are_listed_and_shown(
    llmring: Run, ring: Ring, project_id: ProjectId
) -> None:
    id = (await ring.conversations.create(project_id, NewConversation(title="Tea"))).id
    messages = [
        NewMessage(role="user", content="Hi"),
        NewMessage(role="assistant", content="Hello" * 20),
    ]
    await ring.conversations.append(project_id, id, messages)
    assert f"{id} :: Tea model=default" in await llmring(
        "server", "conversations", "--limit", "500"
    )
    shown = await llmring("server", "conversations", "--conversation-id", str(id), "--messages")
    assert " title      : Tea" in shown
    assert "[user] Hi (in=None out=None)" in shown
    assert "[assistant] HelloHello" in shown
    shown = json.loads(
        await llmring("server", "conversations", "--conversation-id", str(id), "--json")
    )
    assert [message["content"] for message in shown["messages"]] == ["Hi", "Hello" * 20]
