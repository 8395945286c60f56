"""Values that are stored or public although they look internal: they survive every rename.

A digest covers field names, a label is written into rows that stay for years, a lock is named by a
text that two versions of the server must share. Each expected value here is a literal. If one of
these tests fails after a rename, give the stored name back; do not change the expected value.
"""

import re
from base64 import urlsafe_b64decode
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, get_args
from uuid import UUID

import pytest

from llmring_server import Ring
from llmring_server.access import key_format
from llmring_server.conversations.exchange import Exchange
from llmring_server.conversations.models import NewMessage
from llmring_server.core.identity import LIBRARY, Action, ProjectId, project_of_key
from llmring_server.core.pagination import Position
from llmring_server.db.migrations import SchemaModule
from llmring_server.db.repository import SQL
from llmring_server.mcp import NewToolExecution, OfferedPrompt, OfferedResource, OfferedTool
from llmring_server.mcp.capabilities import definition_digest
from llmring_server.mcp.secrets import SecretBox
from llmring_server.pricing.cost import Rate
from llmring_server.pricing.price_book import Price
from llmring_server.receipts.document import ReceiptDraft, log_commitment, sign_draft
from llmring_server.receipts.models import ReceiptRequest, StoredReceipt
from llmring_server.receipts.totals import ReceiptTotals, call_from_row
from llmring_server.settings import Settings
from llmring_server.usage.idempotency import batch_item_key, fingerprint, fingerprint_of_call
from llmring_server.usage.idempotency import digest as digest_of_key
from llmring_server.usage.models import CALL_COLUMNS, CallPage, NewCall
from llmring_verify import merkle, receipt
from tests.support.signing import keyring

PROJECT = ProjectId(UUID("01900000-0000-7000-8000-000000000001"))
ID = UUID("01900000-0000-7000-8000-000000000002")
SECOND_ID = UUID("01900000-0000-7000-8000-000000000003")

CALL = NewCall.model_validate(
    {
        "provider": "openai",
        "model": "gpt-4o",
        "input_tokens": 1,
        "output_tokens": 1,
        "cached_input_tokens": 1,
        "cache_creation_input_tokens": 1,
        "cache_creation_1h_input_tokens": 1,
        "audio_input_tokens": 1,
        "image_input_tokens": 1,
        "video_input_tokens": 1,
        "cached_audio_input_tokens": 1,
        "cached_image_input_tokens": 1,
        "audio_output_tokens": 1,
        "image_output_tokens": 1,
        "reasoning_output_tokens": 1,
        "web_searches": 1,
        "service_tier": "batch",
        "cost": 0.25,
        "status": "ok",
        "latency_ms": 120,
        "alias": "fast",
        "profile": "prod",
        "origin": "llmring",
        "id_at_origin": "req-1",
        "metadata": {"a": [1, None]},
        "idempotency_key": "not-digested",
    }
)


# Idempotency fingerprints: a client that retries across a deploy must get the first response.


def test_fingerprint_of_a_call() -> None:
    assert str(fingerprint_of_call(CALL, 1)) == "db463250-b788-b733-2962-755cb6db388e"


def test_fingerprint_of_a_call_in_a_batch_of_three() -> None:
    assert str(fingerprint_of_call(CALL, 3)) == "1cf647c0-984d-1ebc-5723-b3337671b4f4"


def test_fingerprint_of_a_call_with_a_usage_object() -> None:
    # It covers the object as it was sent, so that it stays the same when more is understood of it.
    usage = {"prompt_tokens": 5, "completion_tokens": 6, "not": {"yet": "understood"}}
    call = NewCall.model_validate({"provider": "openai", "model": "gpt-4o-mini", "usage": usage})
    assert str(fingerprint_of_call(call, 1)) == "c671d98b-d439-0603-e5ac-5c9c5a0d2658"


def test_digest_of_an_idempotency_key() -> None:
    assert str(digest_of_key(b"key")) == "2c70e12b-7a06-46f9-2279-f427c7b38e73"


def test_key_of_a_call_in_a_batch() -> None:
    assert batch_item_key("key", 2) == "key 2"


