"""Secrets: no key and no proxy secret is in the database, a log or a response."""

import logging
from uuid import uuid4

import httpx
import orjson
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings, build
from llmring_server.access.keys import KeyOptions
from llmring_server.core.identity import LIBRARY
from tests.access.test_trusted_proxy import SECRETS, proxy_headers
from tests.conftest import CALL

INVALID = (b"{", b'{"model": 1}', b'{"a": 1, "a": 2}')


async def dumped(db: AsyncDatabaseManager) -> str:
    """Return every row of every table as text."""
    tables = await db.fetch_all(
        "SELECT format('SELECT coalesce(string_agg(row::text, chr(10)), '''') FROM %I.%I AS row',"
        " table_schema, table_name) AS query"
        " FROM information_schema.tables"
        " WHERE table_schema IN ($1::text, $1::text || '_mcp') AND table_type = 'BASE TABLE'",
        db.schema,
    )
    return "\n".join([await db.fetch_value(table["query"]) for table in tables])


async def test_a_key_is_only_in_the_response_that_issues_it(
    db: AsyncDatabaseManager,
    owner: AsyncDatabaseManager,
    ring: Ring,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    scopes = ["admin", "log:write", "read"]
    issued = await ring.keys.issue(f"project {uuid4()}", KeyOptions(scopes=scopes), actor=LIBRARY)
    gets = ["/", "/api/v1/keys", f"/api/v1/keys/{issued.id}", "/api/v1/logs", "/api/v1/stats?tz=x"]
    transport = httpx.ASGITransport(app=build(db))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        bodies = (orjson.dumps(CALL), *INVALID)
        responses = []
        for name in ("X-API-Key", "X-Project-Key"):
            headers = {name: issued.secret, "Content-Type": "application/json"}
            responses += [
                await client.post("/api/v1/log", content=body, headers=headers) for body in bodies
            ]
            responses += [await client.get(path, headers=headers) for path in gets]
        both = {"X-API-Key": issued.secret, "X-Project-Key": f"{issued.secret} x"}
        responses.append(await client.get("/api/v1/logs", headers=both))
    texts = [response.text + str(response.headers) for response in responses]
    assert issued.secret[16:] not in await dumped(owner) + caplog.text + "".join(texts)


async def test_proxy_secret_is_not_stored_logged_or_returned(
    db: AsyncDatabaseManager, owner: AsyncDatabaseManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = Settings.model_validate({"auth": "proxy", "proxy_secrets": SECRETS})
    transport = httpx.ASGITransport(app=build(db, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        responses = [
            await client.post("/api/v1/log", json=CALL, headers=headers)
            for headers in (proxy_headers(), proxy_headers(secret="c" * 32), {})
        ]
    texts = "".join(response.text + str(response.headers) for response in responses)
    assert SECRETS[0] not in await dumped(owner) + caplog.text + texts + repr(settings)
