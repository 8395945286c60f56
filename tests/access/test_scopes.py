"""Scopes: which there are, and what each mode of authentication grants."""

from typing import get_args
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import LIBRARY, Ring, Settings, build
from llmring_server.access.keys import KeyOptions
from llmring_server.core.identity import (
    DEFAULT_SCOPES,
    MODE_SCOPES,
    PROJECT_SCOPES,
    SCOPES,
    ApiScope,
    Caller,
    ProjectId,
)
from llmring_server.errors import Forbidden
from llmring_server.routes import API, META

ANONYMOUS = {"log:write", "read", "conversations", "mcp", "mcp:secrets"}


def test_each_list_of_scopes() -> None:
    assert set(get_args(ApiScope)) == {*ANONYMOUS, "templates:share", "admin", "operator"}
    assert set(SCOPES) == {*ANONYMOUS, "templates:share", "admin", "operator"}
    assert set(PROJECT_SCOPES) == {*ANONYMOUS, "templates:share", "admin"}
    assert set(DEFAULT_SCOPES) == {"log:write", "read", "conversations", "mcp"}


def test_the_scopes_of_each_mode() -> None:
    assert MODE_SCOPES.keys() == set(get_args(Settings.model_fields["auth"].annotation))
    assert {
        "keys": set(),
        "open": {*ANONYMOUS, "templates:share"},
        "proxy": ANONYMOUS,
        "parent": ANONYMOUS,
    } == MODE_SCOPES


def test_only_scopes_that_exist_are_required() -> None:
    for route in API + META:
        assert {*route.scopes} <= {*SCOPES}


async def test_only_an_operator_issues_a_key_for_operators(ring: Ring) -> None:
    project = f"project {uuid4()}"
    admin = await ring.keys.issue(project, KeyOptions(scopes=PROJECT_SCOPES), actor=LIBRARY)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=build(ring.db)),
        base_url="http://test",
        headers={"X-API-Key": admin.secret},
    ) as client:
        response = await client.post("/api/v1/keys", json={"scopes": ["operator"]})
        assert (response.status_code, "operator" in response.json()["detail"]) == (403, True)
        issued = await ring.keys.issue(project, KeyOptions(scopes=["operator"]), actor=LIBRARY)
        rotated = await client.post(f"/api/v1/keys/{issued.id}/rotate", json={})
        assert rotated.status_code == 403
    caller = await ring.keys.caller(issued.secret)
    assert caller
    caller.require("operator")


@pytest.mark.parametrize("mode", ["open", "parent"])
async def test_no_mode_grants_admin_or_operator(db: AsyncDatabaseManager, mode: str) -> None:
    granted = Caller(ProjectId(uuid4()), MODE_SCOPES[mode], "somebody")
    for scope in ("admin", "operator"):
        with pytest.raises(Forbidden, match=scope):
            granted.require(scope)
    authenticate = (lambda _: granted.project_id) if mode == "parent" else None
    app = build(db, Settings(auth=mode), authenticate)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app),
        base_url="http://test",
        headers={"X-API-Key": uuid4().hex},
    ) as client:
        assert (await client.get("/api/v1/keys")).status_code == 403
        assert (await client.get("/api/v1/logs")).status_code == 200
