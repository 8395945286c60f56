"""Reading receipts over HTTP: lists, single receipts, their calls, exports and proofs."""

from uuid import UUID, uuid4

import httpx
import orjson
import pytest

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_verify import merkle
from llmring_verify.receipt import leaf_entry
from tests.support.receipts import PATH, UNCERTIFIED_BODY, generate, log_calls, verified_body


async def test_list_receipts_newest_first_with_all_that_was_signed(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    receipts = []
    for n in range(3):
        await log_calls(ring, project_id, {}, {})
        result = await generate(client, **UNCERTIFIED_BODY, description=f"d{n}", tags=["t"])
        receipts.append(result["receipt"])
    newest_first = receipts[::-1]
    for path in (PATH, f"{PATH}/"):
        page = (await client.get(path, params={"limit": 10_000, "offset": 0})).json()
        assert (page["receipts"], page["total"]) == (newest_first, 3)
        assert (page["limit"], page["offset"]) == (10_000, 0)
    first_page = await client.get(PATH, params={"limit": 2})
    assert first_page.json()["receipts"] == newest_first[:2]
    second_page = await client.get(f"{PATH}{first_page.links['next']['url']}")
    assert second_page.json()["receipts"] == newest_first[2:]
    for receipt in receipts:
        assert (await client.get(f"{PATH}/{receipt['receipt_id']}")).json() == receipt
        assert verified_body(receipt)["count"] == 2


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "offset=-1", "cursor=x", "limit=x"])
async def test_list_receipts_rejects_invalid_pages(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"{PATH}?{query}")).status_code == 422


