"""What a receipt proves, whatever was called: to whoever has an export, and after a restore."""

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
from llmring_server.db.embedded_postgres import binaries
from llmring_server.receipts.document import log_commitment
from llmring_server.receipts.models import Receipt, ReceiptRequest, StoredReceipt
from llmring_verify import merkle, receipt
from llmring_verify.canonical_json import parse
from tests.pricing.test_pricing import override
from tests.pricing.test_rerating import rerate
from tests.receipts.test_generate import ring
from tests.support.signing import SEED, called, keyring

__all__ = ["ring"]

REST = ReceiptRequest(since_last_receipt=True)

labels = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20
)
counts = st.integers(0, 2**50)
calls = st.fixed_dictionaries(
    {
        "provider": labels.filter(str.strip),
        "model": labels.filter(str.strip),
        "input_tokens": counts,
        "output_tokens": counts,
        "cost": st.decimals(0, 999_999_999, places=10),
    },
    optional={
        "alias": labels,
        "profile": labels,
        "origin": labels,
        "id_at_origin": labels,
        "cached_input_tokens": counts,
        "reasoning_output_tokens": st.integers(0, 100),
        "service_tier": labels,
        "latency_ms": st.integers(0, 2**31 - 1),
        "status": st.sampled_from(["ok", "error", "timeout", "cancelled"]),
        "metadata": st.fixed_dictionaries({"conversation_id": st.uuids().map(str) | labels}),
    },
)


def opened(told: Receipt) -> dict[str, Any]:
    """Verify a receipt as PyNaCl does, and return what it says."""
    _, signed, signature = receipt.open_envelope(told["envelope"])
    VerifyKey(keyring().active.public).verify(signed, signature)
    assert told["envelope"]
    return told["envelope"]["receipt"]


async def exported(ring: Ring, key: str) -> list[dict[str, Any]]:
    """Export calls as an auditor has them, and read them as calls."""
    transport = httpx.ASGITransport(app=build(ring.db, Settings(auth="open")))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        path = "/api/v1/logs/export?format=jsonl"
        answer = await client.get(path, headers={"X-API-Key": key})
    lines = answer.content.splitlines()
    found = [receipt.call_from_export(parse(line, Decimal)) for line in lines]
    return sorted(found, key=lambda each: each["log_id"])


async def check(ring: Ring, key: str, told: Receipt) -> None:
    """Check that a receipt says what an export says, and that each of its calls is in it."""
    body, lines = opened(told), await exported(ring, key)
    if body["kind"] == "usage":
        assert receipt.call_from_receipt(body) == lines[0]
        return
    leaves = [merkle.leaf_hash(receipt.leaf_entry(each)) for each in lines]
    assert (body["count"], body["leaves_root"]) == (len(lines), merkle.merkle_root(leaves).hex())
    costs = [Decimal(each["cost"]["amount"]) for each in lines if each["cost"]["amount"]]
    assert Decimal(body["totals"]["cost"]["amount"]) == sum(costs)
    for name, sum_of in body["totals"]["tokens"].items():
        assert sum_of == sum(each["tokens"][name] for each in lines)
    assert [body["from"], body["to"]] == [
        choose(each["logged_at"] for each in lines) for choose in (min, max)
    ]


@examples(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(made=st.lists(calls, min_size=1, max_size=7))
async def test_any_calls_are_proved_by_an_export(ring: Ring, made: list[dict[str, Any]]) -> None:
    key = uuid4().hex
    ids = await called(ring, project_of_key(key), *made)
    told = (await ring.receipts.generate(project_of_key(key), REST))["receipt"]
    assert ring.receipts.verify(orjson.loads(orjson.dumps(told)))["valid"]
    await check(ring, key, told)
    if len(ids) > 1:
        proof = await ring.receipts.proof(project_of_key(key), told["receipt_id"], UUID(ids[0]))
        assert proof["call"]["log_id"] == ids[0]


async def test_a_receipt_stays_true_when_a_call_is_rated_again(
    owner: AsyncDatabaseManager,
) -> None:
    ring, key, model = Ring(owner, Settings(), keyring()), uuid4().hex, f"m-{uuid4().hex}"
    await called(ring, project_of_key(key), *[{"provider": "acme", "model": model}] * 3)
    told = (await ring.receipts.generate(project_of_key(key), REST))["receipt"]
    assert opened(told)["totals"]["cost"] == {
        "currency": "USD", "amount": "0.0000000000", "unpriced": 3,
    }  # fmt: skip
    await ring.prices.override(override(model, 1), actor=LIBRARY)
    await rerate(ring, model)
    await ring.prices.withdraw("acme", model, actor=LIBRARY)
    assert (await ring.usage.logs(project_of_key(key)))[0].cost > 0
    await check(ring, key, told)


async def test_a_receipt_has_a_leaf_for_a_log_that_tells_nothing_without_its_salt(
    ring: Ring, project_id: ProjectId
) -> None:
    await called(ring, project_id, {}, {})
    await ring.receipts.generate(project_id, REST)
    row = await ring.db.fetch_one(
        "SELECT * FROM {{tables.receipts}} WHERE project_id = $1", project_id
    )
    assert row
    assert len(row["salt"]) == 16
    stored = StoredReceipt(**{name: row[name] for name in StoredReceipt._fields})
    assert stored.signed
    assert stored.signature
    shown = b"llmring-leaf/1\n" + row["salt"] + sha256(stored.signed).digest() + stored.signature
    assert row["log_commitment"] == sha256(shown).digest()
    # Of the same receipt another one, with another salt.
    assert log_commitment(stored)["log_commitment"] != row["log_commitment"]


@asynccontextmanager
async def database(url: str) -> AsyncIterator[str]:
    """Make a database for a while, and return its URL."""
    made = admin.throwaway_url(url)
    await admin.create_database(made, throwaway=True)
    try:
        yield made
    finally:
        await admin.drop_database(made)


async def piped(*command: str | Path, given: bytes = b"") -> bytes:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    written, _ = await process.communicate(given)
    assert process.returncode == 0
    return written


@asynccontextmanager
async def signing(url: str, *, migrate: bool) -> AsyncIterator[Ring]:
    settings = Settings(database_url=url, migrate_on_start=migrate, receipts_private_key_b64=SEED)
    async with Ring.open(settings) as ring:
        yield ring


async def test_a_dump_and_restore_keeps_everything_verifying(url: str) -> None:
    key, programs = uuid4().hex, binaries()
    project_id = project_of_key(key)
    async with database(url) as before, database(url) as after:
        async with signing(before, migrate=True) as ring:
            odd = {
                "model": "m \\ \u2028 \U0001f600",
                "metadata": {"conversation_id": str(project_id)},
            }
            ids = await called(ring, project_id, odd, {"cost": 0.1}, {"latency_ms": 5})
            told = (await ring.receipts.generate(project_id, REST))["receipt"]
            one = await ring.receipts.issue(project_id, UUID(ids[0]))
        dump = await piped(programs / "pg_dump", "--no-owner", before)
        await piped(programs / "psql", "-q", "-v", "ON_ERROR_STOP=1", after, given=dump)
        async with signing(after, migrate=False) as ring:
            assert (await ring.receipts.list(project_id))["receipts"] == [one, told]
            await check(ring, key, told)
            assert ring.receipts.verify(orjson.loads(orjson.dumps(told)))["valid"]
            proof = await ring.receipts.proof(project_id, told["receipt_id"], UUID(ids[1]))
            assert proof["call"]["log_id"] == ids[1]
