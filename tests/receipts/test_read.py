"""Receipts as they are listed, shown, proved, verified and kept, over HTTP, as old clients ask."""

from copy import deepcopy
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_verify import legacy, merkle
from llmring_verify.receipt import base64url, leaf_entry
from tests.receipts.test_generate import ALL, PATH, made, proved, ring, settings
from tests.support.signing import OLD, called, keyring

__all__ = ["ring", "settings"]


async def verified(client: httpx.AsyncClient, document: Any) -> dict[str, Any]:
    answer = await client.post(f"{PATH}/verify", json=document, headers={"X-API-Key": ""})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def test_list_receipts_newest_first_with_all_that_was_signed(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    told = []
    for n in range(3):
        await called(ring, project_id, {}, {})
        told.append((await made(client, **ALL, description=f"d{n}", tags=["t"]))["receipt"])
    for path in (PATH, f"{PATH}/"):
        page = (await client.get(path, params={"limit": 10_000, "offset": 0})).json()
        assert (page["receipts"], page["total"]) == (told[::-1], 3)
        assert (page["limit"], page["offset"]) == (10_000, 0)
    first = await client.get(PATH, params={"limit": 2})
    assert first.json()["receipts"] == told[:0:-1]
    rest = await client.get(f"{PATH}{first.links['next']['url']}")
    assert rest.json()["receipts"] == told[:1]
    for id in (each["receipt_id"] for each in told):
        [kept] = [each for each in told if each["receipt_id"] == id]
        assert (await client.get(f"{PATH}/{id}")).json() == kept
        assert proved(kept)["count"] == 2


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "offset=-1", "cursor=x", "limit=x"])
async def test_list_receipts_refuses_other_pages(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"{PATH}?{query}")).status_code == 422