def test_fingerprint_of_messages() -> None:
    message = NewMessage.model_validate(
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "hi"}],
            "tool_calls": [{"id": "1"}],
            "tool_results": [{"r": 1}],
            "tool_call_id": "c",
            "metadata": {"m": 1},
            "input_tokens": 1,
            "output_tokens": 2,
            "cost": 0.5,
        }
    )
    found = fingerprint("messages", PROJECT, message)
    assert str(found) == "cbaf7e15-29d6-fbb1-dfb0-e730bcaba169"


def test_fingerprint_of_an_exchange() -> None:
    exchange = Exchange.model_validate(
        {
            "messages": [{"role": "user", "content": "hi"}],
            "response": {
                "content": "yo",
                "model": "gpt-4o",
                "finish_reason": "stop",
                "usage": {"prompt_tokens": 1},
                "tool_calls": [{"id": "1"}],
            },
            "metadata": {
                "provider": "openai",
                "model": "gpt-4o",
                "alias": "fast",
                "profile": "prod",
                "origin": "llmring",
                "cost": 0.1,
                "input_cost": 0.04,
                "output_cost": 0.06,
                "input_tokens": 1,
                "output_tokens": 2,
                "cached_tokens": 0,
            },
            "conversation_id": str(PROJECT),
            "log_usage": True,
        }
    )
    found = fingerprint("exchange", exchange)
    assert str(found) == "fcbb5596-c0b1-df93-5c1f-a51dd2edf9f8"


def test_fingerprint_of_an_mcp_execution() -> None:
    execution = NewToolExecution.model_validate(
        {
            "input": {"a": 1},
            "output": {"b": 2},
            "error": "e",
            "duration_ms": 3,
            "status": "error",
            "conversation_id": str(PROJECT),
            "log_id": str(ID),
        }
    )
    found = fingerprint("execution", PROJECT, execution)
    assert str(found) == "0f954993-009a-3b6a-d22d-9ece1b4984ae"


# Digests of MCP definitions: clients store them when they acknowledge a tool.


def test_digest_of_a_tool_definition() -> None:
    tool = OfferedTool(name="add", description="Adds.", inputSchema={"type": "object"})
    assert definition_digest(tool).hex() == (
        "6bfe9d9b45cdbddec9e12a747e68c06b5465bd0d1fc09df769c8222692e5721f"
    )


def test_digest_of_a_resource_definition() -> None:
    resource = OfferedResource(uri="file:///a", name="a", description="A.", mimeType="text/plain")
    assert definition_digest(resource).hex() == (
        "373bf9513cc6ae6ba8da3bbb76bddd0d1cfb2b241e042b0f32c5972368653cf0"
    )


def test_digest_of_a_prompt_definition() -> None:
    prompt = OfferedPrompt(name="greet", description="Greets.", arguments=[{"name": "who"}])
    assert definition_digest(prompt).hex() == (
        "895e63476aa127bf77a8c861bb9bbc42b1b8269458d8cb5ce9ae7db4f1255417"
    )


# Prices: calls and receipts refer to them by id.


def test_id_of_a_price() -> None:
    price = Price(
        provider="openai",
        model="gpt-4o",
        service_tier="batch",
        source="override",
        version="1",
        valid_from=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        rates={
            "input": Rate(Decimal("2.50"), ((200_000, Decimal(5)),)),
            "output": Rate(Decimal(10)),
        },
    )
    assert str(price.id) == "c815458b-7534-df91-9472-e212a34371ff"


# API keys: the format is public (secret scanners search for it), the digest is stored.

KEY = "llmr_k1_" + "A" * 40 + "2oog4B"


def test_id_of_an_api_key() -> None:
    assert key_format.key_id(KEY) == "AAAAAAAA"
    assert key_format.key_id(KEY[:-1] + "C") is None


def test_format_of_an_api_key() -> None:
    assert re.fullmatch("llmr_k1_[0-9A-Za-z]{46}", key_format.new_api_key())


def test_digest_of_an_api_key() -> None:
    expected = "44dfa02cfe341d540b9a9d1ccd91e41835aae52c3a6c73e28e562d44f28f7e66"
    assert key_format.key_digest(KEY).hex() == expected


