"""Exports taken back: every call as it was, once, with the same totals."""

import asyncio
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import uuid_utils
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.cli.environment import all_projects
from llmring_server.core.identity import LIBRARY, ProjectId, project_of_key
from llmring_server.core.ids import new_id
from llmring_server.errors import NotFound
from llmring_server.maintenance import maintain
from llmring_server.receipts.models import ReceiptRequest
from llmring_server.usage.csv_text import quote_formula, unquote_formula
from llmring_server.usage.export import CSV_HEADER, encode_csv, encode_jsonl
from llmring_server.usage.models import CallFilter, ExportedCall, NewCall
from llmring_server.usage.stats import StatsQuery, UsageStats
from llmring_server.usage.transfer import ExportLine, ImportReport, read_export
from llmring_verify import check_export
from tests.cli.test_db import ENVIRONMENT, check_output, run
from tests.conftest import CALL
from tests.pricing.test_pricing import call, override
from tests.pricing.test_rerating import rerate
from tests.support.command_line import invoke
from tests.support.signing import keyring

PROD = ("--env", "prod")
NOW = datetime.now(UTC)
YEAR = {"start_date": (NOW - timedelta(days=398)).date().isoformat()}


@pytest.fixture
def prod(owner: AsyncDatabaseManager, url: str) -> dict[str, str]:
    return {"LLMRING_DATABASE_URL": url, "LLMRING_DATABASE_SCHEMA": owner.schema or ""}


@pytest.fixture
def other_project() -> ProjectId:
    return project_of_key(uuid4().hex)


async def log_every_kind(ring: Ring, project_id: ProjectId) -> None:
    """Log calls of every kind: of all sources of costs, statuses and labels, some re-rated."""
    model, unknown = f"m-{uuid4().hex}", f"u-{uuid4().hex}"
    await ring.pricing.override(override(model, 2), actor=LIBRARY)
    fields: list[dict[str, Any]] = [
        {},
        {"cost": 0},
        {"cost": 0.1234567891},
        {"model": unknown},
        {"model": unknown, "status": "error", "latency_ms": 12},
        {"model": "unpriced forever", "provider": "acme"},
        {"status": "timeout", "logged_at": NOW - timedelta(days=1)},
        {"status": "cancelled", "logged_at": NOW - timedelta(days=395)},
        {"alias": "=1+1", "profile": "'=x", "origin": "-", "id_at_origin": "'"},
        {"alias": 'ünï, "q"\nline', "metadata": {"a": [1, 1.5, None, {"b": "=x"}]}},
        {"reasoning_output_tokens": 3, "cached_input_tokens": 7, "service_tier": "batch"},
        {"metadata": {"conversation_id": str(new_id())}},
        {"input_tokens": None, "output_tokens": None},
        {"input_tokens": None, "output_tokens": None, "cost": 3},
        {"input_tokens": 7, "output_tokens": None, "provider": "Azure_OpenAI"},
    ]
    await ring.usage.log_many(project_id, [NewCall(**CALL | each) for each in fields])
    await ring.usage.log_many(project_id, [call(model), call(unknown), call(model, cost=5)])
    for price in (3, 1):
        # Down and up: one adjustment is negative. `unknown` gets a price only now.
        await ring.pricing.override(override(model, price), actor=LIBRARY)
        await ring.pricing.override(override(unknown, price), actor=LIBRARY)
        await rerate(ring, model)
        await rerate(ring, unknown)
    for name in (model, unknown):
        await ring.pricing.withdraw("acme", name, actor=LIBRARY)


async def exported(ring: Ring, project_id: ProjectId, **window: Any) -> list[ExportedCall]:
    calls = CallFilter.model_validate(YEAR | window)
    return [each async for each in ring.usage.export(project_id, calls)]


async def stats_of(ring: Ring, project_id: ProjectId, **window: Any) -> UsageStats:
    return await ring.usage.stats(project_id, StatsQuery.model_validate(YEAR | window))


def lines_of(calls: list[ExportedCall]) -> Iterator[ExportLine]:
    return read_export(io.BytesIO(encode_jsonl(calls)))


async def import_calls(
    ring: Ring, project_id: ProjectId, calls: list[ExportedCall], **options: Any
) -> ImportReport:
    return await ring.call_import.run(project_id, lines_of(calls), actor=LIBRARY, **options)


