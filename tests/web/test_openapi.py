"""The description of the API: complete, and of what is really there."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from pydantic import SecretStr

from llmring_server import Ring, Server
from llmring_server.access.keys import KeyOptions
from llmring_server.core.identity import LIBRARY, PROJECT_SCOPES
from llmring_server.routes import API, META
from llmring_server.web.openapi import openapi_document
from tests.conftest import CALL
from tests.support.isolation import mcp_of
from tests.support.signing import SEED

HERE = Path(__file__).parent
SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"


def document(auth: str = "keys") -> dict[str, Any]:
    described: dict[str, Any] = orjson.loads(openapi_document(API + META, auth, ""))
    return described


async def test_openapi_is_for_anyone_and_tells_where_it_is(client: httpx.AsyncClient) -> None:
    answer = await client.get("/openapi.json", headers={"X-API-Key": ""})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    [server] = answer.json()["servers"]
    assert server["url"] == (client.base_url.path.rstrip("/") or "/")
    assert answer.json() | {"servers": []} == document() | {"servers": []}


async def test_openapi_describes_what_is_read(client: httpx.AsyncClient) -> None:
    described = document()["components"]["schemas"]["NewCall"]
    assert described["required"] == ["provider", "model", "input_tokens", "output_tokens"]
    cost, _null = described["properties"]["cost"]["anyOf"]
    assert cost == {"type": "number", "minimum": 0, "exclusiveMaximum": 10**9}
    for amount, status in ((0, 200), (10**9, 422), (999_999_999.99, 200), ("1", 422)):
        answer = await client.post("/api/v1/log", json=CALL | {"cost": amount})
        assert answer.status_code == status


def test_money_is_a_number_but_in_statistics() -> None:
    schemas = document()["components"]["schemas"]
    for name, kind in (
        ("LogResponse", "number"), ("Call", "number"), ("CostLine", "number"), ("Totals", "string"),
        ("Bucket", "string"), ("OriginTotals", "number"),
    ):  # fmt: skip
        told = schemas[name]["properties"]
        assert told.get("cost", told.get("amount"))["type"] == kind


@pytest.mark.parametrize(
    ("auth", "ways"),
    [
        ("keys", [{"X-API-Key"}, {"Bearer"}]),
        ("open", [{"X-API-Key"}, {"Bearer"}]),
        ("proxy", [{"X-User-ID", "X-Project-ID", "X-Proxy-Signature"}]),
        ("parent", []),
    ],
)
def test_each_mode_says_how_to_say_who_calls(auth: str, ways: list[set[str]]) -> None:
    described = document(auth)
    assert [{*each} for each in described["paths"]["/api/v1/stats"]["get"]["security"]] == ways
    schemes = described["components"]["securitySchemes"]
    assert schemes.keys() == {name for way in ways for name in way}


async def test_a_path_names_all_its_methods(client: httpx.AsyncClient) -> None:
    for path, methods in (
        ("/api/v1/keys", "GET, HEAD, POST"), ("/api/v1/keys/x", "DELETE, GET, HEAD"),
        ("/api/v1/log", "POST"), ("/", "GET, HEAD"), ("/api/v1/conversations/log", "POST"),
    ):  # fmt: skip
        answer = await client.put(path)
        assert (answer.status_code, answer.headers["Allow"]) == (405, methods)


def test_a_body_that_may_be_absent_is_described_so() -> None:
    paths = document()["paths"]
    required = [
        paths[f"/api/v1/aliases/{name}"]["post"]["requestBody"]["required"]
        for name in ("bind", "bulk_upsert")
    ]
    assert required == [True, False]
    assert "/api/v1/aliases/{alias}" in paths


def configured(config: Path, given: dict[str, str]) -> Path:
    """Write a configuration that names what is there: dictionaries know no environment."""
    text = (HERE / config.name).read_text()
    for name, value in given.items():
        if name != "LLMRING_TEST_KEY":
            text = text.replace(f"${{{name}}}", value)
    config.write_text(text)
    return config


@pytest.mark.slow
async def test_schemathesis_finds_nothing(alone: Ring, tmp_path: Path) -> None:
    key = await alone.keys.issue("tests", KeyOptions(scopes=PROJECT_SCOPES), actor=LIBRARY)
    conversation = str((await alone.conversations.create(key.project_id)).id)
    changes: dict[str, Any] = {"auth": "keys", "failed_auth_limit": 0, "acquire_timeout": 30}
    changes["receipts_private_key_b64"] = SecretStr(SEED)
    changes["sealing_keys"] = (SecretStr("a" * 64),)
    given = {"LLMRING_TEST_KEY": key.secret, "LLMRING_TEST_CONVERSATION": conversation}
    for kind, id in (await mcp_of(alone, key.project_id)).items():
        given[f"LLMRING_TEST_{kind.upper()}"] = str(id)
    config = configured(tmp_path / "schemathesis.toml", given)
    environment = os.environ | given | {"PYTHONPATH": str(HERE.parents[1])}
    async with (
        Ring.open(alone.settings.model_copy(update=changes)) as served,
        Server(served, port=0) as server,
    ):
        process = await asyncio.create_subprocess_exec(
            SCHEMATHESIS, f"--config-file={config}", "run",
            f"{server.url}/openapi.json", "--checks=all", "--no-color",
            cwd=tmp_path, env=environment, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    # It was let in to the end.
    assert await Ring(alone.db).keys.caller(key.secret)
