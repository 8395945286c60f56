"""Definitions of MCP capabilities: every member is kept, answered and compared."""

import json
from decimal import Decimal
from typing import Any

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.mcp import OfferedPrompt, OfferedResource, OfferedTool
from llmring_server.mcp.capabilities import definition_digest
from tests.support.mcp import ADD, MCP, Json, list_capabilities, refresh, register

# As the specification of MCP of 2025-11-25 has them, and what it may have later.
TOOL: Json = {
    "name": "send",
    "title": "Send mail",
    "description": "Sends",
    "inputSchema": {"type": "object", "$defs": {"n": {"maximum": 2**64}}},
    "outputSchema": {"type": "object", "properties": {"id": {"type": "string"}}},
    "annotations": {"readOnlyHint": True, "destructiveHint": False, "title": "Send"},
    "icons": [{"src": "data:image/png;base64,AA==", "mimeType": "image/png", "sizes": ["48x48"]}],
    "_meta": {"example.org/cost": 1.5, "n": 10**40},
    "execution": {"taskSupport": "optional"},
    "x-later": ["anything", None, {"a": {}}],
    "flag": False,
}
RESOURCE: Json = {
    "uri": "file:///a",
    "name": "a",
    "title": "A",
    "description": "A file",
    "mimeType": "text/plain",
    "size": 2**63,
    "annotations": {"audience": ["user"], "priority": 0.9, "lastModified": "2026-01-01T00:00:00Z"},
    "icons": [],
    "_meta": {"a": 1},
}
TEMPLATE: Json = {"uriTemplate": "file:///{path}", "name": "files", "title": "Files"}
PROMPT: Json = {
    "name": "greet",
    "title": "Greet",
    "description": "Greets",
    "arguments": [{"name": "who", "title": "Who", "required": True, "x": 1}],
    "icons": [{"src": "https://example.org/i.svg", "theme": "dark"}],
    "_meta": {},
    "annotations": None,
}
KINDS = {"tools": TOOL, "resources": RESOURCE, "prompts": PROMPT}


def answered(offered: Json) -> Json:
    """Return the members of a response that a server's own members become."""
    former = {"inputSchema": "input_schema", "mimeType": "mime_type"}
    return {former.get(name, name): value for name, value in offered.items() if value is not None}


