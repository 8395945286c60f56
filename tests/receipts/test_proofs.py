"""What receipts prove: any calls match an export, after re-rating and after a restore."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from nacl.signing import VerifyKey
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings, build
from llmring_server.core.identity import LIBRARY, ProjectId, project_of_key
from llmring_server.db import admin
from llmring_server.db.embedded_postgres import find_programs
from llmring_server.receipts import Receipt
from llmring_server.receipts.document import log_commitment
from llmring_server.receipts.models import StoredReceipt
from llmring_verify import merkle, receipt
from llmring_verify.canonical_json import parse
from tests.pricing.test_pricing import override
from tests.pricing.test_rerating import rerate
from tests.support.receipts import UNCERTIFIED, log_calls
from tests.support.signing import SEED, keyring

LABELS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20
)
TOKENS = st.integers(0, 2**50)
CALLS = st.fixed_dictionaries(
    {
        "provider": LABELS.filter(str.strip),
        "model": LABELS.filter(str.strip),
        "input_tokens": TOKENS,
        "output_tokens": TOKENS,
        "cost": st.decimals(0, 999_999_999, places=10),
    },
    optional={
        "alias": LABELS,
        "profile": LABELS,
        "origin": LABELS,
        "id_at_origin": LABELS,
        "cached_input_tokens": TOKENS,
        "reasoning_output_tokens": st.integers(0, 100),
        "service_tier": LABELS,
        "audio_seconds": st.decimals(0, 999_999_999, places=6),
        "video_seconds": st.decimals(0, 999_999_999, places=6),
        "images": TOKENS,
        "reasoning_tokens_included": st.booleans(),
        "latency_ms": st.integers(0, 2**31 - 1),
        "status": st.sampled_from(["ok", "error", "timeout", "cancelled"]),
        "metadata": st.fixed_dictionaries({"conversation_id": st.uuids().map(str) | LABELS}),
    },
)


def body_verified_by_pynacl(response: Receipt) -> dict[str, Any]:
    """Verify a receipt with another Ed25519 library; return the receipt in its envelope."""
    _, signed, signature = receipt.open_envelope(response["envelope"])
    VerifyKey(keyring().active.public).verify(signed, signature)
    assert response["envelope"]
    return response["envelope"]["receipt"]


async def exported_calls(ring: Ring, key: str) -> list[dict[str, Any]]:
    """Rebuild the calls of a project from its export, as an auditor does."""
    transport = httpx.ASGITransport(app=build(ring.db, Settings(auth="open")))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        path = "/api/v1/logs/export?format=jsonl"
        response = await client.get(path, headers={"X-API-Key": key})
    lines = response.content.splitlines()
    calls = [receipt.call_from_export(parse(line, Decimal)) for line in lines]
    return sorted(calls, key=lambda call: call["log_id"])


async def check_against_export(ring: Ring, key: str, response: Receipt) -> None:
    """Check that a receipt of all calls of a project agrees with the export of the project."""
    body = body_verified_by_pynacl(response)
    calls = await exported_calls(ring, key)
    if body["kind"] == "usage":
        assert receipt.call_from_receipt(body) == calls[0]
        return
    leaves = [merkle.leaf_hash(receipt.leaf_entry(call)) for call in calls]
    assert (body["count"], body["leaves_root"]) == (len(calls), merkle.merkle_root(leaves).hex())
    amounts = [Decimal(call["cost"]["amount"]) for call in calls if call["cost"]["amount"]]
    assert Decimal(body["totals"]["cost"]["amount"]) == sum(amounts)
    for name, total in body["totals"]["tokens"].items():
        assert total == sum(call["tokens"][name] for call in calls)
    times = [call["logged_at"] for call in calls]
    assert (body["from"], body["to"]) == (min(times), max(times))


@examples(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(calls=st.lists(CALLS, min_size=1, max_size=7))
async def test_an_export_proves_a_receipt_of_any_calls(
    ring: Ring, calls: list[dict[str, Any]]
) -> None:
    key = uuid4().hex
    project_id = project_of_key(key)
    ids = await log_calls(ring, project_id, *calls)
    response = (await ring.receipts.generate(project_id, UNCERTIFIED))["receipt"]
    assert ring.receipts.verify(orjson.loads(orjson.dumps(response)))["valid"]
    await check_against_export(ring, key, response)
    if len(ids) > 1:
        proof = await ring.receipts.proof(project_id, response["receipt_id"], UUID(ids[0]))
        assert proof["call"]["log_id"] == ids[0]


async def test_a_receipt_stays_true_when_its_calls_are_re_rated(
    owner: AsyncDatabaseManager,
) -> None:
    ring = Ring(owner, Settings(), keyring())
    key, model = uuid4().hex, f"m-{uuid4().hex}"
    project_id = project_of_key(key)
    await log_calls(ring, project_id, *[{"provider": "acme", "model": model}] * 3)
    response = (await ring.receipts.generate(project_id, UNCERTIFIED))["receipt"]
    totals = body_verified_by_pynacl(response)["totals"]
    assert totals["cost"] == {"currency": "USD", "amount": "0.0000000000", "unpriced": 3}
    await ring.pricing.override(override(model, 1), actor=LIBRARY)
    await rerate(ring, model)
    await ring.pricing.withdraw("acme", model, actor=LIBRARY)
    assert (await ring.usage.logs(project_id))[0].cost > 0
    await check_against_export(ring, key, response)


async def test_a_receipt_is_stored_with_a_salted_commitment(
    ring: Ring, project_id: ProjectId
) -> None:
    await log_calls(ring, project_id, {}, {})
    await ring.receipts.generate(project_id, UNCERTIFIED)
    row = await ring.db.fetch_one(
        "SELECT * FROM {{tables.receipts}} WHERE project_id = $1", project_id
    )
    assert row
    assert len(row["salt"]) == 16
    stored = StoredReceipt(**{name: row[name] for name in StoredReceipt._fields})
    assert stored.signed
    assert stored.signature
    digest = sha256(stored.signed).digest()
    committed = b"llmring-leaf/1\n" + row["salt"] + digest + stored.signature
    assert row["log_commitment"] == sha256(committed).digest()
    # Another salt, another commitment to the same receipt.
    assert log_commitment(stored)["log_commitment"] != row["log_commitment"]


@asynccontextmanager
async def temporary_database(url: str) -> AsyncIterator[str]:
    """Create a database, yield its URL, and drop it."""
    own_url = admin.throwaway_url(url)
    await admin.create_database(own_url, throwaway=True)
    try:
        yield own_url
    finally:
        await admin.drop_database(own_url)


async def run_program(*command: str | Path, stdin: bytes = b"") -> bytes:
    """Run a program that must succeed; return its output."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    output, _ = await process.communicate(stdin)
    assert process.returncode == 0
    return output


