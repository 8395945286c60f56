"""From a call to an auditor: what this server gives out, checked by the program for auditors."""

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
from llmring_server.core.identity import LIBRARY, ProjectId, project_of_key
from llmring_server.errors import NotFound
from llmring_server.maintenance import maintain
from llmring_server.receipts import signing_keys
from llmring_server.receipts.models import Receipt, ReceiptRequest
from tests.cli.test_db import done, run
from tests.conftest import CALL
from tests.receipts.test_generate import PATH
from tests.receipts.test_proofs import piped
from tests.support.signing import called

VERIFY = Path(sys.executable).with_name("llmring-verify")
REST = ReceiptRequest(since_last_receipt=True)


@pytest.fixture
async def signer(alone: Ring, tmp_path: Path) -> AsyncIterator[Server]:
    """A server that signs, on a database that is its own."""
    signing_keys.create_key_file(tmp_path / "private.json")
    settings = alone.settings.model_copy(
        update={"receipt_key_file": tmp_path / "private.json", "receipt_issuer": "logs.example.org"}
    )
    async with Server(Ring(alone.db, settings), port=0) as server:
        yield server


@pytest.fixture
async def remote(signer: Server, key: str) -> AsyncIterator[ServerClient]:
    async with ServerClient(signer.url, key) as remote:
        yield remote


async def test_what_is_given_out_satisfies_an_auditor(
    signer: Server, remote: ServerClient, key: str, tmp_path: Path
) -> None:
    ids = [(await remote.post("/api/v1/log", json=CALL | {"cost": n}))["log_id"] for n in range(5)]
    first = await remote.post(f"{PATH}/generate", json={"log_ids": ids[:3], "tags": ["t"]})
    rest = await remote.post(f"{PATH}/generate", json={"log_ids": ids[3:4]})
    last = await remote.post(f"{PATH}/generate", json={"since_last_receipt": True})
    batch = first["receipt"]["receipt_id"]
    files: dict[str, Any] = {
        "keys.json": await remote.get(f"{PATH}/public-keys.json"),
        "answer.json": first,
        "receipt.json": last["receipt"],
        "proof.json": await remote.get(f"{PATH}/{batch}/proof/{ids[1]}"),
    }
    for name, document in files.items():
        (tmp_path / name).write_bytes(orjson.dumps(document))
    lines = [orjson.dumps(each["receipt"]["envelope"]) for each in (first, rest, last)]
    (tmp_path / "receipts.jsonl").write_bytes(b"\n".join(lines))
    async with httpx.AsyncClient(
        base_url=signer.url, headers={"X-API-Key": key}, timeout=60
    ) as client:
        export = await client.get("/api/v1/logs/export?format=jsonl")
    (tmp_path / "calls.jsonl").write_bytes(export.content)
    pinned = ("--keys", str(tmp_path / "keys.json"))
    for command in (
        ("answer.json",), ("receipt.json",), ("receipts.jsonl",), ("proof", "proof.json"),
        ("export", "calls.jsonl", "receipts.jsonl"),
    ):  # fmt: skip
        given = [str(tmp_path / each) if "." in each else each for each in command]
        told = await piped(VERIFY, *given, *pinned)
        assert b"VERIFIED" in told
        assert b"logs.example.org" in told or b"jsonl" in told


async def test_clients_of_then_find_what_they_knew(remote: ServerClient) -> None:
    """What llmring's ServerClient sent until 1.2, method by method."""
    now = datetime.now(UTC).replace(tzinfo=None)
    call = await remote.post("/api/v1/log", json=CALL | {"cost": 0.5})
    page = {"limit": 100, "offset": 0}
    assert (await remote.get(f"{PATH}/uncertified", params=page))["total"] == 1
    span = {
        "start_date": (now - timedelta(hours=1)).isoformat(),
        "end_date": (now + timedelta(hours=1)).isoformat(),
        "description": "Q4",
    }
    preview = await remote.post(f"{PATH}/preview", json=span)
    assert (preview["total_logs"], preview["total_cost"]) == (1, 0.5)
    made = await remote.post(f"{PATH}/generate", json=span)
    assert made["certified_count"] == 1
    id = made["receipt"]["receipt_id"]
    [listed] = (await remote.get(PATH, params={"limit": 10_000, "offset": 0}))["receipts"]
    got = await remote.get(f"{PATH}/{id}")
    assert listed == got == made["receipt"]
    assert (got["receipt_type"], got["description"]) == ("single", "Q4")
    logs = await remote.get(f"{PATH}/{id}/logs", params=page)
    assert [each["id"] for each in logs["logs"]] == [call["log_id"]]
    assert (await remote.post(f"{PATH}/verify", json=got))["valid"]
    assert (await remote.post(f"{PATH}/", json={"receipt": got}))["status"] == "verified"
    assert (await remote.get(f"{PATH}/uncertified", params=page))["total"] == 0


