"""Registry endpoints, with files that were fetched and with the built-in price book."""

import asyncio

import httpx
import pytest

from llmring_server import Settings
from tests.support.fake_registry import PROVIDERS, FakeRegistry

IMMUTABLE = "public, max-age=31536000, immutable"
FIELDS = {
    "provider", "model_name", "display_name", "description", "max_input_tokens",
    "max_output_tokens", "supports_vision", "supports_function_calling", "supports_json_mode",
    "supports_parallel_tool_calls", "tool_call_format", "dollars_per_million_tokens_input",
    "dollars_per_million_tokens_output", "is_active",
}  # fmt: skip


@pytest.fixture
def settings(settings: Settings, fake: FakeRegistry) -> Settings:
    return settings.model_copy(update={"registry_url": fake.url})


@pytest.fixture
async def refreshed(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of a server that has fetched its registry."""
    async with asyncio.timeout(20):
        while (await client.get("/registry")).json()["version"] != "3":  # noqa: ASYNC110, a server sets no event
            await asyncio.sleep(0.01)
    return client


async def test_get_registry_without_a_network_returns_the_built_in_price_book(
    client: httpx.AsyncClient, fake: FakeRegistry
) -> None:
    fake.mode = "error"
    answer = await client.get("/registry/", headers={"X-API-Key": ""})
    listing = answer.json()
    assert (listing["version"], answer.headers["Cache-Control"]) == ("0", "public, max-age=3600")
    assert listing["generated_at"].endswith("Z")
    gpt_4o = listing["models"]["openai:gpt-4o"]
    assert gpt_4o["dollars_per_million_tokens_input"] == 2.5
    assert all(model.keys() >= FIELDS for model in listing["models"].values())
    assert {model["provider"] for model in listing["models"].values()} == set(PROVIDERS)
    assert listing["providers"]["openai"] == {
        "name": "OpenAI", "base_url": "https://api.openai.com/v1", "models_endpoint": "/models",
    }  # fmt: skip
    assert {*PROVIDERS, "ollama"} == listing["providers"].keys()


async def test_get_registry_keeps_every_field_and_number(
    refreshed: httpx.AsyncClient, fake: FakeRegistry
) -> None:
    listing = (await refreshed.get("/registry")).json()
    assert len(listing["models"]) == 12
    model = listing["models"]["google:model-0"]
    given = fake.files["google"]["models"]["google:model-0"]
    assert model.items() >= (given | {"max_input_tokens": None}).items()
    assert (
        '"dollars_per_million_tokens_output":10.0' in (await refreshed.get("/registry.json")).text
    )


async def models(client: httpx.AsyncClient, **filters: str) -> list[str]:
    answer = await client.get("/registry", params=filters)
    return sorted(answer.json()["models"])


async def test_get_registry_filters(refreshed: httpx.AsyncClient) -> None:
    every = [f"{provider}:model-{n}" for provider in sorted(PROVIDERS) for n in range(4)]
    assert await models(refreshed, providers="", version="evil \U0001f608\r\nX: y") == every
    assert await models(refreshed, providers=" google,openai ") == every[4:]
    assert await models(refreshed, providers="nobody") == []
    assert await models(refreshed, capabilities="vision") == every[::4]
    assert await models(refreshed, capabilities="supports_thinking, is_active") == every[1::4]
    assert await models(refreshed, capabilities="vision,thinking") == []
    assert await models(refreshed, capabilities="vision", providers="openai") == ["openai:model-0"]


@pytest.mark.parametrize(
    "filters",
    [
        {"capabilities": "__class__"},
        {"capabilities": "display_name"},
        {"capabilities": "vision,fly"},
        {"providers": ",".join(map(str, range(200)))},
    ],
)
async def test_get_registry_rejects_unknown_capabilities_and_long_lists(
    refreshed: httpx.AsyncClient, filters: dict[str, str]
) -> None:
    answer = await refreshed.get("/registry", params=filters)
    assert answer.status_code == 422
    if "capabilities" in filters:
        assert "function_calling, is_active" in answer.json()["detail"]
        assert not any(word in answer.text for word in ("__class__", "display_name", "fly"))


@pytest.mark.parametrize(
    "path",
    [
        "/registry",
        "/registry.json?providers=openai",
        "/registry/manifest.json",
        "/registry/openai/models.json",
        "/registry/openai/v/7/models.json",
        "/registry/v/3/registry.json",
    ],
)
async def test_get_registry_and_its_files_have_strong_etags(
    refreshed: httpx.AsyncClient, path: str
) -> None:
    answer = await refreshed.get(path)
    etag, cache_control = answer.headers["ETag"], answer.headers["Cache-Control"]
    assert etag.startswith('"')
    assert "no-store" not in cache_control
    for given in (etag, f"W/{etag}", f'"a", {etag}', "*", ",".join(['"x"'] * 1000 + [etag])):
        same = await refreshed.get(path, headers={"If-None-Match": given})
        assert (same.status_code, same.content) == (304, b"")
        assert (same.headers["ETag"], same.headers["Cache-Control"]) == (etag, cache_control)
    for given in ('"3"', etag.strip('"'), '"*"', ""):
        assert (await refreshed.get(path, headers={"If-None-Match": given})).status_code == 200
    head = await refreshed.head(path)
    assert (head.status_code, head.headers["ETag"]) == (200, etag)


async def test_get_registry_has_an_etag_for_each_filter(refreshed: httpx.AsyncClient) -> None:
    paths = ("/registry", "/registry?providers=openai", "/registry?capabilities=vision")
    assert len({(await refreshed.get(path)).headers["ETag"] for path in paths}) == 3


async def test_get_registry_version_never_changes(refreshed: httpx.AsyncClient) -> None:
    answers = {n: await refreshed.get(f"/registry/v/{n}/registry.json") for n in (0, 1, 3)}
    assert [each.json()["version"] for each in answers.values()] == ["0", "1", "3"]
    assert answers[3].headers["Cache-Control"] == IMMUTABLE
    assert answers[3].json() == (await refreshed.get("/registry")).json()
    # These contain what the built-in price book says today.
    assert answers[0].headers["Cache-Control"] == answers[1].headers["Cache-Control"] != IMMUTABLE
    only = await refreshed.get("/registry/v/3/registry.json?capabilities=vision&providers=openai")
    assert [*only.json()["models"]] == ["openai:model-0"]


@pytest.mark.parametrize(
    "version",
    [
        "999999", "1234567890", "-1", "latest", "%2e%2e", "..%5c", "a%3Fx=1%23", "%0d%0aX",
        "1/2", "1%2F2", "%EF%BC%91", "v" * 65, "1%00", "+1", " 1",
    ],
)  # fmt: skip
async def test_get_registry_version_and_provider_version_that_do_not_exist_are_not_found(
    refreshed: httpx.AsyncClient, fake: FakeRegistry, version: str
) -> None:
    requests = fake.asked.copy()
    for path in (f"v/{version}/registry.json", f"openai/v/{version}/models.json"):
        answer = await refreshed.get(f"/registry/{path}")
        assert answer.status_code == 404
        assert answer.headers.get("Cache-Control", "no-store") == "no-store"
    assert fake.asked == requests


async def test_get_manifest_lists_the_current_files(refreshed: httpx.AsyncClient) -> None:
    manifest = (await refreshed.get("/registry/manifest.json")).json()
    assert manifest["version"] == "3"
    openai = manifest["providers"]["openai"]
    assert (openai["file"], openai["model_count"], openai["version"]) == (
        "openai/models.json", 4, 7
    )  # fmt: skip


async def test_get_provider_models_returns_the_file_itself(
    refreshed: httpx.AsyncClient, fake: FakeRegistry
) -> None:
    answer = await refreshed.get("/registry/anthropic/models.json")
    assert answer.content == fake.content("anthropic")
    for provider in ("nobody", "..", "v"):
        assert (await refreshed.get(f"/registry/{provider}/models.json")).status_code == 404


async def test_get_provider_version_returns_the_first_file_of_a_version(
    refreshed: httpx.AsyncClient,
) -> None:
    answer = await refreshed.get("/registry/openai/v/7/models.json")
    assert answer.headers["Cache-Control"] == IMMUTABLE
    assert [model["model_name"] for model in answer.json()["models"]] == [
        f"model-{n}" for n in range(4)
    ]
    assert (await refreshed.get("/registry/nobody/v/7/models.json")).status_code == 404