async def test_list_receipts_limits_the_size_of_a_page(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.receipts.service.MAX_PAGE_BYTES", 5000)
    for _ in range(5):
        await log_calls(ring, project_id, {}, {})
        await generate(client)
    ids: list[str] = []
    response = await client.get(PATH)
    while receipts := response.json()["receipts"]:
        assert len(receipts) < 5
        ids += [receipt["receipt_id"] for receipt in receipts]
        response = await client.get(PATH + response.links["next"]["url"])
    assert ids == sorted(ids, reverse=True)
    assert len(ids) == 5


async def test_a_receipt_is_found_by_the_id_in_its_envelope_and_by_the_one_beside_it(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    log_id, _ = await log_calls(ring, project_id, {}, {})
    receipt = (await generate(client))["receipt"]
    uuid = receipt["envelope"]["receipt"]["receipt_id"]
    id = receipt["receipt_id"]
    assert id == f"rcpt_{UUID(uuid).hex}"
    for path in ("", "/logs", "/export", f"/proof/{log_id}"):
        one, other = [await client.get(f"{PATH}/{each}{path}") for each in (id, uuid)]
        assert (one.status_code, one.content) == (200, other.content)
    assert (await client.get(f"{PATH}/{uuid}/logs")).json()["receipt_id"] == id
    for unknown in (id[:21], id.upper(), uuid.upper(), f"rcpt_{uuid4().hex}", f"rcpt_{uuid}"):
        response = await client.get(f"{PATH}/{unknown}")
        assert (response.status_code, response.json()["detail"]) == (404, "Receipt not found")


async def test_get_receipt_that_does_not_exist(client: httpx.AsyncClient) -> None:
    for path in ("", "/logs", "/export", f"/proof/{uuid4()}"):
        assert (await client.get(f"{PATH}/{uuid4()}{path}")).status_code == 404


async def test_list_uncertified_calls(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    ids = await log_calls(ring, project_id, {"cost": 0.5, "alias": "a"}, {}, {})
    params = {"limit": 2, "offset": 0}
    page = (await client.get(f"{PATH}/uncertified", params=params)).json()
    assert page | {"logs": []} == {"logs": [], "total": 3} | params
    newest_first = [str(call.id) for call in await ring.usage.logs(project_id)]
    assert [call["id"] for call in page["logs"]] == newest_first[:2]
    await generate(client, log_ids=ids[:2])
    page = (await client.get(f"{PATH}/uncertified")).json()
    assert ([call["id"] for call in page["logs"]], page["total"]) == (ids[2:], 1)


async def test_pages_of_calls_follow_one_another(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    ids = await log_calls(ring, project_id, {}, {}, {})
    newest_first = [str(call.id) for call in await ring.usage.logs(project_id)]
    receipt_id = (await generate(client, log_ids=ids))["receipt"]["receipt_id"]
    await log_calls(ring, project_id, {}, {})
    uncertified = [str(call.id) for call in await ring.usage.logs(project_id)][:2]
    cursors = []
    lists = ((f"{receipt_id}/logs", newest_first), ("uncertified", uncertified))
    for path, expected in lists:
        found: list[str] = []
        response = await client.get(f"{PATH}/{path}?limit=1")
        while calls := response.json()["logs"]:
            found += [call["id"] for call in calls]
            target = response.links["next"]["url"]
            cursors.append(target)
            response = await client.get(f"{PATH}/{path}{target}")
        assert found == expected
        assert "next" not in response.links
    # A cursor belongs to its list.
    for (path, _), target in zip(lists, (cursors[-1], cursors[0]), strict=True):
        assert (await client.get(f"{PATH}/{path}{target}")).status_code == 422


async def test_list_receipt_calls(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    ids = await log_calls(ring, project_id, {"cost": 0.5, "alias": "a"}, {}, {})
    newest_first = [str(call.id) for call in await ring.usage.logs(project_id)]
    receipt_id = (await generate(client, log_ids=ids[:2]))["receipt"]["receipt_id"]
    page = (await client.get(f"{PATH}/{receipt_id}/logs?limit=1&offset=1")).json()
    assert (page["receipt_id"], page["total"]) == (receipt_id, 2)
    [call] = page["logs"]
    assert call["id"] == [id for id in newest_first if id in ids[:2]][1]
    alias, cost = ("a", 0.5) if call["id"] == ids[0] else ("default", 0.00027)
    assert (call["type"], call["alias"], call["cost"]) == ("usage", alias, cost)
    assert call["timestamp"] == call["logged_at"]


async def test_export_receipt_has_the_lines_of_the_export_of_calls(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    ids = await log_calls(ring, project_id, *[{"cost": n, "metadata": {"n": n}} for n in range(4)])
    receipt_id = (await generate(client, log_ids=ids[:3]))["receipt"]["receipt_id"]
    response = await client.get(f"{PATH}/{receipt_id}/export")
    assert response.headers["Content-Type"] == "application/jsonl"
    all_lines = (await client.get("/api/v1/logs/export?format=jsonl")).content.splitlines()
    certified = [line for line in all_lines if orjson.loads(line)["id"] in ids[:3]]
    assert response.content.splitlines() == certified


async def test_get_receipt_proof_of_each_call(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    ids = sorted(
        await log_calls(ring, project_id, *[{"cost": n, "metadata": {}} for n in range(7)])
    )
    receipt = (await generate(client))["receipt"]
    root = bytes.fromhex(verified_body(receipt)["leaves_root"])
    for index, id in enumerate(ids):
        proof = (await client.get(f"{PATH}/{receipt['receipt_id']}/proof/{id}")).json()
        assert (proof["leaf_index"], proof["tree_size"]) == (index, 7)
        assert (proof["envelope"], proof["call"]["log_id"]) == (receipt["envelope"], id)
        path = [bytes.fromhex(node) for node in proof["path"]]
        leaf = merkle.leaf_hash(leaf_entry(proof["call"]))
        assert merkle.is_included(leaf, index, 7, path, root)
        assert not merkle.is_included(leaf, (index + 1) % 7, 7, path, root)
    unknown = await client.get(f"{PATH}/{receipt['receipt_id']}/proof/{uuid4()}")
    assert unknown.status_code == 404
    single = (await generate(client, log_ids=ids[:1]))["receipt"]["receipt_id"]
    assert (await client.get(f"{PATH}/{single}/proof/{ids[0]}")).status_code == 422
