"""`llmring-server registry`, as an operator uses it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring
from tests.cli.test_db import run
from tests.support.fake_registry import FakeRegistry, dearer, document

Run = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
def registry(db: AsyncDatabaseManager, url: str, fake: FakeRegistry) -> Run:
    """Run a command; return its status and what it printed."""
    prod = {"LLMRING_DATABASE_URL": url, "LLMRING_DATABASE_SCHEMA": db.schema or ""}
    prod |= {"LLMRING_REGISTRY_URL": fake.url}

    async def registry(*arguments: str, **settings: str) -> tuple[int, str]:
        command = ("registry", *arguments, "--env", "prod")
        ran = await asyncio.to_thread(run, *command, **prod | settings)
        assert "Traceback" not in ran.stderr
        return ran.returncode, ran.stdout + ran.stderr

    return registry


async def test_an_operator_follows_a_registry(
    registry: Run, fake: FakeRegistry, ring: Ring
) -> None:
    started = datetime.now(UTC)
    status, told = await registry("status")
    assert (status, told.count("built-in"), told.count("never")) == (0, 3, 6)
    assert not fake.asked  # looking is not asking
    assert (await registry("refresh"))[1].count("new: 4 models") == 3
    assert "no differences" in (await registry("diff", "3", "3"))[1]
    fake.files["openai"] = document("openai", 8)
    dearer(fake.files["openai"])
    status, told = await registry("refresh")
    assert (status, "quarantined" in told, told.count("unchanged")) == (1, True, 2)
    assert "Quarantined" in (await registry("status"))[1]
    for arguments in ([], ["3", "4"], ["3"]):
        _, told = await registry("diff", *arguments)
        assert "From 3 to 4" in told
        assert [*map(told.count, ("10.0", "10000.0"))] == [4, 4]
    assert "as edition 5" in (await registry("accept", "4"))[1]
    [event] = [e for e in await ring.audit.events(started) if e.action == "registry.accept"]
    assert event.actor.startswith("operator ")
    assert "From 3 to 5" in (await registry("diff"))[1]
    status, told = await registry("status")
    assert ("Edition 5" in told, "accepted by an operator" in told) == (True, True)
    assert "Quarantined" not in told


async def test_what_cannot_be_done_is_said_in_a_sentence(registry: Run) -> None:
    for arguments, said in (
        (["accept", "99"], "No file is quarantined as 99"),
        (["diff", "98", "99"], "The registry has no edition 98"),
    ):
        status, told = await registry(*arguments)
        assert (status, said in told) == (1, True)
    status, told = await registry("refresh", LLMRING_REGISTRY_URL="none")
    assert (status, "There is no registry to fetch" in told) == (1, True)
