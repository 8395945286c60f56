"""Registry refresh: accepted, rejected and quarantined files; the last accepted ones are kept."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from llmring_server import Ring, Settings
from llmring_server.core.identity import LIBRARY
from llmring_server.errors import NotFound
from llmring_server.registry import client as registry_client
from tests.support.fake_registry import BAD, PROVIDERS, SUSPICIOUS, FakeRegistry, document, swept

TIMEOUT_SECONDS = 20

# Registries that send no file, and what the outcome says.
NO_FILE = {"hang": "in time", "drip": "in time", "endless": "too large", "down": "no connection"}


@pytest.fixture
def settings(settings: Settings, fake: FakeRegistry) -> Settings:
    return settings.model_copy(update={"registry_url": fake.url})


@pytest.fixture
async def ring(settings: Settings) -> AsyncIterator[Ring]:
    async with Ring.open(settings) as ring:
        yield ring


async def test_a_file_is_stored_byte_for_byte(ring: Ring, fake: FakeRegistry) -> None:
    assert (await ring.registry.snapshot()).files == {}
    await swept(ring)
    files = (await ring.registry.snapshot()).files
    assert fake.asked == {f"/{provider}/models.json": 1 for provider in PROVIDERS}
    for provider, file in files.items():
        assert file.content == fake.content(provider)
        assert (file.version, file.valid_from.replace(microsecond=0)) == (
            7, datetime(2026, 8, 17, 12, tzinfo=UTC)
        )  # fmt: skip
    model = files["openai"].models["openai:model-0"]
    assert model["dollars_per_million_tokens_cache_read"] == Decimal("0.25")
    assert model["max_input_tokens"] is None


@pytest.mark.parametrize("mode", [*BAD, *NO_FILE])
async def test_a_bad_response_changes_nothing_and_is_reported(
    ring: Ring, fake: FakeRegistry, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ring.registry.refresh()
    before = (await ring.registry.cached_snapshot()).files
    fake.mode = mode
    if mode in {"hang", "drip"}:
        monkeypatch.setattr(registry_client, "TOTAL_TIMEOUT", 0.3)
    if mode == "down":
        await fake.stop()
    async with asyncio.timeout(TIMEOUT_SECONDS):
        outcomes = await ring.registry.refresh()
    reason = BAD[mode][1] if mode in BAD else NO_FILE[mode]
    for outcome in outcomes:
        assert outcome.text.startswith("failed: ")
        assert reason in outcome.text
        assert fake.url not in outcome.text
    reported = {status.provider: status.outcome for status in await ring.registry.status()}
    assert reported == {outcome.provider: outcome.text for outcome in outcomes}
    assert (await ring.registry.cached_snapshot()).files == before
    assert "/elsewhere" not in fake.asked


async def test_one_bad_file_does_not_affect_other_providers(ring: Ring, fake: FakeRegistry) -> None:
    fake.files["openai"]["version"] = -1
    succeeded = {outcome.provider: outcome.succeeded for outcome in await ring.registry.refresh()}
    assert succeeded == {"openai": False, "anthropic": True, "google": True}
    assert (await ring.registry.cached_snapshot()).files.keys() == {"anthropic", "google"}


@pytest.mark.parametrize("mode", SUSPICIOUS)
async def test_a_suspicious_file_is_quarantined_until_it_is_accepted(
    ring: Ring, fake: FakeRegistry, mode: str
) -> None:
    await ring.registry.refresh()
    before = (await ring.registry.cached_snapshot()).files
    fake.mode = mode
    for _ in range(2):
        [*outcomes] = await ring.registry.refresh()
        assert all(SUSPICIOUS[mode][1] in outcome.text for outcome in outcomes)
    assert (await ring.registry.cached_snapshot()).files == before
    quarantined = {file.provider: file for file, _ in await ring.registry.quarantined()}
    assert quarantined.keys() == set(PROVIDERS)
    with pytest.raises(NotFound):
        await ring.registry.edition(quarantined["openai"].id)
    id = await ring.registry.accept(quarantined["openai"].id, actor=LIBRARY)
    assert (await ring.registry.edition(id)).file_of("openai").content == quarantined[
        "openai"
    ].content
    with pytest.raises(NotFound, match="quarantined"):
        await ring.registry.accept(quarantined["openai"].id, actor=LIBRARY)
    fake.mode = "good"
    await ring.registry.refresh()
    assert [each.file.provider for each in await ring.registry.quarantined()] == (
        ["openai"] if "gone" not in mode else []
    )


async def test_a_first_file_is_compared_with_the_built_in_price_book(
    ring: Ring, fake: FakeRegistry
) -> None:
    prices = {"dollars_per_million_tokens_input": 2500.0}
    fake.files["openai"]["models"] = {"openai:gpt-4o": prices}
    outcomes = {outcome.provider: outcome for outcome in await ring.registry.refresh()}
    assert "openai:gpt-4o" in outcomes["openai"].text
    assert (await ring.registry.current()).file_of("openai").id == 0


async def test_a_file_is_valid_from_its_update_if_that_is_plausible(
    ring: Ring, fake: FakeRegistry
) -> None:
    for version, said in enumerate(("2026-08-18T10:00", "2026-08-17", "2999-01-01", None, "x"), 1):
        fake.files["openai"] = document("openai", version) | {"updated_at": said}
        await ring.registry.refresh()
    history = (await ring.registry.cached_snapshot()).history
    times = [file.valid_from for file in history if file.provider == "openai"]
    assert times == sorted(times, reverse=True)
    assert times[-1] == datetime(2026, 8, 18, 10, tzinfo=UTC)
    assert times[:-1] == [file.fetched_at for file in history if file.provider == "openai"][:-1]


async def test_a_return_to_an_older_file_is_a_new_edition(ring: Ring, fake: FakeRegistry) -> None:
    older = fake.files["openai"]
    for file in (older, document("openai", 8), older):
        fake.files["openai"] = file
        await ring.registry.refresh()
    versions = [
        file.version
        for file in (await ring.registry.cached_snapshot()).history
        if file.provider == "openai"
    ]
    assert versions == [7, 8, 7]