# Unpriced calls.


UNPRICED: dict[str, Any] = {
    "provider": "acme",
    "model": "no-price",
    "input_tokens": 5,
    "output_tokens": 5,
}


async def test_unpriced_calls_have_no_cost_in_exports(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/log", json=UNPRICED)
    await client.post("/api/v1/log", json=CALL | {"cost": 0})
    exported = await client.get("/api/v1/logs/export?format=jsonl")
    lines = [json.loads(line) for line in exported.text.splitlines()]
    assert [(line["cost"], line["cost_source"]) for line in lines] == [
        (0, "client"),
        (None, "unpriced"),
    ]
    table = await client.get("/api/v1/logs/export?format=csv")
    rows = list(csv.DictReader(io.StringIO(table.text, newline="")))
    assert [(row["cost"], row["first_cost"]) for row in rows] == [("0", "0"), ("", "")]
    listed = (await client.get("/api/v1/logs")).json()
    assert [(each["cost"], each["cost_source"]) for each in listed] == [
        (0.0, "client"),
        (0.0, "unpriced"),
    ]


async def test_the_export_of_a_receipt_is_like_that_of_calls(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    ring = Ring(db, Settings(), keyring())
    await ring.usage.log(project_id, NewCall(**UNPRICED))
    await ring.receipts.generate(project_id, ReceiptRequest(since_last_receipt=True))
    [receipt] = (await ring.receipts.list(project_id))["receipts"]
    calls = [each async for each in ring.receipts.export(project_id, receipt["receipt_id"])]
    assert calls == await exported(ring, project_id)
    assert calls[0].cost is None


# Round trips.


@pytest.mark.parametrize("name", ["calls.jsonl", "calls.csv", "calls.jsonl.gz", "calls.csv.gz"])
async def test_calls_come_back_as_they_were(
    owner: AsyncDatabaseManager,
    prod: dict[str, str],
    project_id: ProjectId,
    tmp_path: Path,
    name: str,
) -> None:
    ring, other_project = Ring(owner), project_of_key(uuid4().hex)
    await log_every_kind(ring, project_id)
    before, totals = await exported(ring, project_id), await stats_of(ring, project_id)
    assert len(before) == 18
    assert totals.summary.unpriced_requests == 4
    path, temporary = str(tmp_path / name), tmp_path / f"{name}.partial"
    file_format = name.split(".")[1]
    export = ("export", "--project", str(project_id), "--format", file_format, "-o", path)
    ran = run(*export, *PROD, **prod)
    assert (ran.returncode, ran.stdout) == (0, "")
    assert "18 calls of project " in ran.stderr
    assert not temporary.exists()
    for stored in (18, 0, 0):
        output = check_output("import", path, "--project", str(other_project), *PROD, **prod)
        assert f"stored: {stored}\nstored before: {18 - stored}\n" in output
        assert await exported(ring, other_project) == before
        for zone in ("UTC", "Asia/Tokyo"):
            assert await stats_of(ring, other_project, tz=zone) == await stats_of(
                ring, project_id, tz=zone
            )
    assert await exported(ring, project_id) == before, "the origin is unchanged"
    assert await stats_of(ring, project_id) == totals


async def test_an_export_is_piped_from_one_project_to_another(
    owner: AsyncDatabaseManager, prod: dict[str, str], project_id: ProjectId
) -> None:
    ring = Ring(owner)
    await log_every_kind(ring, project_id)
    name = f"project {uuid4().hex}"
    written = check_output("export", "--project", str(project_id), *PROD, **prod)
    stored = invoke(
        *("import", "-", "--project", name, *PROD), environment=ENVIRONMENT | prod, stdin=written
    )
    assert stored.returncode == 0, stored.stderr
    created = await ring.projects.find(name)
    assert await exported(ring, created) == await exported(ring, project_id)
    actions = [event.action for event in await ring.audit.events(NOW, created)]
    assert sorted(actions) == ["calls.import", "project.create"]


def test_a_damaged_file_is_reported_in_one_sentence(prod: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "calls"
    good = "\n".join(json.dumps(old_line(NOW)) for _ in range(100))
    path.write_bytes(gzip.compress(good.encode())[:-20])
    ran = run("import", str(path), "--project", f"p {uuid4().hex}", *PROD, **prod)
    assert ran.returncode == 1
    assert "damaged or not complete" in ran.stderr


@pytest.mark.parametrize("file_format", ["jsonl", "csv"])
def test_the_complete_lines_of_a_damaged_file_are_stored(
    prod: dict[str, str], tmp_path: Path, file_format: str
) -> None:
    path = tmp_path / "calls"
    calls = [old_line(NOW) for _ in range(1500)]
    text = io.StringIO(newline="")
    if file_format == "jsonl":
        text.writelines(json.dumps(call) + "\n" for call in calls)
    else:
        writer = csv.DictWriter(text, calls[0].keys())
        writer.writeheader()
        writer.writerows(calls)
    compressed = gzip.compress(text.getvalue().encode())
    damaged = compressed[: len(compressed) * 4 // 5]
    path.write_bytes(damaged)
    complete = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(damaged).count(b"\n")
    complete -= file_format == "csv"
    assert 1000 < complete < 1500
    project = f"p {uuid4().hex}"
    ran = run("import", str(path), "--project", project, *PROD, **prod)
    assert ran.returncode == 1
    assert f"\nstored: {complete:,}\n" in ran.stdout
    assert "rejected: 0\n" in ran.stdout
    assert "Only the lines before that were read." in ran.stderr
    path.write_bytes(compressed)
    again = check_output("import", str(path), "--project", project, *PROD, **prod)
    assert f"stored: {1500 - complete:,}\nstored before: {complete:,}\n" in again


async def test_moved_sums_and_an_import_add_up(
    alone: Ring, project_id: ProjectId, other_project: ProjectId
) -> None:
    await log_every_kind(alone, project_id)
    totals = await stats_of(alone, project_id)
    calls = await exported(alone, project_id)
    await import_calls(alone, other_project, calls[::2])
    await maintain(alone.db, actor=LIBRARY)
    await import_calls(alone, other_project, calls)
    await maintain(alone.db, actor=LIBRARY)
    assert await stats_of(alone, other_project) == totals
    assert await exported(alone, other_project) == calls


async def test_an_import_costs_what_a_re_rating_makes_of_it(
    ring: Ring, project_id: ProjectId, other_project: ProjectId
) -> None:
    model = f"m-{uuid4().hex}"
    await ring.usage.log(project_id, call(model))
    await ring.pricing.override(override(model, 2), actor=LIBRARY)
    await rerate(ring, model)
    await import_calls(ring, other_project, await exported(ring, project_id))
    imported: Any
    [imported] = await ring.usage.logs(other_project)
    assert (imported.cost, imported.adjustment, imported.first_cost) == (2, 2, None)
    explained: Any = await ring.pricing.explain(other_project, imported.id)
    assert (explained.price, explained.lines, explained.cost) == (None, [], 2)
    assert [each["amount"] for each in explained.adjustments] == ["2.0000000000"]
    await ring.pricing.override(override(model, 5), actor=LIBRARY)
    await rerate(ring, model)
    await ring.pricing.withdraw("acme", model, actor=LIBRARY)
    assert await stats_of(ring, other_project) == await stats_of(ring, project_id)
    assert await exported(ring, other_project) == await exported(ring, project_id)


async def test_receipts_prove_the_imported_calls(alone: Ring, project_id: ProjectId) -> None:
    ring = Ring(alone.db, Settings(), keyring())
    await log_every_kind(ring, project_id)
    before = await exported(ring, project_id)
    await ring.receipts.generate(project_id, ReceiptRequest(since_last_receipt=True))
    [receipt] = (await ring.receipts.list(project_id))["receipts"]
    await alone.db.execute(
        "TRUNCATE {{tables.usage_logs}}, {{tables.usage_recent}}, {{tables.usage_rollups}},"
        " {{tables.usage_adjustments}}"
    )
    await import_calls(ring, project_id, before)
    after = await exported(ring, project_id)
    stored: Any = await ring.receipts.get(project_id, receipt["receipt_id"])
    check = check_export(io.BytesIO(encode_jsonl(after)), [stored["envelope"]["receipt"]])
    assert len(check.certified()) == len(before)
    assert not check.missing() | check.changed | check.uncertified()


async def test_a_time_range_is_exported_in_its_time_zone(
    owner: AsyncDatabaseManager, prod: dict[str, str], project_id: ProjectId
) -> None:
    ring = Ring(owner)
    day = (NOW - timedelta(days=3)).date()
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    hours = (-10, -9, 0, 14, 15, 24)
    for hour in hours:
        logged_at = midnight + timedelta(hours=hour)
        await ring.usage.log(
            project_id, NewCall(**CALL | {"origin": f"{hour}", "logged_at": logged_at})
        )

    def origins(*options: str) -> list[str]:
        output = check_output("export", "--project", str(project_id), *options, *PROD, **prod)
        return [json.loads(line)["origin"] for line in reversed(output.splitlines())]

    on_day = ("--start-date", f"{day}", "--end-date", f"{day}")
    assert origins() == ["-10", "-9", "0", "14", "15", "24"]
    assert origins(*on_day) == ["0", "14", "15"]
    assert origins(*on_day, "--tz", "Asia/Tokyo") == ["-9", "0", "14"]
    assert origins("--start-date", f"{midnight.isoformat()}") == ["0", "14", "15", "24"]
    assert origins("--end-date", f"{day}T15:00", "--tz", "UTC") == ["-10", "-9", "0", "14", "15"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--start-date", "soon"), "expected a date"),
        (("--tz", "Mars/Phobos"), "must be an IANA time zone"),
    ],
)
def test_invalid_export_options_are_rejected(
    prod: dict[str, str], options: tuple[str, ...], reason: str
) -> None:
    refused = run("export", *options, *PROD, **prod)
    assert refused.returncode == 2
    assert reason in refused.stderr


def test_no_file_is_left_of_an_export_that_fails(prod: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    refused = run("export", "--project", f"none {uuid4()}", "-o", str(path), *PROD, **prod)
    assert refused.returncode == 1
    assert "No project has this name" in refused.stderr
    assert list(tmp_path.iterdir()) == []


# Repeated and interrupted imports.


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmring_server.usage.transfer.BATCH_SIZE", 4)


@pytest.mark.usefixtures("small_batches")
async def test_an_interrupted_import_is_continued(
    ring: Ring, project_id: ProjectId, other_project: ProjectId
) -> None:
    await log_every_kind(ring, project_id)
    calls = await exported(ring, project_id)

    def interrupted() -> Iterator[ExportLine]:
        for number, line in enumerate(lines_of(calls)):
            if number == 10:
                raise KeyboardInterrupt
            yield line

    with pytest.raises(KeyboardInterrupt):
        await ring.call_import.run(other_project, interrupted(), actor=LIBRARY)
    assert len(await exported(ring, other_project)) == 8, "whole batches"
    seen: list[int] = []
    report = await import_calls(
        ring, other_project, calls, progress=lambda report: seen.append(report.lines)
    )
    assert (report.stored, report.known) == (len(calls) - 8, 8)
    assert seen == [4, 8, 12, 16, 18]
    assert await exported(ring, other_project) == calls
    assert await stats_of(ring, other_project) == await stats_of(ring, project_id)


@pytest.mark.usefixtures("small_batches")
async def test_imports_at_the_same_time_store_a_call_once(
    ring: Ring, project_id: ProjectId, other_project: ProjectId
) -> None:
    await log_every_kind(ring, project_id)
    calls = await exported(ring, project_id)
    reports = await asyncio.gather(
        *(import_calls(ring, other_project, calls) for _ in range(3)),
        import_calls(ring, other_project, calls[::-1]),
    )
    assert sum(report.stored for report in reports) == len(calls)
    assert await stats_of(ring, other_project) == await stats_of(ring, project_id)


async def test_a_call_that_is_stored_is_left_alone(ring: Ring, project_id: ProjectId) -> None:
    await ring.usage.log(project_id, NewCall(**CALL | {"cost": 1}))
    [stored] = await exported(ring, project_id)
    line = json.loads(encode_jsonl([stored])) | {"cost": 7, "first_cost": 7, "model": "other"}
    moved = stored.logged_at.replace(microsecond=stored.logged_at.microsecond // 1000 * 1000)
    for change in ({}, {"logged_at": moved.isoformat()}):
        data = json.dumps(line | change).encode()
        report = await ring.call_import.run(
            project_id, read_export(io.BytesIO(data)), actor=LIBRARY
        )
        assert (report.stored, report.known) == (0, 1)
    assert await exported(ring, project_id) == [stored]


async def test_a_call_that_a_file_has_twice_is_stored_once(
    ring: Ring, project_id: ProjectId, other_project: ProjectId
) -> None:
    await log_every_kind(ring, project_id)
    calls = await exported(ring, project_id)
    report = await import_calls(ring, other_project, calls + calls)
    assert (report.stored, report.known) == (len(calls), len(calls))
    assert await stats_of(ring, other_project) == await stats_of(ring, project_id)


async def test_a_dry_run_changes_nothing(
    owner: AsyncDatabaseManager, prod: dict[str, str], project_id: ProjectId, tmp_path: Path
) -> None:
    ring = Ring(owner)
    await log_every_kind(ring, project_id)
    path = tmp_path / "calls.jsonl"
    path.write_bytes(encode_jsonl(await exported(ring, project_id)) + b"x\n")
    for project, stored in ((f"new {uuid4().hex}", 18), (str(project_id), 0)):
        ran = run("import", str(path), "--project", project, "--dry-run", *PROD, **prod)
        assert ran.returncode == 1
        assert f"to be stored: {stored}\nstored before: {18 - stored}\n" in ran.stdout
        assert "rejected: 1\n" in ran.stdout
        assert "Database:" not in ran.stderr
    assert not [each for each in await all_projects(ring) if each.name and "new" in each.name]
    assert len(await exported(ring, project_id)) == 18


# Old calls.


def old_line(logged_at: datetime, **fields: Any) -> dict[str, Any]:
    id = uuid_utils.uuid7(nanoseconds=int(logged_at.timestamp() * 1000) * 10**6)
    costs = {"cost": 0.5, "cost_source": "offline", "adjustment": 0}
    first = {"first_cost": 0.5, "first_cost_source": "offline"}
    return CALL | {"id": str(id), "logged_at": logged_at.isoformat()} | costs | first | fields


async def import_lines(
    ring: Ring, project_id: ProjectId, *lines: dict[str, Any], **options: Any
) -> ImportReport:
    data = b"\n".join(json.dumps(line).encode() for line in lines)
    return await ring.call_import.run(
        project_id, read_export(io.BytesIO(data)), actor=LIBRARY, **options
    )


async def test_calls_of_any_age_are_taken(alone: Ring, project_id: ProjectId) -> None:
    moments = [datetime(year, 3, 4, 5, 6, 7, 891000, UTC) for year in (2019, 2020, 2022)]
    report = await import_lines(alone, project_id, *(old_line(moment) for moment in moments))
    assert (report.stored, report.errors) == (3, [])
    for moment in moments:
        window = {"start_date": moment - timedelta(days=1), "end_date": moment + timedelta(days=1)}
        for zone in ("UTC", "Asia/Tokyo"):
            stats = await stats_of(alone, project_id, tz=zone, **window)
            assert (stats.summary.total_requests, stats.summary.total_cost) == (1, Decimal("0.5"))
        [stored] = await exported(alone, project_id, **window)
        assert stored.logged_at == moment


@pytest.fixture
async def dropped(alone: Ring, project_id: ProjectId) -> list[ExportedCall]:
    """The calls of a project whose months were dropped: daily totals are left of most."""
    await log_every_kind(alone, project_id)
    for days in (200, 200, 230, 260):
        logged_at = NOW - timedelta(days=days)
        await alone.usage.log(project_id, NewCall(**CALL | {"logged_at": logged_at}))
    calls = await exported(alone, project_id)
    await maintain(alone.db, retain=timedelta(days=60), actor=LIBRARY)
    assert len(await exported(alone, project_id)) == len(calls) - 5
    return calls


async def test_calls_that_are_in_the_totals_already_are_not_added_again(
    alone: Ring, project_id: ProjectId, dropped: list[ExportedCall]
) -> None:
    totals = await stats_of(alone, project_id)
    for _ in range(2):
        report = await import_calls(alone, project_id, dropped)
        assert (report.stored, report.counted, report.known) == (0, 5, len(dropped) - 5)
        assert await stats_of(alone, project_id) == totals


@pytest.mark.usefixtures("small_batches", "dropped")
async def test_where_months_are_gone_day_sums_are_written(
    alone: Ring, project_id: ProjectId
) -> None:
    totals = await stats_of(alone, project_id)
    days = [NOW - timedelta(days=number) for number in (210, 210, 210, 240)]
    others = [old_line(day, origin=f"{number}") for number, day in enumerate(days)]
    others.append(
        old_line(days[0], cost=2, adjustment=2, first_cost=None, first_cost_source="unpriced")
    )
    others += [old_line(days[0], cost=None, cost_source="unpriced", first_cost=None)]
    others[-1] |= {"first_cost_source": "unpriced", "usage_known": False}
    reports = [await import_lines(alone, project_id, *others) for _ in range(2)]
    assert [(report.stored, report.known) for report in reports] == [(6, 0), (0, 6)]
    after = await stats_of(alone, project_id)
    summary = totals.summary.model_dump()
    expected = summary | {
        "total_requests": summary["total_requests"] + 6,
        "unpriced_requests": summary["unpriced_requests"] + 1,
        "total_cost": summary["total_cost"] + 4,
        "total_adjustment": summary["total_adjustment"] + 2,
        "unknown_usage_requests": summary["unknown_usage_requests"] + 1,
        "total_tokens": summary["total_tokens"] + 5 * 1200,
        "unique_origins": summary["unique_origins"] + 4,
    }
    assert after.summary.model_dump() == expected
    count = "SELECT count(*) FROM {{tables.usage_rollups}} WHERE minutes = 15 AND bucket < $1"
    assert await alone.db.fetch_value(count, NOW - timedelta(days=150)) == 0
    recent = "SELECT count(*) FROM {{tables.usage_recent}} WHERE bucket < $1"
    assert await alone.db.fetch_value(recent, NOW - timedelta(days=150)) == 0
    # The calls are dropped like those before them, and then are only in the totals.
    await maintain(alone.db, retain=timedelta(days=60), actor=LIBRARY)
    assert await stats_of(alone, project_id) == after
    report = await import_lines(alone, project_id, *others)
    assert (report.stored, report.counted) == (0, 6)
    assert await stats_of(alone, project_id) == after


# Lines.


async def test_exports_of_before_have_a_cost_of_zero_for_unpriced_calls(
    ring: Ring, project_id: ProjectId
) -> None:
    fields = {"cost": 0.0, "cost_source": "unpriced", "first_cost": None}
    before_rerating = dict.fromkeys(("adjustment", "first_cost", "first_cost_source"))
    report = await import_lines(
        ring,
        project_id,
        old_line(NOW, **fields, first_cost_source="unpriced"),
        old_line(NOW, **fields | before_rerating),
        old_line(NOW, cost=3, cost_source="client") | before_rerating,
    )
    assert (report.stored, report.errors) == (3, [])
    summary: Any = (await stats_of(ring, project_id)).summary
    assert (summary.unpriced_requests, summary.total_cost, summary.total_adjustment) == (2, 3, 0)


def without(name: str) -> Callable[[dict[str, Any]], str]:
    def change(line: dict[str, Any]) -> str:
        return json.dumps({member: value for member, value in line.items() if member != name})

    return change


def with_members(**members: Any) -> Callable[[dict[str, Any]], str]:
    def change(line: dict[str, Any]) -> str:
        return json.dumps(line | members)

    return change


def replaced(text: str) -> Callable[[dict[str, Any]], str]:
    return lambda _: text


BAD_LINES = [
    (replaced("nonsense"), "is not strict JSON"),
    (replaced("[]"), "is not a JSON object"),
    (replaced('{"id": 1, "id": 2}'), "a key occurs twice"),
    (without("id"), "id: Field required"),
    (without("logged_at"), "logged_at: Field required"),
    (without("provider"), "provider: Field required"),
    (without("input_tokens"), "input_tokens: Field required"),
    (without("cost_source"), "cost_source: Field required"),
    (without("cost"), "cost: is missing, but cost_source is offline"),
    (without("first_cost"), "first_cost: is missing"),
    (with_members(id=str(uuid4())), "id: must be a UUID of version 7"),
    (with_members(id=str(new_id()), logged_at="2020-01-01T00:00:00Z"), "logged_at: must lie in"),
    (with_members(logged_at="2020-01-01"), "logged_at: "),
    (with_members(cost=-1), "cost: "),
    (with_members(cost="NaN"), "cost: "),
    (with_members(cost=0.12345678912), "cost: "),
    (with_members(cost=10**9), "cost: "),
    (with_members(cost=2), "adjustment: must be cost minus first_cost"),
    (with_members(adjustment=1), "adjustment: must be cost minus first_cost"),
    (with_members(cost_source="unpriced"), "cost_source: is unpriced, but"),
    (with_members(cost_source="guess"), "cost_source: "),
    (with_members(input_tokens=-1), "input_tokens: "),
    (with_members(input_tokens=None, output_tokens=None, usage_known=True), "usage_known: is true"),
    (with_members(usage_known="yes"), "usage_known: "),
    (with_members(input_tokens="5"), "input_tokens: "),
    (with_members(status="done"), "status: "),
    (with_members(model=" "), "model: "),
    (with_members(origin="x" * 256), "origin: "),
    (with_members(latency_ms=2**31), "latency_ms: "),
    (with_members(metadata=[]), "metadata: "),
    (with_members(metadata={"x": "y" * 65536}), "metadata: must be at most 64 KiB"),
    (with_members(details=[]), "details: "),
    (with_members(details="x"), "details: "),
    (with_members(details={"audio_input_tokens": "many"}), "details.audio_input_tokens: "),
    (with_members(details={"audio_input_tokens": {}}), "details.audio_input_tokens: "),
    (with_members(details={"reasoning_output_tokens": -1}), "details.reasoning_output_tokens: "),
    (with_members(details={"images": 2**53}), "details.images: "),
    (with_members(details={"requests": 1.5}), "details.requests: "),
    (with_members(details={"web_searches": True}), "details.web_searches: "),
    (with_members(details={"audio_seconds": "x"}), "details.audio_seconds: "),
    (with_members(details={"audio_seconds": -0.5}), "details.audio_seconds: "),
    (with_members(details={"video_seconds": 10**10}), "details.video_seconds: "),
    (with_members(details={"cache_tokens_included": "no"}), "details.cache_tokens_included: "),
    (with_members(details={"service_tier": "x" * 33}), "details.service_tier: "),
    (with_members(details={"service_tier": 5}), "details.service_tier: "),
    (with_members(details={"service_tier": "a\0"}), "must not contain U+0000"),
    (with_members(details={"a\0": 1}), "U+0000"),
    (with_members(alias="a\0"), "must not contain U+0000"),
    (with_members(provider="\ud800"), "must not contain U+0000 or an unpaired surrogate"),
    (with_members(cost=True), "cost: "),
    (with_members(cost="Infinity"), "cost: "),
    (with_members(cost=10**400), "cost: "),
    (with_members(adjustment=-(10**9)), "adjustment: "),
    (with_members(adjustment="x"), "adjustment: "),
    (with_members(first_cost=-1), "first_cost: "),
    (with_members(first_cost_source="guess"), "first_cost_source: "),
    (with_members(output_tokens=2**53), "output_tokens: "),
    (with_members(cached_input_tokens=1.5), "cached_input_tokens: "),
    (with_members(logged_at="9999-12-31T23:59:59-12:00"), "logged_at: "),
    (with_members(logged_at="0001-01-01T00:00:00+14:00"), "logged_at: "),
    (with_members(logged_at="10000-01-01T00:00:00Z"), "logged_at: "),
    (with_members(logged_at=1e20), "logged_at: "),
    (with_members(id="ffffffff-ffff-7fff-bfff-ffffffffffff"), "logged_at: "),
    (with_members(metadata={"x": "y" * 1024 * 1024}), "is longer than 1,048,576 bytes"),
]


@pytest.mark.parametrize(("change", "reason"), BAD_LINES)
async def test_a_line_that_is_not_a_call_is_named_and_the_others_are_stored(
    ring: Ring, project_id: ProjectId, change: Callable[[dict[str, Any]], str], reason: str
) -> None:
    good = json.dumps(old_line(NOW))
    data = f"\n{good}\n\r\n{change(old_line(NOW))}\n{json.dumps(old_line(NOW))}".encode()
    for prefix in (b"", b"\xef\xbb\xbf"):
        report = await ring.call_import.run(
            project_id, read_export(io.BytesIO(prefix + data), "jsonl"), actor=LIBRARY
        )
        [error] = report.errors
        assert error.startswith("line 4: ")
        assert reason in error
        assert (report.stored + report.known, report.rejected) == (2, 1)


@pytest.mark.parametrize(
    ("details", "stored", "unknown"),
    [
        ({"images": 2, "region": "eu"}, {"images": 2}, {"details.region"}),
        ({"images": None}, None, set()),
        ({"region": "eu"}, None, {"details.region"}),
        ({"audio_seconds": 1.5, "requests": 0}, {"audio_seconds": 1.5, "requests": 0}, set()),
        (
            {"service_tier": "batch", "cache_tokens_included": False},
            {"service_tier": "batch", "cache_tokens_included": False},
            set(),
        ),
    ],
)
async def test_details_are_those_of_a_call(
    ring: Ring,
    project_id: ProjectId,
    details: dict[str, Any],
    stored: dict[str, Any] | None,
    unknown: set[str],
) -> None:
    report = await import_lines(ring, project_id, old_line(NOW, details=details))
    assert (report.stored, report.unknown) == (1, unknown)
    [call] = await exported(ring, project_id)
    assert call.details == stored


@pytest.mark.parametrize("moment", ["1970-01-01T00:00:00Z", "1970-01-01T14:00:00.000900+14:00"])
async def test_a_call_of_the_first_millisecond_is_stored(
    ring: Ring, project_id: ProjectId, moment: str
) -> None:
    line = old_line(NOW) | {"id": "00000000-0000-7000-8000-000000000000", "logged_at": moment}
    report = await import_lines(ring, project_id, line)
    assert (report.stored, report.errors) == (1, [])


def test_the_command_names_bad_lines_and_fails(prod: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    good = json.dumps(old_line(NOW) | {"region": "eu", "conversation_id": None})
    path.write_text("\n".join([good, *["{}"] * 30]))
    ran = run("import", str(path), "--project", f"p {uuid4().hex}", *PROD, **prod)
    assert ran.returncode == 1
    assert "line 2: id: Field required\n" in ran.stderr
    assert ran.stderr.count("Field required") == 20
    assert "10 more lines were rejected." in ran.stderr
    assert "Not stored: the members region." in ran.stderr
    assert ran.stdout == (
        "lines: 31\nstored: 1\nstored before: 0\n"
        "skipped, already in daily totals: 0\nrejected: 30\n"
    )


async def test_rows_of_csv_are_checked_like_lines(ring: Ring, project_id: ProjectId) -> None:
    await log_every_kind(ring, project_id)
    header, *rows = encode_csv(await exported(ring, project_id)).decode().split("\r\n")
    columns = CSV_HEADER.decode().strip().split(",")
    rows = [header, *rows]
    bad = dict(zip(columns, next(csv.reader([rows[0]])), strict=True))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    for change in ({"input_tokens": "many"}, {"metadata": "{"}, {"alias": "\0"}, {"cost": "dear"}):
        writer.writerow(bad | change)
    text.write("too,few,cells\r\n")
    data = CSV_HEADER + text.getvalue().encode() + b"\xff" + rows[0].encode()
    report = await ring.call_import.run(project_id, read_export(io.BytesIO(data)), actor=LIBRARY)
    assert report.stored == 0
    assert [error.split(": ")[:2] for error in report.errors] == [
        ["line 2", "input_tokens"],
        ["line 3", "is not strict JSON"],
        ["line 4", "alias"],
        ["line 5", "cost"],
        ["line 6", "has 3 cells, and the header 21"],
        ["line 7", "id"],
    ]


@pytest.mark.parametrize("data", ["id,name\r\n1,2\r\n", "[{}]", "hello"])
async def test_a_file_that_is_no_export_is_refused(
    ring: Ring, prod: dict[str, str], tmp_path: Path, data: str
) -> None:
    path = tmp_path / "calls.txt"
    path.write_text(data)
    project = f"p {uuid4().hex}"
    refused = run("import", str(path), "--project", project, *PROD, **prod)
    assert refused.returncode == 1
    assert "This is not an export of calls" in refused.stderr
    with pytest.raises(NotFound):  # nothing is created
        await ring.projects.find(project)


@pytest.mark.parametrize(
    "text", ["", "x", "'", "''", "'x", "=x", "'=x", "''=x", "-1", "'-1", "\t", "'\r", "+", "@a"]
)
def test_quoted_formulas_are_read_back(text: str) -> None:
    quoted = quote_formula(text)
    assert unquote_formula(quoted) == text
    assert not quoted.startswith(("=", "+", "-", "@", "\t", "\r"))