def nested(levels: int) -> Json:
    """Return a schema of so many levels."""
    schema: Json = {"type": "string"}
    for _ in range((levels - 1) // 2):
        schema = {"properties": {"a": schema}}
    return schema


@pytest.mark.parametrize("kind", KINDS)
async def test_every_member_is_kept_and_answered_by_its_name(
    client: httpx.AsyncClient, kind: str
) -> None:
    path = await register(client)
    result = await refresh(client, path, **{kind: [KINDS[kind]]})
    [capability] = result[kind]
    expected = answered(KINDS[kind])
    assert {name: capability[name] for name in expected} == expected
    assert result["warnings"] == []
    assert await list_capabilities(client, kind) == [capability]
    response = await client.get(f"{MCP}/{kind}/{capability['id']}")
    assert response.json() == capability
    again = await refresh(client, path, **{kind: [KINDS[kind]]})
    assert again[kind] == [capability]
    assert again["changed"][kind] == []


async def test_numbers_of_a_definition_are_answered_as_they_were_written(
    client: httpx.AsyncClient,
) -> None:
    path = await register(client)
    numbers = b"18446744073709551616, 1e300, 0.1000000000000000055511151231257827, -9e18"
    tool = b'{"name": "t", "inputSchema": {"enum": [%b]}, "_meta": {"n": [%b]}}' % (
        numbers,
        numbers,
    )
    body = b'{"tools": [%b]}' % tool
    headers = {"Content-Type": "application/json"}
    response = await client.post(f"{path}/refresh", content=body, headers=headers)
    assert response.status_code == 200, response.text
    digits = numbers.replace(b" ", b"").replace(b"1e300", b"1e+300")
    digits = digits.replace(b"-9e18", b"-9000000000000000000")
    for answer in (response, await client.get(f"{MCP}/tools")):
        assert answer.content.lower().count(digits) == 2, answer.text


@pytest.mark.parametrize("levels", [3, 33, 63, 65, 127])
async def test_a_schema_may_be_deep(client: httpx.AsyncClient, levels: int) -> None:
    path = await register(client)
    schema = nested(levels)
    tool = {"name": "t", "inputSchema": schema, "outputSchema": schema, "_meta": {"a": schema}}
    tool["_meta"] = schema
    [stored] = (await refresh(client, path, tools=[ADD, tool]))["tools"][1:]
    assert stored["input_schema"] == stored["outputSchema"] == stored["_meta"] == schema


@pytest.mark.parametrize("kind", KINDS)
async def test_a_change_of_any_member_is_a_changed_definition(
    client: httpx.AsyncClient, kind: str
) -> None:
    path = await register(client)
    offered = KINDS[kind]
    key = "uri" if kind == "resources" else "name"
    [first] = (await refresh(client, path, **{kind: [offered]}))[kind]
    for name in offered:
        if name == key:
            continue
        other = "other" if name in {"description", "mimeType", "name"} else {"other": 1}
        for changed in ({**offered, name: other}, {**offered, name: None}):
            if offered[name] == changed[name] or changed.get("name", "") is None:
                continue
            result = await refresh(client, path, **{kind: [changed]})
            assert result["changed"][kind] == [offered[key]], name
            if kind == "tools":
                [tool] = result[kind]
                assert tool["definition_changed_at"], name
                assert tool["definition_sha256"] != first["definition_sha256"]
        result = await refresh(client, path, **{kind: [offered]})
        assert result[kind] == [first]


async def test_a_read_only_hint_that_goes_away_needs_review(client: httpx.AsyncClient) -> None:
    path = await register(client)
    await refresh(client, path, tools=[TOOL])
    writes = TOOL | {"annotations": {**TOOL["annotations"], "readOnlyHint": False}}
    [tool] = (await refresh(client, path, tools=[writes]))["tools"]
    assert await list_capabilities(client, "tools", "?changed=true") == [tool]
    body = {"definition_sha256": tool["definition_sha256"]}
    response = await client.post(f"{MCP}/tools/{tool['id']}/acknowledge", json=body)
    assert response.json() == tool | {"definition_changed_at": None}
    assert await list_capabilities(client, "tools", "?changed=true") == []
    [back] = (await refresh(client, path, tools=[TOOL]))["tools"]
    assert back["definition_changed_at"]


async def test_null_says_the_same_as_no_member(client: httpx.AsyncClient) -> None:
    path = await register(client)
    [before] = (await refresh(client, path, tools=[ADD]))["tools"]
    nulls = ADD | dict.fromkeys(("title", "annotations", "_meta", "outputSchema", "icons"))
    result = await refresh(client, path, tools=[nulls])
    assert (result["tools"], result["changed"]["tools"]) == ([before], [])


async def test_a_client_may_refresh_with_what_it_read(client: httpx.AsyncClient) -> None:
    path = await register(client)
    offered = {kind: [capability] for kind, capability in KINDS.items()}
    before = await refresh(client, path, **offered, resourceTemplates=[TEMPLATE])
    read = {kind: await list_capabilities(client, kind) for kind in KINDS}
    after = await refresh(client, path, **read)
    for kind in KINDS:
        assert after[kind] == before[kind]
        assert after["changed"][kind] == after["removed"][kind] == []


@pytest.mark.parametrize("name", ["resources", "resourceTemplates", "resource_templates"])
async def test_a_template_of_resources_is_a_resource(client: httpx.AsyncClient, name: str) -> None:
    path = await register(client)
    result = await refresh(client, path, **{name: [TEMPLATE]})
    [template] = result["resources"]
    assert template["uri"] == template["uriTemplate"] == TEMPLATE["uriTemplate"]
    assert template["title"] == "Files"
    assert result["server"]["capabilities"]["resources"] == 1


async def test_added_tool_keeps_its_members(client: httpx.AsyncClient) -> None:
    path = await register(client)
    new = TOOL | {"server_id": path.rpartition("/")[2]}
    added = (await client.post(f"{MCP}/tools", json=new)).json()
    assert added.pop("warnings") == []
    assert await list_capabilities(client, "tools") == [added]
    assert (await refresh(client, path, tools=[TOOL]))["tools"] == [added]


# Names that are not ours are members; those of our own responses are ignored.

EVIL: Json = {"evil": 1}
OTHER_NAMES = {
    "tools": (
        *("uri", "arguments", "mime_type", "mimeType", "members", "server_name", "server_url"),
        *("content", "size", "recorded_at", "kind", "digest"),
    ),
    "resources": (
        *("inputSchema", "input_schema", "arguments", "members", "warnings", "kind"),
        *("definition_sha256", "definition_version", "definition_changed_at"),
    ),
    "prompts": (
        *("uri", "inputSchema", "input_schema", "mime_type", "mimeType", "members", "warnings"),
        *("definition_sha256", "definition_version", "definition_changed_at"),
    ),
}
COMMON = ("id", "server_id", "server", "is_active", "created_at", "project_id", "api_key_id")
OUR_NAMES = {
    "tools": (
        *COMMON,
        *("definition_sha256", "definition_version", "definition_changed_at", "warnings"),
    ),
    "resources": (*COMMON, "server_name", "server_url"),
    "prompts": (*COMMON, "server_name", "server_url"),
}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in OTHER_NAMES.items() for name in names]
)
async def test_a_name_that_only_other_kinds_have_is_a_member(
    client: httpx.AsyncClient, kind: str, name: str
) -> None:
    path = await register(client)
    plain = {"uri": "u"} if kind == "resources" else {"name": "n"}
    await refresh(client, path, **{kind: [plain]})
    result = await refresh(client, path, **{kind: [plain | {name: EVIL}]})
    assert result["changed"][kind] == [*plain.values()]
    assert result["warnings"] == []
    [capability] = result[kind]
    assert capability[name] == EVIL
    read = await list_capabilities(client, kind)
    assert read == [capability]
    again = await refresh(client, path, **{kind: read})
    assert (again[kind], again["changed"][kind]) == ([capability], [])


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in OUR_NAMES.items() for name in names]
)
@pytest.mark.parametrize("value", [EVIL, [1], "evil", 7])
async def test_a_value_that_is_no_answer_of_ours_is_reported(
    client: httpx.AsyncClient, kind: str, name: str, value: Any
) -> None:
    if name in {"server_name", "server_url"} and value == "evil":
        return
    path = await register(client)
    plain = {"uri": "u"} if kind == "resources" else {"name": "n"}
    [before] = (await refresh(client, path, **{kind: [plain]}))[kind]
    result = await refresh(client, path, **{kind: [plain | {name: value}]})
    assert result[kind] == [before]
    [warning] = result["warnings"]
    assert (warning["code"], warning["field"]) == ("not_kept", f"{kind}.0.{name}")