@asynccontextmanager
async def signing_ring(url: str, *, migrate: bool) -> AsyncIterator[Ring]:
    settings = Settings(database_url=url, migrate_on_start=migrate, receipts_private_key_b64=SEED)
    async with Ring.open(settings) as ring:
        yield ring


async def test_receipts_verify_after_dump_and_restore(url: str) -> None:
    key, programs = uuid4().hex, find_programs()
    project_id = project_of_key(key)
    async with temporary_database(url) as before, temporary_database(url) as after:
        async with signing_ring(before, migrate=True) as ring:
            unusual = {
                "model": "m \\ \u2028 \U0001f600",
                "metadata": {"conversation_id": str(project_id)},
            }
            ids = await log_calls(ring, project_id, unusual, {"cost": 0.1}, {"latency_ms": 5})
            batch = (await ring.receipts.generate(project_id, UNCERTIFIED))["receipt"]
            single = await ring.receipts.issue(project_id, UUID(ids[0]))
        dump = await run_program(programs / "pg_dump", "--no-owner", before)
        restore = (programs / "psql", "-q", "-v", "ON_ERROR_STOP=1", after)
        await run_program(*restore, stdin=dump)
        async with signing_ring(after, migrate=False) as ring:
            assert (await ring.receipts.list(project_id))["receipts"] == [single, batch]
            await check_against_export(ring, key, batch)
            assert ring.receipts.verify(orjson.loads(orjson.dumps(batch)))["valid"]
            proof = await ring.receipts.proof(project_id, batch["receipt_id"], UUID(ids[1]))
            assert proof["call"]["log_id"] == ids[1]