def test_project_of_a_key_in_open_mode() -> None:
    # The SHA-256 of "llmring-project/1\n" and the key, as a UUIDv8.
    assert str(project_of_key("my key")) == "d3d46e99-52b0-88f0-881c-dcc9dbf69208"


# Receipts: verifiers recompute these bytes.


Row = Any  # a record of asyncpg, or a dict like one


def row(**changes: object) -> Row:
    return {
        "id": ID,
        "logged_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        "provider": "openai",
        "model": "gpt-4o",
        "alias": "fast",
        "profile": "default",
        "origin": "llmring",
        "id_at_origin": "req-1",
        "status": "ok",
        "conversation_id": None,
        "latency_ms": 120,
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_input_tokens": 0,
        "details": '{"web_searches": 1}',
        "cost": Decimal("0.25"),
        "cost_source": "client",
        "is_first_of_conversation": False,
    } | changes


PRICED = row()
UNPRICED = row(
    id=SECOND_ID,
    cost=None,
    cost_source="unpriced",
    alias=None,
    conversation_id=str(PROJECT),
    is_first_of_conversation=True,
)


async def receipt_of(*rows: Row) -> StoredReceipt:
    totals, tree = ReceiptTotals(), merkle.MerkleRoot()
    totals.add(rows)
    calls = [call_from_row(each) for each in rows]
    for call in calls:
        tree.add(merkle.leaf_hash(receipt.leaf_entry(call)))
    request = ReceiptRequest(description="d", tags=["t"], since_last_receipt=True)
    issued_at = datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=UTC)
    draft = ReceiptDraft(ID, PROJECT, "logs.example.org", issued_at, request, totals)
    return await sign_draft(keyring(), draft, tree.value(), calls[-1])


async def test_bytes_of_a_receipt_of_one_call() -> None:
    stored = await receipt_of(PRICED)
    assert stored.signed == (
        b'llmring-receipt/1\n{"alias":"fast","content":null,"conversation_id":null,'
        b'"cost":{"amount":"0.2500000000","currency":"USD","source":"client"},"description":"d",'
        b'"details":{"web_searches":1},"id_at_origin":"req-1",'
        b'"issued_at":"2026-02-03T04:05:06.000007Z","issuer":"logs.example.org","kid":"a050837d",'
        b'"kind":"usage","latency_ms":120,"lock_digest":null,'
        b'"log_id":"01900000-0000-7000-8000-000000000002",'
        b'"logged_at":"2026-01-02T03:04:05.678901Z","model":"gpt-4o","origin":"llmring",'
        b'"profile":"default","project_id":"01900000-0000-7000-8000-000000000001",'
        b'"provider":"openai","receipt_id":"01900000-0000-7000-8000-000000000002",'
        b'"registry_snapshot":null,"status":"ok","tags":["t"],'
        b'"tokens":{"cached_input":0,"input":10,"output":5},"v":"llmring-receipt/1"}'
    )
    assert stored.signature is not None
    assert stored.signature.hex() == (
        "0a3c5769a4052156599324221a24c3dd9d6cfda12b875bfa93f6512ae779f7b9"
        "d2b321b39defcfbe1333fbe429f0f028504318a633a02507e6c08821b9b1a00f"
    )
    assert stored.legacy_body == (
        b'{"alias":"fast","completion_tokens":5,"input_cost":0,"lock_digest":"","model":"gpt-4o",'
        b'"output_cost":0,"profile":"default","prompt_tokens":10,"provider":"openai",'
        b'"receipt_id":"rcpt_01900000000070008000000000000002",'
        b'"timestamp":"2026-02-03T04:05:06.000007+00:00","total_cost":0.25,"total_tokens":15}'
    )