async def test_added_tool_reports_what_is_not_kept(client: httpx.AsyncClient) -> None:
    path = await register(client)
    new = {"name": "t", "server_id": path.rpartition("/")[2], "is_active": EVIL, "uri": EVIL}
    added = (await client.post(f"{MCP}/tools", json=new)).json()
    [warning] = added["warnings"]
    assert (warning["code"], warning["field"]) == ("not_kept", "is_active")
    assert (added["is_active"], added["uri"]) == (True, EVIL)
    # It may be sent back as it was answered.
    result = await refresh(client, path, tools=[added])
    assert (result["warnings"], result["changed"]["tools"]) == ([], [])


# What is refused names the capability.

LARGE = {"a": "x" * 70_000}


@pytest.mark.parametrize(
    ("capabilities", "label"),
    [
        ({"tools": [ADD, {"name": "bad", "inputSchema": []}]}, 'tool "bad"'),
        ({"tools": [ADD, {"name": "bad", "inputSchema": LARGE}]}, 'tool "bad"'),
        ({"tools": [{"name": "bad", "inputSchema": nested(131)}]}, 'tool "bad"'),
        ({"tools": [{"name": "bad", "annotations": nested(131)}]}, 'tool "bad"'),
        ({"tools": [{"name": "bad", "_meta": {"a": "x" * 600_000}}]}, 'tool "bad"'),
        ({"tools": [{"name": "bad", "_meta": {"k" * 1025: 1}}]}, 'tool "bad"'),
        ({"tools": [{"name": "bad", "description": 5}]}, 'tool "bad"'),
        ({"tools": [{"name": "bad", "inputSchema": {}, "input_schema": LARGE}]}, 'tool "bad"'),
        ({"tools": [{"name": "bad"}, ADD, {"name": "bad"}]}, 'tool "bad"'),
        ({"tools": [{"name": "a\nb\x1b", "inputSchema": 1}]}, 'tool "a\\nb\\x1b"'),
        ({"tools": [{"name": "ü" * 300}]}, f'tool "{"ü" * 100}"'),
        ({"resources": [{"uri": "file:///bad", "mimeType": 1}]}, 'resource "file:///bad"'),
        ({"prompts": [{"name": "bad", "arguments": "x"}]}, 'prompt "bad"'),
        ({"tools": [{"name": "bad", "inputSchema": {"a\0": 1}}]}, 'tool "bad"'),
        ({"tools": [{"name": "bad", "annotations": {"a": [{"\0": 1}]}}]}, 'tool "bad"'),
        ({"tools": [{"name": "bad", "x\0": 1}]}, 'tool "bad"'),
        ({"tools": [{"name": "bad\0"}]}, 'tool "bad\\x00"'),
        ({"resources": [{"uri": "file:///bad", "name": 5}]}, 'resource "file:///bad"'),
        ({"resources": [{"uri": "file:///bad", "name": "a\0"}]}, 'resource "file:///bad"'),
        ({"resources": [{"uri": "file:///bad", "name": "n", "size": {"\0": 1}}]}, '"file:///bad"'),
        ({"resourceTemplates": [{"uriTemplate": "bad:{x}", "name": []}]}, 'resource "bad:{x}"'),
        ({"resourceTemplates": [{"uriTemplate": "bad:{x}", "_meta": {"\0": 1}}]}, '"bad:{x}"'),
        ({"resources": [{"uri": 5, "name": "bad"}]}, 'resource "bad"'),
        ({"prompts": [{"name": "bad", "arguments": [{"\0": "x"}]}]}, 'prompt "bad"'),
        ({"prompts": [{"name": "bad", "content": {"a": {"\0": "x"}}}]}, 'prompt "bad"'),
    ],
)
async def test_what_is_refused_names_the_capability(
    client: httpx.AsyncClient, capabilities: Json, label: str
) -> None:
    path = await register(client)
    before = await refresh(client, path, tools=[ADD])
    response = await client.post(f"{path}/refresh", json=capabilities)
    assert response.status_code == 422
    assert label in response.json()["detail"]
    assert await list_capabilities(client, "tools") == before["tools"]


