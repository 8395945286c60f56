"""`import llmring` of a database that is odd, or changes between imports."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from llmring_server import Ring
from llmring_server.core.identity import LIBRARY, project_of_key
from llmring_server.db import admin
from llmring_server.errors import InvalidRequest, Unavailable
from llmring_server.imports import llmring, llmring_rows
from llmring_server.imports.llmring import KindReport, LlmringReport
from llmring_server.imports.llmring_source import BATCH_BYTES, Totals, open_llmring
from llmring_server.maintenance import maintain
from llmring_server.usage.stats import StatsQuery
from tests.imports.test_llmring import SEALING_KEY, TABLES, A, change, command, imported
from tests.support.postgres import database

CONVERSATION = UUID("00000000-0000-4000-8000-000000000001")
DAYS = timedelta(days=1)
ODD_ROWS = Path(__file__).with_name("odd_rows.sql")
ADD_CONVERSATION = (
    "INSERT INTO llmring.conversations (id, api_key_id, model_alias, message_count,"
    " total_input_tokens, total_cost) VALUES ('00000000-0000-4000-8000-000000000001', 'key-of-a',"
    " 'fast', 0, 0, 0)"
)


@pytest.fixture(scope="module")
async def empty(server_url: str) -> AsyncIterator[str]:
    """The URL of a database of llmring-server 0.1.3 without data."""
    async with database(server_url, "llmring_0_1") as url:
        await change(url, TABLES.read_text())
        yield url


@pytest.fixture
async def old(server_url: str, empty: str) -> AsyncIterator[str]:
    async with database(server_url, "old", admin.database_name(empty)) as url:
        yield url


@pytest.fixture
def new(alone: Ring) -> Ring:
    sealing_keys = (SecretStr(SEALING_KEY),)
    return Ring(alone.db, alone.settings.model_copy(update={"sealing_keys": sealing_keys}))


def kind(report: LlmringReport, name: str) -> KindReport:
    return next(each for each in report.kinds if each.kind == name)


def assert_explained(report: LlmringReport) -> None:
    """Every difference has a reason, and every reason names rows."""
    for each in report.kinds:
        assert each.unexplained == Totals(), each
        assert all(each.ids[reason] for reason in each.refused)


@pytest.fixture
async def reader(old: str) -> AsyncIterator[str]:
    """The URL of a role that may not read anything yet; its name is its password."""
    role = f"reader_{uuid4().hex[:8]}"
    await change(old, f"CREATE ROLE {role} LOGIN PASSWORD '{role}'")
    parts = urlsplit(old)
    yield parts._replace(netloc=f"{role}:{role}@{parts.netloc.rpartition('@')[2]}").geturl()
    await change(old, f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_what_the_role_may_not_read_is_an_error(old: str, reader: str) -> None:
    role = urlsplit(reader).username

    async def error() -> str:
        with pytest.raises(InvalidRequest) as raised:
            async with open_llmring(reader):
                pass
        return str(raised.value)

    assert "may not read llmring.conversation_templates, llmring.conversations" in await error()
    await change(
        old,
        f"GRANT USAGE ON SCHEMA llmring TO {role}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA llmring TO {role}",
    )
    text = await error()
    assert "may not read mcp_client.prompts" in text
    assert "GRANT USAGE ON SCHEMA mcp_client TO" in text
    await change(
        old,
        f"GRANT USAGE ON SCHEMA mcp_client TO {role}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA mcp_client TO {role}",
        f"REVOKE SELECT ON llmring.messages FROM {role}",  # noqa: S608
    )
    assert "may not read llmring.messages." in await error()
    await change(
        old,
        f"GRANT SELECT ON llmring.messages TO {role}",
        "ALTER TABLE llmring.messages ENABLE ROW LEVEL SECURITY",
    )
    assert "BYPASSRLS" in await error()
    await change(old, "ALTER TABLE llmring.messages DISABLE ROW LEVEL SECURITY")
    async with open_llmring(reader) as source:
        assert len(source.totals) == 9


async def test_the_text_of_an_error_of_the_source_has_no_values(old: str) -> None:
    await change(
        old,
        "INSERT INTO llmring.usage_logs (api_key_id, model, provider, input_tokens, output_tokens,"
        " cost) VALUES ('sk-secret', 'm', 'p', 1, 1, 0)",
        "ALTER TABLE llmring.usage_logs RENAME TO logs",
        "CREATE VIEW llmring.usage_logs AS SELECT id, api_key_id::int::text AS api_key_id,"
        " input_tokens, output_tokens, cost, created_at FROM llmring.logs",
    )
    with pytest.raises(Unavailable, match="SQLSTATE 22P02") as raised:
        async with open_llmring(old):
            pass
    assert "sk-secret" not in str(raised.value)


async def test_calls_of_days_that_were_deleted_are_only_said_to_be_counted_if_they_are(
    new: Ring, old: str
) -> None:
    add = (
        "INSERT INTO llmring.usage_logs (api_key_id, model, provider, input_tokens, output_tokens,"
        " cost, created_at) SELECT 'key-of-a', 'gpt-4o', 'openai', 1, 1, 0.5,"
        " '2023-01-15 00:00Z'::timestamptz + n * interval '1 second'"
        " FROM generate_series(1, 50) AS n"
    )
    await change(old, add)
    assert (await imported(new, old)).is_complete
    await maintain(new.db, retain=400 * DAYS, actor=LIBRARY)
    report = await imported(new, old)
    calls = Totals(50, 100, Decimal(25))
    assert kind(report, "calls").refused == {llmring.DROPPED: calls}
    await change(old, add)
    for dry_run in (True, False):
        report = await imported(new, old, dry_run=dry_run)
        assert kind(report, "calls").refused == {llmring.DROPPED_UNSURE: calls + calls}
        assert_explained(report)
    assert "db maintain --retain" in llmring.DROPPED_UNSURE
    stats = await new.usage.stats(A, StatsQuery(start_date=datetime(2023, 1, 1, tzinfo=UTC)))
    assert stats.summary.total_requests == 50


async def test_totals_that_an_interrupted_import_left_too_low_are_raised(
    new: Ring, old: str
) -> None:
    await change(
        old,
        ADD_CONVERSATION,
        "INSERT INTO llmring.messages (conversation_id, role, content, input_tokens, metadata)"
        """ SELECT id, 'user', 'text ' || n, n, '{"cost": 0.25}'"""
        " FROM llmring.conversations, generate_series(1, 4) AS n",
        "UPDATE llmring.conversations SET message_count = 4, total_input_tokens = 10,"
        " total_cost = 1",
    )

    def stop(report: KindReport) -> None:
        if report.kind == "conversations":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await imported(new, old, progress=stop)
    await change(old, "DELETE FROM llmring.messages WHERE input_tokens > 2")
    for _ in range(2):
        report = await imported(new, old)
        assert report.is_complete
        assert kind(report, "conversations").here == Totals(1, 10, Decimal(1))
        conversation = await new.conversations.get(A, CONVERSATION)
        assert (conversation.message_count, conversation.total_input_tokens) == (4, 10)
        assert conversation.total_cost == 1


async def test_rows_whose_ids_become_the_same_are_listed(new: Ring, old: str) -> None:
    await change(
        old,
        ADD_CONVERSATION,
        "INSERT INTO llmring.messages (id, conversation_id, role, content, input_tokens)"
        " SELECT (lpad(n::text, 8, '0') || '-0000-4000-8000-000000000000')::uuid, id, 'user', 'x',"
        " 1 FROM llmring.conversations, generate_series(1, 210) AS n",
        "UPDATE llmring.conversations SET message_count = 210, total_input_tokens = 210",
    )
    for _ in range(2):
        report = await imported(new, old)
        messages = kind(report, "messages")
        assert messages.here == Totals(1, 1)
        assert messages.refused == {llmring.SAME_ID: Totals(209, 209)}
        assert_explained(report)


async def test_a_row_that_cannot_be_stored_is_listed_and_stops_no_other(
    new: Ring, old: str
) -> None:
    await change(old, ODD_ROWS.read_text())
    with pytest.raises(InvalidRequest, match="1 rows have no API key and no project"):
        await imported(new, old, without_owner=None)
    report = await imported(new, old)
    assert_explained(report)
    calls, messages = kind(report, "calls"), kind(report, "messages")
    assert calls.refused == {
        "a number of tokens is missing": Totals(1, 1, Decimal("0.5")),
        "its cost is not a number": Totals(2, 22),
        llmring_rows.TOO_EXPENSIVE: Totals(1, 11, Decimal(10**12)),
        "it has no time, or one before 1970": Totals(1, 11, Decimal("0.5")),
        "the id of its project is no UUID": Totals(1, 11, Decimal("0.5")),
        llmring.NOT_STORABLE: Totals(1, 11, Decimal("0.5")),
    }
    assert calls.here.rows == 2
    assert {reason: totals.rows for reason, totals in messages.refused.items()} == {
        llmring_rows.UNREADABLE_JSON: 3,
        "it has no time, or one before 1970": 2,
        llmring.NOT_STORABLE: 1,
        llmring.WITHOUT_AMOUNTS: 0,
    }
    amounts = Totals(0, -5, Decimal(10**12) - Decimal("0.5"))
    assert messages.refused[llmring.WITHOUT_AMOUNTS] == amounts
    assert messages.here.cost == Decimal("0.1111111111") + Decimal("0.00001")
    assert kind(report, "conversations").here.rows == 6
    assert {**report.notes} == {
        llmring_rows.ODD_TOTAL: 1,
        llmring_rows.ODD_TIME: 3,
        llmring_rows.NOT_A_HEADER: 1,
        llmring_rows.NO_COST: 1,
        llmring_rows.NO_METADATA: 1,
        llmring_rows.FEWER_THAN_TOTALS: 1,
        llmring_rows.NEGATIVE_TOKENS: 1,
    }
    assert kind(report, "servers").refused == {llmring_rows.UNREADABLE_JSON: Totals(1)}
    tools = kind(report, "tools")
    assert tools.here.rows == 2
    assert tools.refused[llmring_rows.OTHER_OWNER] == Totals(1)
    assert "secret-name" not in str(tools)
    assert kind(report, "executions").here.rows == 1
    again = await imported(new, old)
    assert sum(each.stored for each in again.kinds) == 0
    assert [each.here for each in again.kinds] == [each.here for each in report.kinds]


async def test_a_key_of_the_source_does_not_become_the_name_of_a_project(
    new: Ring, old: str
) -> None:
    await change(
        old,
        "INSERT INTO llmring.usage_logs (api_key_id, model, provider, input_tokens, output_tokens,"
        " cost) VALUES ('default', 'm', 'p', 1, 1, 1), (NULL, 'm', 'p', 1, 1, 1)",
    )
    for stored in (2, 0):
        ran = command(new, old)
        assert ran.returncode == 0, ran.stderr
        assert f"stored: {stored}\n" in ran.stdout
    assert [each.name for each in await new.projects.list()] == [None]
    projects = await new.db.fetch_all("SELECT DISTINCT project_id FROM {{tables.usage_logs}}")
    assert [row["project_id"] for row in projects] == [project_of_key("default")]


async def test_what_is_read_at_once_is_bounded_by_its_size(old: str) -> None:
    await change(
        old,
        ADD_CONVERSATION,
        "INSERT INTO llmring.messages (conversation_id, role, content)"
        " SELECT id, 'user', repeat('x', 1000000)"
        " FROM llmring.conversations, generate_series(1, 60)",
    )
    async with open_llmring(old) as source:
        sizes = [len(rows) async for rows in source.batches("messages", 200)]
    assert sum(sizes) == 60
    # The first rows are fetched before their size is known.
    assert max(sizes[1:]) <= BATCH_BYTES // 1_000_000 + 1
    assert max(sizes) <= 20


async def test_what_was_changed_there_since_it_was_stored_is_named(new: Ring, old: str) -> None:
    await change(
        old,
        ADD_CONVERSATION,
        "INSERT INTO mcp_client.servers (name, url, transport_type, api_key_id)"
        " VALUES ('files', 'https://mcp.example.org', 'http', 'key-of-a')",
        "INSERT INTO mcp_client.tools (server_id, name, input_schema)"
        " SELECT id, 'read', '{}' FROM mcp_client.servers",
        "INSERT INTO llmring.conversation_templates (api_key_id, name, created_by)"
        " VALUES ('key-of-a', 'Support', 'ann')",
        "INSERT INTO llmring.usage_logs (api_key_id, model, provider, input_tokens, output_tokens,"
        " cost) VALUES ('key-of-a', 'm', 'p', 1, 1, 0)",
    )
    assert (await imported(new, old)).notes == {llmring_rows.ZERO_COST: 1}
    assert (await imported(new, old, zero_cost_is_free=True)).notes == {llmring.STAYS_UNPRICED: 1}
    await change(
        old,
        "UPDATE llmring.conversations SET title = 'New'",
        "UPDATE mcp_client.servers SET is_active = false",
        "UPDATE mcp_client.tools SET is_active = false",
        "UPDATE llmring.conversation_templates SET system_prompt = 'New'",
    )
    report = await imported(new, old)
    assert report.notes[llmring.CHANGED] == 4
    assert report.is_complete


async def test_options_that_cannot_be_meant_are_errors(new: Ring, old: str) -> None:
    ran = command(new, old, "--since", "0001-01-01", "--tz", "Asia/Tokyo")
    assert "outside the calendar" in ran.stderr
    missing = command(new, admin.with_database_name(old, "missing"))
    assert "db create" not in missing.stderr
    assert "Check its name in the URL" in missing.stderr