async def test_bytes_of_a_receipt_of_several_calls() -> None:
    stored = await receipt_of(PRICED, UNPRICED)
    assert stored.signed == (
        b'llmring-receipt/1\n{"count":2,"description":"d","from":"2026-01-02T03:04:05.678901Z",'
        b'"issued_at":"2026-02-03T04:05:06.000007Z","issuer":"logs.example.org","kid":"a050837d",'
        b'"kind":"batch",'
        b'"leaves_root":"446562a88e5abbabc01916c79b72485f1d8450a3f9c03de63bc6f059c1aac385",'
        b'"project_id":"01900000-0000-7000-8000-000000000001",'
        b'"receipt_id":"01900000-0000-7000-8000-000000000002",'
        b'"summary_sha256":"080e15af3ebbe91257a162423757b1705d6a4c23e744567691f4f0b03e4a581e",'
        b'"tags":["t"],"to":"2026-01-02T03:04:05.678901Z",'
        b'"totals":{"cost":{"amount":"0.2500000000","currency":"USD","unpriced":1},'
        b'"tokens":{"cached_input":0,"input":20,"output":10}},"v":"llmring-receipt/1"}'
    )
    assert stored.summary == (
        b'{"by_alias":{"default":{"calls":1,"cost":0,"tokens":15},'
        b'"fast":{"calls":1,"cost":0.25,"tokens":15}},'
        b'"by_model":{"openai:gpt-4o":{"calls":2,"cost":0.25,"tokens":30}},'
        b'"conversation_ids":["01900000-0000-7000-8000-000000000001"],'
        b'"end_date":"2026-01-02T03:04:05.678901+00:00",'
        b'"log_ids":["01900000-0000-7000-8000-000000000002",'
        b'"01900000-0000-7000-8000-000000000003"],'
        b'"start_date":"2026-01-02T03:04:05.678901+00:00","total_calls":2,'
        b'"total_conversations":1,"total_cost":0.25,"total_tokens":30}'
    )
    assert stored.legacy_body == (
        b'{"alias":"mixed","completion_tokens":10,"input_cost":0,"lock_digest":"",'
        b'"model":"batch:2 calls","output_cost":0,"profile":"default","prompt_tokens":20,'
        b'"provider":"openai","receipt_id":"rcpt_01900000000070008000000000000002",'
        b'"timestamp":"2026-02-03T04:05:06.000007+00:00","total_cost":0.25,"total_tokens":30}'
    )


def test_leaf_of_a_call() -> None:
    entry = receipt.leaf_entry(call_from_row(PRICED))
    assert entry == (
        b'llmring-call/1\n{"alias":"fast","conversation_id":null,'
        b'"cost":{"amount":"0.2500000000","currency":"USD","source":"client"},'
        b'"details":{"web_searches":1},"id_at_origin":"req-1","latency_ms":120,'
        b'"log_id":"01900000-0000-7000-8000-000000000002",'
        b'"logged_at":"2026-01-02T03:04:05.678901Z","model":"gpt-4o","origin":"llmring",'
        b'"profile":"default","provider":"openai","status":"ok",'
        b'"tokens":{"cached_input":0,"input":10,"output":5},"v":"llmring-call/1"}'
    )
    expected = "67c3a07b232c2af259ef654db8182af0b1878d895a6e0e016434c34aa6210e43"
    assert merkle.leaf_hash(entry).hex() == expected


async def test_log_commitment_of_a_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    # The SHA-256 of "llmring-leaf/1\n", the salt, the digest of what is signed, and the signature.
    monkeypatch.setattr("secrets.token_bytes", bytes)
    expected = "0615e8f87e623f03bedbf91e8c7c1f468423a3166c7f9e3e49336ec5d986816f"
    assert log_commitment(await receipt_of(PRICED)) == {
        "salt": bytes(16),
        "log_commitment": bytes.fromhex(expected),
    }


# Encrypted secrets.


def test_a_secret_that_was_encrypted_before_can_be_read() -> None:
    # The version, 4 bytes of the key's digest, the nonce, and AES-256-GCM with the associated data
    # "llmring/mcp_servers/1", the project's id and the server's.
    ciphertext = bytes.fromhex(
        "01630dcd29000000000000000000000000"
        "759ec1b1de49ed9f328ad11765ed2d1443279fd8f18c3ff2ca22a7c940"
    )
    settings = Settings.model_validate({"sealing_keys": [bytes(range(32)).hex()]})
    secret = SecretBox(settings.sealing_keys).decrypt(PROJECT, ID, ciphertext)
    assert secret == {"token": "x"}