async def test_receipts_outlive_the_calls(alone: Ring, tmp_path: Path) -> None:
    signing_keys.create_key_file(tmp_path / "keys.json")
    ring = Ring(alone.db, Settings(receipt_key_file=tmp_path / "keys.json"))
    project_id = project_of_key("project_id")
    old = (datetime.now(UTC) - timedelta(days=200)).isoformat()
    ids = sorted(await called(ring, project_id, {"logged_at": old}, {"logged_at": old}, {}))
    told = (await ring.receipts.generate(project_id, REST))["receipt"]
    kept, gone = ids[-1], ids[0]
    before = await proof(ring, project_id, told, kept)
    await maintain(ring.db, retain=timedelta(days=60), actor=LIBRARY)
    assert await ring.receipts.get(project_id, told["receipt_id"]) == told
    assert ring.receipts.verify(orjson.loads(orjson.dumps(told)))["valid"]
    assert await proof(ring, project_id, told, kept) == before
    with pytest.raises(NotFound):
        await proof(ring, project_id, told, gone)
    logs = await ring.receipts.calls(project_id, told["receipt_id"])
    assert ([str(each["id"]) for each in logs["logs"]], logs["total"]) == ([kept], 3)


async def proof(ring: Ring, project_id: ProjectId, told: Receipt, id: str) -> Any:
    return await ring.receipts.proof(project_id, told["receipt_id"], UUID(id))


def check_genuine(path: Path, told: dict[str, Any], **prod: str) -> None:
    path.write_bytes(orjson.dumps(told))
    assert "Genuine" in done("receipts", "verify", str(path), **prod)
    for text in (orjson.dumps(told | {"total_cost": 9}), b"{", b"{}"):
        path.write_bytes(text)
        refused = run("receipts", "verify", str(path), **prod)
        assert (refused.returncode, "Error" in refused.stderr) == (1, True)


async def test_an_operator_makes_keys_and_receipts(alone: Ring, tmp_path: Path) -> None:
    path = str(tmp_path / "keys.json")
    made = done("receipts", "keygen", "--file", path).strip()
    assert run("receipts", "keygen", "--file", path).returncode == 1
    announced = done("receipts", "rotate", LLMRING_RECEIPT_KEY_FILE=path).strip()
    early = run("receipts", "rotate", "--file", path)
    assert (early.returncode, "may sign from" in early.stderr) == (1, True)
    listed = done("receipts", "keys", "--file", path)
    assert (made in listed, announced in listed) == (True, True)
    secrets = [each.d or "" for each in signing_keys.read_key_file(tmp_path / "keys.json").keys]
    assert not any(secret in listed for secret in secrets)
    project_id = await alone.projects.create("mine", actor=LIBRARY)
    await called(alone, project_id, {"cost": 1}, {"cost": 1})
    prod = {
        "LLMRING_DATABASE_URL": alone.settings.database_url or "",
        "LLMRING_DATABASE_SCHEMA": alone.settings.database_schema,
    }
    of = ("--project", "mine", "--env", "prod")
    off = run("receipts", "generate", *of, **prod)
    assert (off.returncode, "no signing key is configured" in off.stderr) == (1, True)
    prod["LLMRING_RECEIPT_KEY_FILE"] = path
    id = done("receipts", "generate", "--description", "July", *of, **prod).strip()
    assert id in (shown := done("receipts", "list", *of, **prod))
    assert ("July" in shown, "2.000000 USD" in shown) == (True, True)
    told = orjson.loads(done("receipts", "show", id, *of, **prod))
    assert told["envelope"]["signature"]["kid"] == made
    assert run("receipts", "generate", *of, **prod).returncode == 1
    check_genuine(tmp_path / "receipt.json", told, **prod)
    given_up = done("receipts", "rotate", "--compromised", "--file", path).strip()
    assert given_up not in {made, announced}