# Texts with characters that cannot be stored.


@pytest.mark.parametrize("bad", ["\0", "\ud800", "a\udc00b"])
async def test_characters_that_cannot_be_stored_are_replaced_in_texts(
    client: httpx.AsyncClient, bad: str
) -> None:
    path = await register(client)
    tool = {"name": "t", "description": bad, "inputSchema": {"title": bad}, "title": bad}
    body = _escaped({"tools": [tool]})
    headers = {"Content-Type": "application/json"}
    response = await client.post(f"{path}/refresh", content=body, headers=headers)
    assert response.status_code == 200, response.text
    good = bad.replace(bad.strip("ab"), "\ufffd")
    [stored] = response.json()["tools"]
    assert (stored["description"], stored["title"]) == (good, good)
    assert stored["input_schema"] == {"title": good}
    warnings = response.json()["warnings"]
    assert {warning["code"] for warning in warnings} == {"replaced_characters"}
    assert {warning["field"] for warning in warnings} == {
        "tools.0.description",
        "tools.0.inputSchema.title",
        "tools.0.title",
    }


@pytest.mark.parametrize("bad", ["\0", "\ud800", "a\udc00b"])
async def test_characters_that_cannot_be_stored_are_replaced_in_results_of_tools(
    client: httpx.AsyncClient, bad: str
) -> None:
    [tool] = (await refresh(client, await register(client), tools=[ADD]))["tools"]
    execution = {"input": {"a": [bad]}, "output": {"b": {"c": bad}}, "error": bad}
    url = f"{MCP}/tools/{tool['id']}"
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k"}
    good = bad.replace(bad.strip("ab"), "\ufffd")
    for _ in range(2):
        response = await client.post(f"{url}/execute", content=_escaped(execution), headers=headers)
        recorded = response.json()
        assert response.status_code == 200, response.text
        assert recorded["input"] == {"a": [good]}
        assert recorded["output"] == {"b": {"c": good}}
        assert recorded["error"] == good
        warnings = recorded.pop("warnings")
        assert [warning["field"] for warning in warnings] == ["error", "output.b.c", "input.a.0"]
    assert (await client.get(f"{url}/history")).json() == [recorded]
    keys = _escaped({"input": {bad: 1}})
    response = await client.post(f"{url}/execute", content=keys, headers=headers)
    assert response.status_code == 422