async def test_list_receipts_is_bounded(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.receipts.service.MAX_PAGE_BYTES", 5000)
    for _ in range(5):
        await called(ring, project_id, {}, {})
        await made(client)
    page, found = "", []
    while receipts := (answer := await client.get(PATH + page)).json()["receipts"]:
        assert len(receipts) < 5
        found += [each["receipt_id"] for each in receipts]
        page = answer.links["next"]["url"]
    assert found == sorted(found, reverse=True)
    assert len(found) == 5


async def test_get_receipt_that_is_not_there(client: httpx.AsyncClient) -> None:
    for path in ("", "/logs", "/export", f"/proof/{uuid4()}"):
        assert (await client.get(f"{PATH}/{uuid4()}{path}")).status_code == 404


async def test_uncertified_are_the_calls_that_are_left(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    ids = await called(ring, project_id, {"cost": 0.5, "alias": "a"}, {}, {})
    stretch = {"limit": 2, "offset": 0}
    told = (await client.get(f"{PATH}/uncertified", params=stretch)).json()
    assert told | {"logs": []} == {"logs": [], "total": 3} | stretch
    newest = [str(log.id) for log in await ring.usage.logs(project_id)]
    assert [each["id"] for each in told["logs"]] == newest[:2]
    await made(client, log_ids=ids[:2])
    left = (await client.get(f"{PATH}/uncertified")).json()
    assert ([each["id"] for each in left["logs"]], left["total"]) == (ids[2:], 1)


async def test_receipt_logs_are_the_calls_that_it_certifies(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    ids = await called(ring, project_id, {"cost": 0.5, "alias": "a"}, {}, {})
    newest = [str(log.id) for log in await ring.usage.logs(project_id)]
    receipt = (await made(client, log_ids=ids[:2]))["receipt"]
    logs = (await client.get(f"{PATH}/{receipt['receipt_id']}/logs?limit=1&offset=1")).json()
    assert (logs["receipt_id"], logs["total"]) == (receipt["receipt_id"], 2)
    [item] = logs["logs"]
    alias, cost = ("a", 0.5) if item["id"] == ids[0] else ("default", 0.00027)
    assert item["id"] == [id for id in newest if id in ids[:2]][1]
    assert (item["type"], item["alias"], item["cost"]) == ("usage", alias, cost)
    assert item["timestamp"] == item["logged_at"]


async def test_export_receipt_streams_its_calls_as_an_export_has_them(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    ids = await called(ring, project_id, *[{"cost": n, "metadata": {"n": n}} for n in range(4)])
    id = (await made(client, log_ids=ids[:3]))["receipt"]["receipt_id"]
    answer = await client.get(f"{PATH}/{id}/export")
    assert answer.headers["Content-Type"] == "application/jsonl"
    whole = (await client.get("/api/v1/logs/export?format=jsonl")).content.splitlines()
    lines = answer.content.splitlines()
    assert [line for line in whole if orjson.loads(line)["id"] in ids[:3]] == lines


async def test_receipt_proof_proves_each_call(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    ids = sorted(await called(ring, project_id, *[{"cost": n, "metadata": {}} for n in range(7)]))
    receipt = (await made(client))["receipt"]
    root = bytes.fromhex(proved(receipt)["leaves_root"])
    for index, id in enumerate(ids):
        answer = await client.get(f"{PATH}/{receipt['receipt_id']}/proof/{id}")
        proof = answer.json()
        assert (proof["leaf_index"], proof["tree_size"]) == (index, 7)
        assert (proof["envelope"], proof["call"]["log_id"]) == (receipt["envelope"], id)
        path = [bytes.fromhex(each) for each in proof["path"]]
        leaf = merkle.leaf_hash(leaf_entry(proof["call"]))
        assert merkle.is_included(leaf, index, 7, path, root)
        assert not merkle.is_included(leaf, (index + 1) % 7, 7, path, root)
    other = await client.get(f"{PATH}/{receipt['receipt_id']}/proof/{uuid4()}")
    assert other.status_code == 404
    single = (await made(client, log_ids=ids[:1]))["receipt"]["receipt_id"]
    assert (await client.get(f"{PATH}/{single}/proof/{ids[0]}")).status_code == 422


async def test_verify_receipt_with_its_envelope_alone_or_in_its_old_form(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    await called(ring, project_id, {"cost": 0.1}, {})
    told = (await made(client, **ALL, tags=["t"]))["receipt"]
    old = {name: told[name] for name in (*legacy.FIELDS, "signature")}
    for document in (told, told["envelope"], old, OLD, OLD | {"unknown": 1}):
        found = await verified(client, document)
        assert (found["valid"], found["reason"], found["algorithm"]) == (True, None, "Ed25519")
    forged = deepcopy(told)
    forged["batch_summary"]["by_model"]["openai:gpt-4o-mini"]["cost"] = 9.5
    bare = {name: value for name, value in told.items() if name != "envelope"}
    other = deepcopy(told)
    other["envelope"]["receipt"]["count"] = 3
    for document in (
        bare, told | {"total_cost": 9}, told | {"tags": []}, told | {"description": "d"}, forged,
        told | {"receipt_type": "single"}, told | {"batch_summary": None}, other,
        OLD | {"alias": "b"},
        OLD | {"signature": None}, OLD | {"signature": "ed25519:AA"}, told["envelope"] | {"x": 1},
        told["envelope"] | {"signature": {"alg": "none", "kid": "a050837d", "sig": ""}},
    ):  # fmt: skip
        found = await verified(client, document)
        assert (found["valid"], found["kid"]) == (False, None)
        assert found["reason"]


@pytest.mark.parametrize(
    ("body", "status"),
    [("{}", 422), ("[]", 422), ("null", 422), ("{", 400), ("", 400), ("[" * 100_000, 400)],
)
async def test_verify_receipt_of_what_is_none(
    client: httpx.AsyncClient, body: str, status: int
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await client.post(f"{PATH}/verify", content=body, headers=headers)
    assert answer.status_code == status
    twice = orjson.dumps(OLD)[:-1] + b',"alias":"fast"}'
    answer = await client.post(f"{PATH}/verify", content=twice, headers=headers)
    assert (answer.status_code, answer.json()["valid"]) == (200, False)


async def test_store_receipt_of_another_time_once(
    client: httpx.AsyncClient,
) -> None:
    for _ in range(2):
        answer = await client.post(PATH, json={"receipt": OLD})
        assert answer.json() == {"receipt_id": OLD["receipt_id"], "status": "verified"}
    kept = (await client.get(f"{PATH}/{OLD['receipt_id']}")).json()
    assert kept | OLD == kept
    assert (kept["envelope"], kept["receipt_type"]) == (None, "single")
    logs = (await client.get(f"{PATH}/{OLD['receipt_id']}/logs")).json()
    assert (logs["logs"], logs["total"]) == ([], 0)
    flat = OLD | {"alias": "another"}
    signature = await keyring().sign(legacy.signed_bytes(flat))
    other = flat | {"signature": f"ed25519:{base64url(signature)}"}
    assert (await client.post(PATH, json={"receipt": other})).status_code == 409
    forged = await client.post(PATH, json={"receipt": OLD | {"total_cost": 2.0}})
    assert forged.status_code == 400
    assert forged.json()["detail"].startswith("Invalid receipt signature")
    assert (await client.get(PATH)).json()["total"] == 1
