"""The registry as anyone may read it, from a registry or from the offline book."""

import asyncio

import httpx
import pytest

from llmring_server import Settings
from tests.support.fake_registry import PROVIDERS, FakeRegistry

FOREVER = "public, max-age=31536000, immutable"
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
async def fed(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of a server that has heard from its registry."""
    async with asyncio.timeout(20):
        while (await client.get("/registry")).json()["version"] != "3":  # noqa: ASYNC110, a server sets no event
            await asyncio.sleep(0.01)
    return client


async def test_listing_without_a_network_is_the_offline_book(
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


async def test_listing_keeps_every_field_and_number(
    fed: httpx.AsyncClient, fake: FakeRegistry
) -> None:
    listing = (await fed.get("/registry")).json()
    assert len(listing["models"]) == 12
    model = listing["models"]["google:model-0"]
    given = fake.files["google"]["models"]["google:model-0"]
    assert model.items() >= (given | {"max_input_tokens": None}).items()
    assert '"dollars_per_million_tokens_output":10.0' in (await fed.get("/registry.json")).text


async def models(client: httpx.AsyncClient, **filters: str) -> list[str]:
    answer = await client.get("/registry", params=filters)
    return sorted(answer.json()["models"])


async def test_listing_filters(fed: httpx.AsyncClient) -> None:
    every = [f"{provider}:model-{n}" for provider in sorted(PROVIDERS) for n in range(4)]
    assert await models(fed, providers="", version="evil \U0001f608\r\nX: y") == every
    assert await models(fed, providers=" google,openai ") == every[4:]
    assert await models(fed, providers="nobody") == []
    assert await models(fed, capabilities="vision") == every[::4]
    assert await models(fed, capabilities="supports_thinking, is_active") == every[1::4]
    assert await models(fed, capabilities="vision,thinking") == []
    assert await models(fed, capabilities="vision", providers="openai") == ["openai:model-0"]


@pytest.mark.parametrize(
    "filters",
    [
        {"capabilities": "__class__"},
        {"capabilities": "display_name"},
        {"capabilities": "vision,fly"},
        {"providers": ",".join(map(str, range(200)))},
    ],
)
async def test_listing_refuses_what_means_nothing(
    fed: httpx.AsyncClient, filters: dict[str, str]
) -> None:
    answer = await fed.get("/registry", params=filters)
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
async def test_listing_and_the_rest_have_strong_etags(fed: httpx.AsyncClient, path: str) -> None:
    answer = await fed.get(path)
    etag, keep = answer.headers["ETag"], answer.headers["Cache-Control"]
    assert etag.startswith('"')
    assert "no-store" not in keep
    for given in (etag, f"W/{etag}", f'"a", {etag}', "*", ",".join(['"x"'] * 1000 + [etag])):
        same = await fed.get(path, headers={"If-None-Match": given})
        assert (same.status_code, same.content) == (304, b"")
        assert (same.headers["ETag"], same.headers["Cache-Control"]) == (etag, keep)
    for given in ('"3"', etag.strip('"'), '"*"', ""):
        assert (await fed.get(path, headers={"If-None-Match": given})).status_code == 200
    head = await fed.head(path)
    assert (head.status_code, head.headers["ETag"]) == (200, etag)


async def test_listing_has_an_etag_for_each_filter(fed: httpx.AsyncClient) -> None:
    paths = ("/registry", "/registry?providers=openai", "/registry?capabilities=vision")
    assert len({(await fed.get(path)).headers["ETag"] for path in paths}) == 3


async def test_edition_never_changes(fed: httpx.AsyncClient) -> None:
    answers = {n: await fed.get(f"/registry/v/{n}/registry.json") for n in (0, 1, 3)}
    assert [each.json()["version"] for each in answers.values()] == ["0", "1", "3"]
    assert answers[3].headers["Cache-Control"] == FOREVER
    assert answers[3].json() == (await fed.get("/registry")).json()
    # These hold what the offline book of today says.
    assert answers[0].headers["Cache-Control"] == answers[1].headers["Cache-Control"] != FOREVER
    only = await fed.get("/registry/v/3/registry.json?capabilities=vision&providers=openai")
    assert [*only.json()["models"]] == ["openai:model-0"]


@pytest.mark.parametrize(
    "version",
    [
        "999999", "1234567890", "-1", "latest", "%2e%2e", "..%5c", "a%3Fx=1%23", "%0d%0aX",
        "1/2", "1%2F2", "%EF%BC%91", "v" * 65, "1%00", "+1", " 1",
    ],
)  # fmt: skip
async def test_edition_and_version_that_are_none_are_a_404(
    fed: httpx.AsyncClient, fake: FakeRegistry, version: str
) -> None:
    asked = fake.asked.copy()
    for path in (f"v/{version}/registry.json", f"openai/v/{version}/models.json"):
        answer = await fed.get(f"/registry/{path}")
        assert answer.status_code == 404
        assert answer.headers.get("Cache-Control", "no-store") == "no-store"
    assert fake.asked == asked


async def test_manifest_tells_what_there_is(fed: httpx.AsyncClient) -> None:
    manifest = (await fed.get("/registry/manifest.json")).json()
    assert manifest["version"] == "3"
    openai = manifest["providers"]["openai"]
    assert (openai["file"], openai["model_count"], openai["version"]) == (
        "openai/models.json", 4, 7
    )  # fmt: skip


async def test_models_are_the_file_itself(fed: httpx.AsyncClient, fake: FakeRegistry) -> None:
    answer = await fed.get("/registry/anthropic/models.json")
    assert answer.content == fake.content("anthropic")
    for stranger in ("nobody", "..", "v"):
        assert (await fed.get(f"/registry/{stranger}/models.json")).status_code == 404


async def test_version_is_what_it_first_was(fed: httpx.AsyncClient) -> None:
    answer = await fed.get("/registry/openai/v/7/models.json")
    assert answer.headers["Cache-Control"] == FOREVER
    assert [model["model_name"] for model in answer.json()["models"]] == [
        f"model-{n}" for n in range(4)
    ]
    assert (await fed.get("/registry/nobody/v/7/models.json")).status_code == 404
