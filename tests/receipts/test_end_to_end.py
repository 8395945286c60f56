"""Receipts from end to end: the published clients, the command line, and `llmring-verify`."""

import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest
from llmring.server_client import ServerClient  # type: ignore[import-untyped]

from llmring_server import Ring, Server, Settings
from llmring_server.core.identity import LIBRARY, project_of_key
from llmring_server.errors import NotFound
from llmring_server.maintenance import maintain
from llmring_server.receipts import signing_keys
from tests.cli.test_db import check_output, run
from tests.conftest import CALL
from tests.receipts.test_proofs import run_program
from tests.support.receipts import PATH, UNCERTIFIED, UNCERTIFIED_BODY, log_calls

VERIFIER = Path(sys.executable).with_name("llmring-verify")


@pytest.fixture
async def server(alone: Ring, tmp_path: Path) -> AsyncIterator[Server]:
    """A server that signs with a key file, on its own database."""
    key_file = tmp_path / "private.json"
    signing_keys.create_key_file(key_file)
    settings = alone.settings.model_copy(
        update={
            "receipts_private_key_b64": None,
            "receipt_key_file": key_file,
            "receipt_issuer": "logs.example.org",
        }
    )
    async with Server(Ring(alone.db, settings), port=0) as server:
        yield server


@pytest.fixture
async def remote(server: Server, key: str) -> AsyncIterator[ServerClient]:
    async with ServerClient(server.url, key) as remote:
        yield remote


async def test_the_verifier_accepts_every_document_of_the_server(
    server: Server, remote: ServerClient, key: str, tmp_path: Path
) -> None:
    calls = [CALL | {"cost": n} for n in range(5)]
    # Of two calls the usage is unknown: of one in the batch, and of the one with its own receipt.
    for index in (1, 3):
        calls[index] = CALL | {"input_tokens": None, "output_tokens": None}
    ids = [(await remote.post("/api/v1/log", json=call))["log_id"] for call in calls]
    batch = await remote.post(f"{PATH}/generate", json={"log_ids": ids[:3], "tags": ["t"]})
    single = await remote.post(f"{PATH}/generate", json={"log_ids": ids[3:4]})
    remaining = await remote.post(f"{PATH}/generate", json=UNCERTIFIED_BODY)
    batch_id = batch["receipt"]["receipt_id"]
    documents: dict[str, Any] = {
        "keys.json": await remote.get(f"{PATH}/public-keys.json"),
        "response.json": batch,
        "receipt.json": remaining["receipt"],
        "proof.json": await remote.get(f"{PATH}/{batch_id}/proof/{ids[1]}"),
    }
    for name, document in documents.items():
        (tmp_path / name).write_bytes(orjson.dumps(document))
    envelopes = [result["receipt"]["envelope"] for result in (batch, single, remaining)]
    (tmp_path / "receipts.jsonl").write_bytes(b"\n".join(map(orjson.dumps, envelopes)))
    async with httpx.AsyncClient(
        base_url=server.url, headers={"X-API-Key": key}, timeout=60
    ) as client:
        export = await client.get("/api/v1/logs/export?format=jsonl")
    (tmp_path / "calls.jsonl").write_bytes(export.content)
    for command, *files in (
        ("", "response.json"),
        ("", "receipt.json"),
        ("", "receipts.jsonl"),
        ("proof", "proof.json"),
        ("export", "calls.jsonl", "receipts.jsonl"),
    ):
        arguments = [command] if command else []
        arguments += [str(tmp_path / file) for file in files]
        output = await run_program(VERIFIER, *arguments, "--keys", str(tmp_path / "keys.json"))
        assert b"VERIFIED" in output
        assert b"logs.example.org" in output or b"jsonl" in output


async def test_receipts_of_older_clients(remote: ServerClient) -> None:
    """The requests of llmring's ServerClient until 1.2, method by method."""
    now = datetime.now(UTC).replace(tzinfo=None)
    logged = await remote.post("/api/v1/log", json=CALL | {"cost": 0.5})
    page = {"limit": 100, "offset": 0}
    assert (await remote.get(f"{PATH}/uncertified", params=page))["total"] == 1
    period = {
        "start_date": (now - timedelta(hours=1)).isoformat(),
        "end_date": (now + timedelta(hours=1)).isoformat(),
        "description": "Q4",
    }
    preview = await remote.post(f"{PATH}/preview", json=period)
    assert (preview["total_logs"], preview["total_cost"]) == (1, 0.5)
    result = await remote.post(f"{PATH}/generate", json=period)
    assert result["certified_count"] == 1
    id = result["receipt"]["receipt_id"]
    [listed] = (await remote.get(PATH, params={"limit": 10_000, "offset": 0}))["receipts"]
    receipt = await remote.get(f"{PATH}/{id}")
    assert listed == receipt == result["receipt"]
    assert (receipt["receipt_type"], receipt["description"]) == ("single", "Q4")
    calls = await remote.get(f"{PATH}/{id}/logs", params=page)
    assert [call["id"] for call in calls["logs"]] == [logged["log_id"]]
    assert (await remote.post(f"{PATH}/verify", json=receipt))["valid"]
    stored = await remote.post(f"{PATH}/", json={"receipt": receipt})
    assert stored["status"] == "verified"
    assert (await remote.get(f"{PATH}/uncertified", params=page))["total"] == 0


