"""`llmring-server registry`, as an operator uses it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring
from tests.cli.test_db import run
from tests.support.fake_registry import FakeRegistry, document, raise_prices

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


async def test_registry_is_refreshed_compared_and_accepted(
    registry: Run, fake: FakeRegistry, ring: Ring
) -> None:
    started = datetime.now(UTC)
    status, output = await registry("status")
    assert (status, output.count("built-in"), output.count("never")) == (0, 3, 6)
    assert not fake.asked  # `status` fetches nothing
    assert (await registry("refresh"))[1].count("new: 4 models") == 3
    assert "no differences" in (await registry("diff", "3", "3"))[1]
    fake.files["openai"] = document("openai", 8)
    raise_prices(fake.files["openai"])
    status, output = await registry("refresh")
    assert (status, "quarantined" in output, output.count("unchanged")) == (1, True, 2)
    assert "Quarantined" in (await registry("status"))[1]
    for arguments in ([], ["3", "4"], ["3"]):
        _, output = await registry("diff", *arguments)
        assert "From 3 to 4" in output
        assert [*map(output.count, ("10.0", "10000.0"))] == [4, 4]
    assert "as edition 5" in (await registry("accept", "4"))[1]
    [event] = [e for e in await ring.audit.events(started) if e.action == "registry.accept"]
    assert event.actor.startswith("operator ")
    assert "From 3 to 5" in (await registry("diff"))[1]
    status, output = await registry("status")
    assert ("Edition 5" in output, "accepted by an operator" in output) == (True, True)
    assert "Quarantined" not in output


async def test_errors_are_reported_without_a_traceback(registry: Run) -> None:
    for arguments, expected in (
        (["accept", "99"], "No file is quarantined as 99"),
        (["diff", "98", "99"], "The registry has no edition 98"),
    ):
        status, output = await registry(*arguments)
        assert (status, expected in output) == (1, True)
    status, output = await registry("refresh", LLMRING_REGISTRY_URL="none")
    assert (status, "There is no registry to fetch" in output) == (1, True)
