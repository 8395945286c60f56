"""Mode parent: the application that has us inside says who calls."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings, build
from llmring_server.core.identity import Caller, ProjectId
from tests.conftest import CALL


@asynccontextmanager
async def inside(
    db: AsyncDatabaseManager, authenticate: Callable[[Any], Any]
) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=build(db, authenticate=authenticate))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_the_parent_s_word_is_taken_and_no_header_s(
    db: AsyncDatabaseManager, ring: Ring, project_id: ProjectId
) -> None:
    async def asked(_: Any) -> UUID:
        return project_id

    headers = {"X-API-Key": "other", "X-User-ID": str(uuid4()), "X-Project-ID": str(uuid4())}
    for authenticate in (asked, lambda _: project_id):
        async with inside(db, authenticate) as client:
            answer = await client.post("/api/v1/log", json=CALL, headers=headers)
            assert answer.status_code == 200
    assert len(await ring.usage.logs(project_id)) == 2


async def test_a_parent_can_say_what_a_caller_may_do(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    reader = Caller(project_id, frozenset({"read"}), "reader")
    async with inside(db, lambda _: reader) as client:
        assert (await client.get("/api/v1/logs")).status_code == 200
        assert (await client.post("/api/v1/log", json=CALL)).status_code == 403


async def test_who_is_only_named_is_no_admin(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    async with inside(db, lambda _: project_id) as client:
        assert (await client.get("/api/v1/keys")).status_code == 403


@pytest.mark.parametrize("nobody", [None, "", "someone", 0])
async def test_whom_the_parent_does_not_know_is_nobody(
    db: AsyncDatabaseManager, nobody: object
) -> None:
    async with inside(db, lambda _: nobody) as client:
        assert (await client.get("/api/v1/logs")).status_code == 401


def test_a_parent_that_is_to_say_who_calls_must_say_how(db: AsyncDatabaseManager) -> None:
    with pytest.raises(ValueError, match="belong together"):
        build(db, Settings(auth="parent"))
    with pytest.raises(ValueError, match="belong together"):
        build(db, Settings(auth="keys"), lambda _: None)
