"""The published client's own registry reader, against a server in place of its registry."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from llmring.registry import RegistryClient  # type: ignore[import-untyped]
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Server, Settings
from tests.support.fake_registry import FakeRegistry, document


@pytest.fixture
async def ring(db: AsyncDatabaseManager, fake: FakeRegistry) -> Ring:
    return Ring(db, Settings(registry_url=fake.url))


@pytest.fixture
async def server(ring: Ring) -> AsyncIterator[Server]:
    async with Server(ring, port=0) as server:
        yield server


def reader(server: Server, folder: Path) -> RegistryClient:
    return RegistryClient(registry_url=f"{server.url}/registry", cache_dir=folder)


async def test_client_reads_the_built_in_price_book(
    db: AsyncDatabaseManager, tmp_path: Path
) -> None:
    async with Server(Ring(db), port=0) as server:
        client = reader(server, tmp_path)
        for provider in ("openai", "anthropic", "google"):
            models = await client.fetch_current_models(provider)
            version = await client.get_current_version(provider)
            pinned = await client.fetch_version(provider, version)
            assert {model.model_name for model in pinned.models} == {
                each.model_name for each in models
            }
            assert len(models) > 20
            assert not (await client.check_drift(provider, version))["has_drift"]
        assert await client.validate_model("openai", "gpt-4o")


async def test_client_detects_drift_from_a_pinned_version(
    server: Server, ring: Ring, fake: FakeRegistry, tmp_path: Path
) -> None:
    await ring.registry.refresh()
    assert await reader(server, tmp_path).get_current_version("openai") == 7
    fake.files["openai"] = document("openai", 8, dollars_per_million_tokens_input=5.0)
    del fake.files["openai"]["models"]["openai:model-3"]
    await ring.registry.refresh()
    drift = await reader(server, tmp_path).check_drift("openai", 7)
    assert (drift["has_drift"], drift["versions_behind"]) == (True, 1)
    assert (drift["added_models"], drift["removed_models"]) == ([], ["model-3"])
    [change] = drift["price_changes"]
    assert (change["old_input_cost"], change["new_input_cost"]) == (2.5, 5.0)