async def test_receipts_remain_when_their_calls_are_dropped(alone: Ring, tmp_path: Path) -> None:
    signing_keys.create_key_file(tmp_path / "keys.json")
    ring = Ring(alone.db, Settings(receipt_key_file=tmp_path / "keys.json"))
    project_id = project_of_key("project_id")
    old = {"logged_at": (datetime.now(UTC) - timedelta(days=200)).isoformat()}
    ids = sorted(await log_calls(ring, project_id, old, old, {}))
    receipt = (await ring.receipts.generate(project_id, UNCERTIFIED))["receipt"]
    receipt_id, dropped, stored = receipt["receipt_id"], UUID(ids[0]), UUID(ids[-1])
    proof = await ring.receipts.proof(project_id, receipt_id, stored)
    await maintain(ring.db, retain=timedelta(days=60), actor=LIBRARY)
    assert await ring.receipts.get(project_id, receipt_id) == receipt
    assert ring.receipts.verify(orjson.loads(orjson.dumps(receipt)))["valid"]
    assert await ring.receipts.proof(project_id, receipt_id, stored) == proof
    with pytest.raises(NotFound):
        await ring.receipts.proof(project_id, receipt_id, dropped)
    calls = await ring.receipts.calls(project_id, receipt_id)
    assert ([call["id"] for call in calls["logs"]], calls["total"]) == ([stored], 3)


def check_verify_command(path: Path, receipt: dict[str, Any], **environment: str) -> None:
    path.write_bytes(orjson.dumps(receipt))
    assert "Genuine" in check_output("receipts", "verify", str(path), **environment)
    for text in (orjson.dumps(receipt | {"total_cost": 9}), b"{", b"{}"):
        path.write_bytes(text)
        rejected = run("receipts", "verify", str(path), **environment)
        assert (rejected.returncode, "Error" in rejected.stderr) == (1, True)


async def test_receipts_on_the_command_line(alone: Ring, tmp_path: Path) -> None:
    path = str(tmp_path / "keys.json")
    active = check_output("receipts", "keygen", "--file", path).strip()
    assert run("receipts", "keygen", "--file", path).returncode == 1
    announced = check_output("receipts", "rotate", LLMRING_RECEIPT_KEY_FILE=path).strip()
    early = run("receipts", "rotate", "--file", path)
    assert (early.returncode, "may sign from" in early.stderr) == (1, True)
    table = check_output("receipts", "keys", "--file", path)
    assert active in table
    assert announced in table
    keys = signing_keys.read_key_file(tmp_path / "keys.json").keys
    assert not any(key.d in table for key in keys if key.d)
    project_id = await alone.projects.create("mine", actor=LIBRARY)
    await log_calls(alone, project_id, {"cost": 1}, {"cost": 1})
    environment = {
        "LLMRING_DATABASE_URL": alone.settings.database_url or "",
        "LLMRING_DATABASE_SCHEMA": alone.settings.database_schema,
    }
    options = ("--project", "mine", "--env", "prod")
    off = run("receipts", "generate", *options, **environment)
    assert (off.returncode, "no signing key is configured" in off.stderr) == (1, True)
    environment["LLMRING_RECEIPT_KEY_FILE"] = path
    generate = ("receipts", "generate", "--description", "July", *options)
    id = check_output(*generate, **environment).strip()
    receipts = check_output("receipts", "list", *options, **environment)
    assert id in receipts
    assert "July" in receipts
    assert "2.000000 USD" in receipts
    receipt = orjson.loads(check_output("receipts", "show", id, *options, **environment))
    assert receipt["envelope"]["signature"]["kid"] == active
    assert run("receipts", "generate", *options, **environment).returncode == 1
    check_verify_command(tmp_path / "receipt.json", receipt, **environment)
    new = check_output("receipts", "rotate", "--compromised", "--file", path).strip()
    assert new not in {active, announced}