@pytest.mark.parametrize("kind", ["resources", "prompts"])
async def test_characters_that_cannot_be_stored_are_replaced_in_contents(
    client: httpx.AsyncClient, kind: str
) -> None:
    offered = KINDS[kind]
    [capability] = (await refresh(client, await register(client), **{kind: [offered]}))[kind]
    url = f"{MCP}/{kind}/{capability['id']}/content"
    headers = {"Content-Type": "application/json"}
    body = _escaped({"content": "a\0b"})
    stored = (await client.put(url, content=body, headers=headers)).json()
    assert [warning["field"] for warning in stored.pop("warnings")] == ["content"]
    assert stored["content"] == "a\ufffdb"
    assert (await client.get(url)).json() == stored | {"warnings": []}


def _escaped(value: Any) -> str:
    """Write JSON with escapes: only they can express a lone surrogate, which orjson refuses."""
    return json.dumps(value)


# Definitions that were pinned before all members were kept: version 1.


async def as_version_1(owner: AsyncDatabaseManager, project_id: ProjectId) -> None:
    """Make the stored definitions those of a server that kept no other members."""
    await owner.execute(
        f"UPDATE {{{{tables.{owner.schema}_mcp.capabilities}}}} SET members = NULL,"  # noqa: S608, a constant
        " digest = digest_v1, acknowledged_digest = digest_v1, acknowledged_version = 1,"
        " digest_v1 = NULL WHERE project_id = $1",
        project_id,
    )


async def test_definitions_of_version_1_stay_verifiable_and_pinned(
    client: httpx.AsyncClient, owner: AsyncDatabaseManager, project_id: ProjectId, ring: Ring
) -> None:
    path = await register(client)
    await refresh(client, path, tools=[TOOL], prompts=[PROMPT])
    await as_version_1(owner, project_id)
    [old] = await list_capabilities(client, "tools")
    digest = definition_digest(OfferedTool.model_validate(TOOL), version=1).hex()
    assert (old["definition_sha256"], old["definition_version"]) == (digest, 1)
    assert "annotations" not in old
    # A client may still acknowledge it.
    tool = await ring.mcp.capabilities.get(project_id, "tool", old["id"])
    url = f"{MCP}/tools/{tool.id}/acknowledge"
    response = await client.post(url, json={"definition_sha256": digest})
    assert response.json() == old
    # The next refresh pins the members that were not known, and reports nothing.
    result = await refresh(client, path, tools=[TOOL], prompts=[PROMPT])
    [new] = result["tools"]
    assert result["changed"] == {"tools": [], "resources": [], "prompts": []}
    assert (new["definition_version"], new["definition_changed_at"]) == (2, None)
    assert new["definition_sha256"] != digest
    assert new["annotations"] == TOOL["annotations"]
    # From then on a change of them is a change.
    result = await refresh(client, path, tools=[TOOL | {"annotations": {}}])
    assert result["changed"]["tools"] == ["send"]
    assert result["tools"][0]["definition_changed_at"]