# Files and pages that clients keep.


def test_columns_of_an_export() -> None:
    assert ",".join(CALL_COLUMNS) == (
        "id,logged_at,provider,model,alias,profile,origin,id_at_origin,status,latency_ms,"
        "input_tokens,output_tokens,cached_input_tokens,cost,cost_source,adjustment,first_cost,"
        "first_cost_source,details,metadata,usage_known"
    )


def test_cursor_of_a_page_of_calls() -> None:
    page = CallPage(model="gpt-4o", limit=5)
    last = Position(datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), ID)
    cursor = page.following(PROJECT, last)
    assert cursor == (
        "bve9j_nUCMNbIjIwMjYtMDEtMDJUMDM6MDQ6MDUuMDAwMDA2KzAwOjAwIiwiMDE5MDAwMDAtMDAwMC03MDAw"
        "LTgwMDAtMDAwMDAwMDAwMDAyIl0"
    )
    # Eight bytes of an HMAC, then JSON.
    assert urlsafe_b64decode(cursor + "=")[8:] == (
        b'["2026-01-02T03:04:05.000006+00:00","01900000-0000-7000-8000-000000000002"]'
    )
    assert page.model_copy(update={"cursor": cursor}).after(PROJECT) == last


# Names in the database.


def test_names_of_migration_modules() -> None:
    # pgdbm stores them with each migration that was applied.
    assert SchemaModule("llmring", "s").name == "llmring_server_s"
    assert SchemaModule("mcp_client", "s").name == "llmring_mcp_s"


def test_advisory_locks() -> None:
    # Servers of two versions, in a rolling deploy, must exclude each other.
    statements = "\n".join(path.read_text() for path in sorted(SQL.rglob("*.sql")))
    statements = re.sub(r"--.*", "", statements)
    found = re.findall(r"(pg_\w*advisory\w*)\(\s*((?:[^()]|\([^()]*\))*?)\s*\)", statements)
    receipts = "hashtextextended('llmring receipts ' || @project_id::uuid::text, 0)"
    imports = "hashtextextended('llmring import ' || @project_id::uuid::text, 0)"
    quotas = (
        "hashtextextended(\n    'llmring quota ' || @schema::text || ' ' || @setting::text || ' '"
        " || @project_id::uuid::text, 0\n)"
    )
    assert set(found) == {
        ("pg_advisory_xact_lock", imports),
        ("pg_advisory_xact_lock", quotas),
        ("pg_advisory_xact_lock", receipts),
        ("pg_try_advisory_xact_lock", "'<<tables.usage_adjustments>>'::regclass::oid::bigint"),
        ("pg_try_advisory_xact_lock", receipts),
    }


# The audit log.


def test_actions_in_the_audit_log() -> None:
    assert get_args(Action) == (
        "calls.expire",
        "calls.import",
        "capabilities.expire",
        "conversations.expire",
        "data.import",
        "executions.expire",
        "key.issue",
        "key.revoke",
        "key.rotate",
        "mcp.secret.read",
        "mcp.secrets.reseal",
        "mcp.tool.acknowledge",
        "messages.delete",
        "messages.expire",
        "price.override",
        "price.rerate",
        "price.withdraw",
        "project.create",
        "project.erase",
        "project.rename",
        "project.retain",
        "registry.accept",
        "template.change",
        "template.create",
    )


def test_actor_of_programs_that_embed_the_server() -> None:
    assert LIBRARY == ("library", None, None)


def test_what_an_erasure_reports(ring: Ring) -> None:
    assert [table.rows for service in ring.services for table in service.tables if table.erase] == [
        "recent totals",
        "totals",
        "idempotency keys",
        "calls",
        "receipt calls",
        "receipt days",
        "receipts",
        "messages",
        "conversations",
        "cost adjustments",
        "template versions",
        "templates",
        "aliases",
        "MCP executions",
        "MCP capabilities",
        "MCP servers",
    ]
