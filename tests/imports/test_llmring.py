"""`llmring-server import llmring`: a database of llmring-server 0.1.3, stored here."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from pydantic import SecretStr

from llmring_server import Ring, Settings
from llmring_server.access.audit import AuditPage
from llmring_server.core.identity import LIBRARY, ProjectId, project_of_key
from llmring_server.core.ids import moment_of
from llmring_server.db import admin
from llmring_server.errors import InvalidRequest
from llmring_server.imports.llmring import KindReport, LlmringReport
from llmring_server.imports.llmring_rows import ZERO_COST, imported_id
from llmring_server.imports.llmring_source import Totals, open_llmring
from llmring_server.mcp.models import CapabilityPage, ExecutionPage
from llmring_server.usage.models import CallFilter
from llmring_server.usage.stats import StatsQuery
from tests.cli.test_db import run
from tests.conftest import SCHEMA
from tests.support.postgres import database

TABLES = Path(__file__).parents[2] / "scripts/benchmark/llmring_0_1_3.sql"
ROWS = Path(__file__).with_name("llmring_rows.sql")
KEYS = ("key-of-a", "key-of-b")
A, B = map(project_of_key, KEYS)
USERS = ProjectId(UUID("5e0f9f29-0c6f-4f6f-9a0c-aaaaaaaaaaaa"))
OTHERS = project_of_key("others")
SEALING_KEY = "11" * 32
EMPTY = Totals()
DAYS = timedelta(days=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
async def filled(server_url: str) -> AsyncIterator[str]:
    """The URL of a database of llmring-server 0.1.3 with data, which no test changes."""
    async with database(server_url, "llmring_0_1") as url:
        connection = await asyncpg.connect(url)
        for script in (TABLES, ROWS):
            await connection.execute(script.read_text())
        await connection.close()
        yield url


@pytest.fixture
async def old(server_url: str, filled: str) -> AsyncIterator[str]:
    """The URL of a copy of it."""
    async with database(server_url, "old", admin.database_name(filled)) as url:
        yield url


@pytest.fixture(scope="module")
async def ring(server_url: str, template: str) -> AsyncIterator[Ring]:
    """A ring on a database of its own."""
    settings = Settings(
        database_schema=SCHEMA,
        database_pool_size=1,
        auth="open",
        sealing_keys=(SecretStr(SEALING_KEY),),
    )
    async with database(server_url, "new", template) as url:
        own = settings.model_copy(update={"database_url": url})
        async with Ring.open(own) as ring:
            yield ring


@pytest.fixture(scope="module")
async def imported_by_command(ring: Ring, filled: str) -> Any:
    """What the command printed that stored everything in the database of `ring`."""
    return command(ring, filled, "--project", "others")


@pytest.fixture
def new(alone: Ring) -> Ring:
    """A ring on an empty database, with a key for MCP credentials."""
    sealing_keys = (SecretStr(SEALING_KEY),)
    return Ring(alone.db, alone.settings.model_copy(update={"sealing_keys": sealing_keys}))


def command(ring: Ring, old: str, *arguments: str) -> Any:
    settings = ring.settings
    return run(
        *("import", "llmring", "--env", "prod", "--from", old, *arguments),
        LLMRING_DATABASE_URL=settings.database_url or "",
        LLMRING_DATABASE_SCHEMA=settings.database_schema,
        LLMRING_SEALING_KEYS=SEALING_KEY,
    )


async def imported(
    ring: Ring, url: str, since: datetime | None = None, **given: Any
) -> LlmringReport:
    async with open_llmring(url, since=since) as source:
        options: dict[str, Any] = {"actor": LIBRARY, "without_owner": OTHERS} | given
        return await ring.llmring_import.run(source, **options)


async def change(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def totals(url: str, table: str) -> Totals:
    connection = await asyncpg.connect(url)
    [row] = await connection.fetch(
        f"SELECT count(*), sum(input_tokens + output_tokens), sum(cost) FROM {table}"  # noqa: S608
    )
    await connection.close()
    return Totals(*row)


async def sums(ring: Ring) -> dict[str, Any]:
    """Return what is stored: of each table, and in the statistics of each project."""
    found: dict[str, Any] = {}
    for table in ("usage_logs", "messages", "conversations", "templates", "template_versions"):
        rows = f"SELECT t::text AS row FROM {{{{tables.{table}}}}} AS t"  # noqa: S608
        sql = f"SELECT md5(string_agg(row, ',' ORDER BY row)) FROM ({rows}) AS rows"  # noqa: S608
        found[table] = await ring.db.fetch_value(sql)
    for table in ("servers", "capabilities", "executions"):
        sql = f"SELECT count(*) FROM {{{{tables.tested_mcp.{table}}}}}"  # noqa: S608
        found[table] = await ring.db.fetch_value(sql)
    query = StatsQuery(start_date=datetime.now(UTC) - 200 * DAYS)
    for project in (A, B, USERS, OTHERS):
        stats = await ring.usage.stats(project, query)
        found[str(project)] = (stats.summary, stats.by_model)
    return found


async def test_the_command_stores_everything_once_and_compares(
    ring: Ring, filled: str, imported_by_command: Any
) -> None:
    first = imported_by_command
    assert first.returncode == 0, first.stderr
    assert "stored: 5,788\n" in first.stdout
    calls = await totals(filled, "llmring.usage_logs")
    for side in (f"{calls.rows:,}", f"{calls.tokens:,}", f"{calls.cost.normalize():,}"):
        assert first.stdout.count(side) >= 2, first.stdout
    assert "not stored" not in first.stdout
    assert await totals(ring.settings.database_url or "", "tested.usage_logs") == calls
    before = await sums(ring)
    again = command(ring, filled, "--project", "others")
    assert again.returncode == 0
    assert "stored: 0\nstored before: 5,788\n" in again.stdout
    assert await sums(ring) == before


async def test_no_key_is_stored_or_printed(ring: Ring, imported_by_command: Any) -> None:
    printed = imported_by_command.stdout + imported_by_command.stderr
    tables = await ring.db.fetch_all(
        "SELECT format('%I.%I', table_schema, table_name) AS name FROM information_schema.tables"
        " WHERE table_schema LIKE 'tested%' AND table_type = 'BASE TABLE'"
    )
    for key in KEYS:
        assert key not in printed
        for table in tables:
            sql = f"SELECT count(*) FROM {table['name']} AS t WHERE t::text LIKE $1"  # noqa: S608
            assert await ring.db.fetch_value(sql, f"%{key}%") == 0


@pytest.mark.usefixtures("imported_by_command")
async def test_calls_are_stored_as_they_were(ring: Ring, filled: str) -> None:
    connection = await asyncpg.connect(filled)
    rows = await connection.fetch(
        "SELECT * FROM llmring.usage_logs WHERE api_key_id = 'key-of-a' ORDER BY created_at DESC"
    )
    await connection.close()
    calls = CallFilter(start_date=datetime.now(UTC) - 200 * DAYS)
    exported = [call async for call in ring.usage.export(A, calls)]
    assert len(exported) == len(rows) == 1800
    for call, row in zip(exported, rows, strict=True):
        assert call.id == imported_id(row["id"], row["created_at"])
        assert call.logged_at == row["created_at"]
        assert (call.cost, call.cost_source) == (row["cost"], "client")
        for name in ("provider", "model", "alias", "origin", "id_at_origin", "latency_ms"):
            assert getattr(call, name) == row[name]
        for name in ("input_tokens", "output_tokens", "cached_input_tokens"):
            assert getattr(call, name) == row[name]
    [linked] = [call for call in exported if call.conversation_id]
    assert linked.id_at_origin == "order-3"
    assert linked.conversation_id == UUID("00000000-0000-4000-8000-000000000002")


@pytest.mark.usefixtures("imported_by_command")
async def test_conversations_keep_their_totals_and_order(ring: Ring) -> None:
    id = UUID("00000000-0000-4000-8000-000000000002")
    conversation = await ring.conversations.get(A, id)
    assert (conversation.title, conversation.model_alias) == ("Conversation 2", "fast")
    # Two messages had been deleted, which the totals count.
    assert conversation.message_count == 7
    assert (conversation.total_input_tokens, conversation.total_output_tokens) == (21, 12)
    assert conversation.total_cost == Decimal("1.00061725")
    messages = await ring.conversations.messages(A, id)
    assert [message.content for message in messages] == [f"Message {m}" for m in range(1, 6)]
    assert messages[0].cost == Decimal("0.00012345")
    assert messages[1].tool_calls[0]["id"] == "call_1"
    assert all(message.content_kept for message in messages)


@pytest.mark.usefixtures("imported_by_command")
async def test_templates_belong_to_their_key_and_others_are_shared(ring: Ring) -> None:
    of_a = await ring.templates.list(A)
    assert {(each.name, each.usage_count) for each in of_a} == {("Support", 12), ("Everyone's", 3)}
    support = next(each for each in of_a if each.name == "Support")
    assert (support.version, support.tool_config) == (1, {"tools": ["look"]})
    assert [each.name for each in await ring.templates.list(B)] == ["Everyone's"]


@pytest.mark.usefixtures("imported_by_command")
async def test_mcp_servers_keep_ids_credentials_and_history(ring: Ring) -> None:
    [server] = await ring.mcp.servers.list(A)
    assert server.id == UUID("20000000-0000-4000-8000-000000000001")
    secret = await ring.mcp.servers.read_secret(A, server.id, actor=LIBRARY)
    assert secret == {"token": "t0ken"}
    [tool] = await ring.mcp.capabilities.list(A, "tool", CapabilityPage(server_id=server.id))
    assert (tool.name, tool.input_schema) == ("read", {"type": "object"})
    [prompt] = await ring.mcp.capabilities.list(A, "prompt", CapabilityPage(server_id=server.id))
    assert prompt.arguments == [{"name": "who"}]
    history = await ring.mcp.executions.history(A, tool.id, ExecutionPage())
    assert [each.duration_ms for each in history] == list(range(20, 0, -1))
    assert (history[1].status, history[1].error) == ("error", "not found")


async def test_what_cannot_be_stored_is_listed_with_its_amounts(new: Ring, old: str) -> None:
    await change(
        old,
        "UPDATE llmring.usage_logs SET cost = -0.5 WHERE id_at_origin = 'order-1'",
        "UPDATE llmring.usage_logs SET cost = 'NaN' WHERE id_at_origin = 'order-2'",
        "UPDATE llmring.usage_logs SET output_tokens = -1 WHERE id_at_origin = 'order-3'",
        "UPDATE llmring.usage_logs SET created_at = 'infinity' WHERE id_at_origin = 'order-4'",
        "UPDATE llmring.usage_logs SET created_at = NULL WHERE id_at_origin = 'order-5'",
        "UPDATE llmring.usage_logs SET created_at = now() + interval '1 hour'"
        " WHERE id_at_origin = 'order-6'",
        "INSERT INTO mcp_client.tools (name, input_schema) VALUES ('stray', '{}')",
    )
    ran = command(new, old)
    assert ran.returncode == 1
    for line in (
        "calls not stored: 1 rows, 2 tokens, -0.5 USD: its cost is negative.",
        "calls not stored: 1 rows, 4 tokens, 0 USD: its cost is not a number.",
        "calls not stored: 1 rows, 2 tokens, 0.00000369 USD: a number of tokens is negative.",
        "calls not stored: 2 rows, 18 tokens, 0.00001107 USD: it has no time, or one before 1970.",
        "calls not stored: 1 rows, 12 tokens, 0.00000738 USD: its time lies more than 10 minutes",
        "MCP tools not stored: 1 rows: its server is not stored",
    ):
        assert line in ran.stdout, ran.stdout
    assert "without a known reason" not in ran.stdout


async def test_a_cost_of_zero_with_tokens_is_unpriced_unless_it_is_said_to_be_free(
    new: Ring, old: str
) -> None:
    await change(old, "UPDATE llmring.usage_logs SET cost = 0 WHERE id_at_origin = 'order-9'")
    report = await imported(new, old, dry_run=True, zero_cost_is_free=True)
    assert ZERO_COST not in report.notes
    report = await imported(new, old)
    assert report.notes[ZERO_COST] == 1
    assert report.is_complete
    stats = await new.usage.stats(A, StatsQuery(start_date=datetime.now(UTC) - 200 * DAYS))
    assert stats.summary.unpriced_requests == 1


async def test_an_import_that_stops_is_continued(new: Ring, filled: str) -> None:
    expected = await imported(new, filled, dry_run=True)
    for batches in (1, 2, 4, 7, 9):
        seen = 0

        def stop(_: KindReport, batches: int = batches) -> None:
            nonlocal seen
            seen += 1
            if seen == batches:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            await imported(new, filled, progress=stop)
    report = await imported(new, filled)
    assert report.is_complete
    assert [kind.here for kind in report.kinds] == [kind.here for kind in expected.kinds]
    stored = [kind.stored for kind in report.kinds]
    assert 0 < sum(stored) < sum(kind.here.rows for kind in report.kinds)
    complete = await sums(new)
    again = await imported(new, filled)
    assert sum(kind.stored for kind in again.kinds) == 0
    assert await sums(new) == complete


async def test_an_import_that_is_cancelled_stores_batches_whole(new: Ring, filled: str) -> None:
    for rounds in (3, 20, 60):
        task = asyncio.create_task(imported(new, filled))
        for _ in range(rounds):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    report = await imported(new, filled)
    assert report.is_complete
    conversation = await new.conversations.get(A, UUID("00000000-0000-4000-8000-000000000002"))
    assert (conversation.message_count, conversation.total_input_tokens) == (7, 21)


async def test_a_dry_run_changes_nothing(new: Ring, filled: str) -> None:
    before = await sums(new)
    ran = command(new, filled, "--dry-run")
    assert ran.returncode == 0
    assert "to be stored: 5,788\nstored before: 0\n" in ran.stdout
    assert await sums(new) == before
    assert await new.audit.events(datetime.now(UTC) - DAYS, None, AuditPage()) == []


async def test_since_takes_conversations_that_changed_whole(new: Ring, filled: str) -> None:
    since = datetime.now(UTC) - 48 * DAYS
    partly = await imported(new, filled, since)
    calls, conversations, messages = partly.kinds[:3]
    assert calls.source == EMPTY
    assert 0 < conversations.here.rows < 60
    assert messages.here.rows == 5 * conversations.here.rows
    # Everything follows, and the totals are those of an import at once.
    assert (await imported(new, filled)).is_complete
    row = await new.db.fetch_one(
        "SELECT sum(message_count) AS messages, sum(total_cost) AS cost"
        " FROM {{tables.conversations}}"
    )
    assert row == {"messages": 420, "cost": 60 * Decimal("1.00061725")}


async def test_messages_that_follow_later_are_added(new: Ring, old: str) -> None:
    await imported(new, old)
    await change(
        old,
        "INSERT INTO llmring.messages (conversation_id, role, content, input_tokens)"
        " VALUES ('00000000-0000-4000-8000-000000000002', 'user', 'More', 4)",
        "UPDATE llmring.conversations SET message_count = 8, total_input_tokens = 25,"
        " updated_at = now() WHERE id = '00000000-0000-4000-8000-000000000002'",
    )
    report = await imported(new, old, datetime.now(UTC) - DAYS)
    assert [kind.stored for kind in report.kinds[:3]] == [0, 0, 1]
    conversation = await new.conversations.get(A, UUID("00000000-0000-4000-8000-000000000002"))
    assert (conversation.message_count, conversation.total_input_tokens) == (8, 25)


async def test_an_earlier_release_and_columns_encoded_twice_are_read(new: Ring, old: str) -> None:
    of_mcp = [f"mcp_client.{name}" for name in ("servers", "tools", "resources", "prompts")]
    tables = ["llmring.usage_logs", "llmring.conversations", *of_mcp]
    await change(
        old,
        *(f"ALTER TABLE {table} DROP COLUMN project_id" for table in tables),
        "ALTER TABLE llmring.conversation_templates DROP COLUMN api_key_id",
        f"ALTER DATABASE {admin.database_name(old)} SET timezone = 'America/New_York'",
        "ALTER TABLE llmring.usage_logs ALTER created_at TYPE timestamp"
        " USING created_at AT TIME ZONE 'America/New_York'",
        "UPDATE llmring.usage_logs SET metadata = to_jsonb(metadata::text)",
        "CREATE TABLE llmring.receipts (id uuid); INSERT INTO llmring.receipts VALUES (NULL)",
    )
    ran = command(new, old, "--project", "others")
    assert ran.returncode == 0, ran.stderr
    assert "Not imported: 1 rows of receipts; their signatures" in ran.stdout
    [others] = [each for each in await new.projects.list() if each.name == "others"]
    query = StatsQuery(start_date=datetime.now(UTC) - 200 * DAYS)
    stats = await new.usage.stats(others.project_id, query)
    assert stats.summary.total_requests == 1800
    calls = CallFilter(start_date=query.start_date, id_at_origin="order-12")
    [call] = [call async for call in new.usage.export(A, calls)]
    assert call.metadata == {"n": 12, "text": "é"}
    first = datetime.now(UTC).replace(second=0, microsecond=0) - 100 * DAYS
    assert abs(call.logged_at - first - 12 * timedelta(minutes=1, seconds=1.234567)) <= 5 * MINUTE


async def test_content_is_kept_as_far_as_the_server_keeps_it(new: Ring, filled: str) -> None:
    settings = new.settings.model_copy(update={"conversation_content": "metadata"})
    await imported(Ring(new.db, settings), filled)
    messages = await new.conversations.messages(A, UUID("00000000-0000-4000-8000-000000000002"))
    assert {(message.content, message.content_kept) for message in messages} == {("", False)}
    assert all(message.content_hash for message in messages)


async def test_nothing_is_stored_after_an_error_that_says_what_to_do(
    new: Ring, filled: str, url: str
) -> None:
    without_key = Ring(new.db, new.settings.model_copy(update={"sealing_keys": ()}))
    with pytest.raises(InvalidRequest, match="LLMRING_SEALING_KEYS"):
        await imported(without_key, filled)
    with pytest.raises(InvalidRequest, match="1 rows have no API key and no project"):
        await imported(new, filled, without_owner=None)
    wrong_schema = command(new, filled, "--schema", "public")
    assert "no tables of llmring-server 0.1 in the schema public" in wrong_schema.stderr
    newer = command(new, url, "--schema", "tested")
    assert "The schema tested has the tables of a newer llmring-server" in newer.stderr
    missing = command(new, admin.with_database_name(filled, "missing"))
    assert "Cannot connect to the database to import" in missing.stderr
    not_a_url = command(new, "https://x:secret@host/db")
    assert "not a PostgreSQL URL" in not_a_url.stderr
    for ran in (wrong_schema, newer, missing, not_a_url):
        assert ran.returncode != 0
        assert "secret" not in ran.stderr
    assert await new.db.fetch_value("SELECT count(*) FROM {{tables.usage_logs}}") == 0


def test_ids_that_an_import_stores_must_not_change() -> None:
    old = UUID("8f14e45f-ceea-467f-ab1c-0123456789ab")
    at = datetime(2026, 11, 21, 7, 3, 52, 274123, UTC)
    id = imported_id(old, at)
    assert id == UUID("01a1fceb-28d2-71f7-ab1c-0123456789ab")
    assert moment_of(id) == at.replace(microsecond=274000)
    assert imported_id(id, at) == id
    assert imported_id(id, at + DAYS) != id