async def test_a_change_since_version_1_needs_review(
    client: httpx.AsyncClient, owner: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    path = await register(client)
    await refresh(client, path, tools=[TOOL])
    await as_version_1(owner, project_id)
    other = TOOL | {"description": "Sends to all"}
    result = await refresh(client, path, tools=[other])
    assert result["changed"]["tools"] == ["send"]
    changed_at = result["tools"][0]["definition_changed_at"]
    assert changed_at
    # It remains so, and the pinned definition is still known by its digest of version 1.
    again = await refresh(client, path, tools=[other])
    assert again["tools"][0]["definition_changed_at"] == changed_at
    assert again["changed"]["tools"] == []
    [back] = (await refresh(client, path, tools=[TOOL]))["tools"]
    assert (back["definition_changed_at"], back["definition_version"]) == (None, 2)
    [more] = (await refresh(client, path, tools=[TOOL | {"title": "Another"}]))["tools"]
    assert more["definition_changed_at"]


async def test_a_removed_tool_of_version_1_comes_back_unchanged(
    client: httpx.AsyncClient, owner: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    path = await register(client)
    await refresh(client, path, tools=[TOOL])
    await refresh(client, path)
    await as_version_1(owner, project_id)
    new = TOOL | {"server_id": path.rpartition("/")[2]}
    added = (await client.post(f"{MCP}/tools", json=new)).json()
    assert (added["definition_changed_at"], added["definition_version"]) == (None, 2)
    assert added["annotations"] == TOOL["annotations"]


@pytest.mark.parametrize(
    ("offered", "version_1"),
    [
        (OfferedTool(name="t", title="T"), OfferedTool(name="t")),
        (OfferedResource(uri="r", size=1), OfferedResource(uri="r")),
        (OfferedPrompt(name="p", icons=[]), OfferedPrompt(name="p")),
    ],
)
def test_digest_of_version_1_covers_no_other_members(
    offered: OfferedTool, version_1: OfferedTool
) -> None:
    assert definition_digest(offered, version=1) == definition_digest(version_1)
    assert definition_digest(offered) != definition_digest(version_1)


# Numbers that a 64-bit float rounds are different definitions.

DIFFERENT_NUMBERS = [
    ("9007199254740992", "9007199254740993"),
    ("-9007199254740992", "-9007199254740993"),
    ("1180591620717411303424", "1180591620717411303425"),
    (f"{10**40}", f"{10**40 + 1}"),
    (f"{10**300}", f"{10**300 + 1}"),
    ("0.1", "0.1000000000000000055511151231257827"),
    ("1e-400", "2e-400"),
    ("1e-400", "0"),
    ("[9007199254740992, 9007199254740993]", "[9007199254740993, 9007199254740992]"),
    ("9007199254740993", '"9007199254740993"'),
]


@pytest.mark.parametrize("place", ["inputSchema", "annotations"])
@pytest.mark.parametrize(("one", "other"), DIFFERENT_NUMBERS)
async def test_numbers_that_differ_are_a_changed_definition(
    client: httpx.AsyncClient, place: str, one: str, other: str
) -> None:
    path = await register(client)

    async def send(number: str) -> Json:
        body = f'{{"tools": [{{"name": "t", "{place}": {{"maximum": {number}}}}}]}}'
        headers = {"Content-Type": "application/json"}
        response = await client.post(f"{path}/refresh", content=body, headers=headers)
        assert response.status_code == 200, response.text
        result: Json = response.json()
        return result

    await send(one)
    assert (await send(one))["changed"]["tools"] == []
    assert (await send(other))["changed"]["tools"] == ["t"]
    assert (await send(one))["tools"][0]["definition_changed_at"] is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (9007199254740993, Decimal("9007199254740993.0")),
        (2**70, Decimal(2**70).scaleb(0)),
        (10**22, Decimal("1e22")),
        (10**22 + 1, Decimal("10000000000000000000001.00")),
        (1, Decimal("1.0")),
        (0, Decimal("-0.0")),
    ],
)
def test_spellings_of_a_number_are_one_definition(one: int, other: Decimal) -> None:
    digests = {definition_digest(OfferedTool(name="t", annotations={"n": n})) for n in (one, other)}
    assert len(digests) == 1


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, 2**53 - 1, 2**53, 1.5, 1e300, 1e-7, True, False, None, "\U0001f600\u20ac"),
        {"\ue000": 1, "\U0001f600": 2, "a": [{}, [], {"b": None}], "": "\x7f\n"},
        [Decimal("0.1"), Decimal("1e21"), 10**22],
    ],
)
def test_other_definitions_have_the_digest_of_canonical_json(value: Any) -> None:
    tool = OfferedTool(name="t", inputSchema={"value": value})
    assert definition_digest(tool) == definition_digest(tool, version=1)
