"""Names of models with a provider, a path or a region before them."""

from decimal import Decimal
from typing import Any

import httpx
import pytest

from llmring_server import Ring
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.pricing.model_names import names_of
from tests.pricing.test_pricing import call, override
from tests.pricing.test_token_semantics import explained, log

# What a million input tokens cost.
PREFIXED = [
    ("openai", "gpt-4o", "2.5"),
    ("openai", "openai:gpt-4o", "2.5"),
    ("openai", "openai/gpt-4o", "2.5"),
    ("OpenAI", " openai:gpt-4o", "2.5"),
    ("azure", "azure/gpt-4o", "2.5"),
    ("azure.ai.openai", "azure/gpt-4o", "2.5"),
    ("azure_ai", "azure_ai/gpt-4o", "2.5"),
    ("openai", "azure/gpt-4o", "2.5"),
    ("litellm", "azure/gpt-4o", "2.5"),
    ("anthropic", "anthropic/claude-haiku-4-5", "1"),
    ("anthropic", "anthropic:claude-haiku-4-5", "1"),
    ("litellm_proxy", "anthropic/claude-haiku-4-5", "1"),
    ("gemini", "gemini/gemini-2.5-flash", "0.3"),
    ("google", "models/gemini-2.5-flash", "0.3"),
    ("gcp.gemini", "gemini/models/gemini-2.5-flash", "0.3"),
    ("vertex_ai", "publishers/google/models/gemini-2.5-flash", "0.3"),
    (
        "gcp.vertex_ai",
        "projects/p-1/locations/europe-west4/publishers/google/models/gemini-2.5-flash",
        "0.3",
    ),
    ("vertex_ai", "vertex_ai/gemini-2.5-flash", "0.3"),
    ("vertex_ai", "vertex_ai/claude-haiku-4-5@20251001", "1"),
    ("openrouter", "openrouter/deepseek/deepseek-r1:free", "0"),
    ("openrouter", "deepseek/deepseek-r1:free", "0"),
    ("openrouter", "someone/new-model:free", "0"),
    ("OpenRouter", "openrouter/openai/gpt-4o", "2.5"),
    ("openrouter", "openai/gpt-4o", "2.5"),
    ("openai", "openrouter/openai/gpt-4o", "2.5"),
    ("bedrock", "bedrock/us.anthropic.claude-haiku-4-5-20251001-v1:0", "1.1"),
    ("bedrock", "eu.anthropic.claude-haiku-4-5-20251001-v1:0", "1.1"),
    ("bedrock", "apac.anthropic.claude-haiku-4-5-20251001-v1:0", "1.1"),
    ("bedrock", "global.anthropic.claude-haiku-4-5-20251001-v1:0", "1"),
    ("bedrock", "bedrock/converse/global.anthropic.claude-haiku-4-5-20251001-v1:0", "1"),
    ("bedrock", "bedrock/us-east-1/anthropic.claude-haiku-4-5-20251001-v1:0", "1.1"),
    (
        "aws.bedrock",
        "arn:aws:bedrock:us-east-1:1:inference-profile/global.anthropic.claude-haiku-4-5-20251001-v1:0",
        "1",
    ),
    ("x_ai", "xai/grok-3-mini", "0.3"),
    ("openai", "omni-moderation-latest", "0"),
    ("openai", "openai/omni-moderation-2024-09-26", "0"),
]


@pytest.mark.parametrize(("provider", "model", "usd"), PREFIXED)
async def test_prefixes_of_a_model_are_understood(
    client: httpx.AsyncClient, provider: str, model: str, usd: str
) -> None:
    logged = await log(client, provider=provider, model=model, input_tokens=10**5, output_tokens=0)
    assert (Decimal(str(logged["cost"])) * 10, logged["cost_source"]) == (Decimal(usd), "offline")


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        # The maker of a model does not say who serves it.
        ("openai", "meta-llama/Llama-3.3-70B-Instruct"),
        ("openai", "mistralai/Mistral-Large-2411"),
        ("vllm", "openai/gpt-4o"),
        ("acme", "azure/gpt-4o"),
        # Prices of a region, or of a commitment, are others.
        ("azure", "azure/eu/gpt-4o"),
        (
            "bedrock",
            "bedrock/us-east-1/1-month-commitment/anthropic.claude-haiku-4-5-20251001-v1:0",
        ),
        # Free only where it says so.
        ("openrouter", "openai/gpt-4o:nitro"),
        ("azure", "mai-ds-r1:free"),
        ("openrouter", "stealth/crouton-alpha"),
    ],
)
async def test_a_name_that_does_not_say_who_is_paid_is_unpriced(
    client: httpx.AsyncClient, provider: str, model: str
) -> None:
    logged = await log(client, provider=provider, model=model, input_tokens=10, output_tokens=1)
    assert logged["cost_source"] == "unpriced"


async def test_an_explanation_says_why_a_model_is_free(client: httpx.AsyncClient) -> None:
    logged = await log(
        client, provider="openrouter", model="x/y:free", input_tokens=10, output_tokens=1
    )
    found = await explained(client, logged["log_id"])
    assert "corrected on" in found["price"]["version"]
    assert "https://openrouter.ai/docs/" in found["price"]["version"]
    assert [line["amount"] for line in found["lines"]] == [0, 0]


async def test_a_search_of_a_free_model_is_not_free(client: httpx.AsyncClient) -> None:
    call: dict[str, Any] = {"input_tokens": 10, "output_tokens": 1, "web_searches": 1}
    logged = await log(client, provider="openrouter", model="x/y:free", **call)
    assert logged["cost_source"] == "unpriced"


@pytest.mark.parametrize(
    ("set_for", "reported"),
    [
        ("azure", "azure.ai.openai"),
        ("azure.ai.openai", "azure"),
        ("Azure_AI", "AZURE"),
        ("bedrock", "aws.bedrock"),
        ("aws", "bedrock_converse"),
        ("x-ai", "xAI"),
        ("gemini", "google"),
    ],
)
async def test_an_override_is_found_by_any_spelling_of_its_provider(
    ring: Ring, project_id: ProjectId, set_for: str, reported: str
) -> None:
    model = f"m-{set_for}-{reported}"
    await ring.pricing.override(override(model, 7, provider=set_for), actor=LIBRARY)
    logged = await ring.usage.log(project_id, call(model, provider=reported))
    assert (logged.cost, logged.cost_source) == (Decimal(7), "override")
    assert await ring.pricing.withdraw(reported, model, actor=LIBRARY) == 1


async def test_the_newer_of_two_overrides_of_one_provider_counts(
    ring: Ring, project_id: ProjectId
) -> None:
    for usd, provider in ((1, "azure_openai"), (2, "azure"), (3, "azure.ai.openai")):
        await ring.pricing.override(override("m-newer", usd, provider=provider), actor=LIBRARY)
    logged = await ring.usage.log(project_id, call("m-newer", provider="azure"))
    assert logged.cost == 3
    assert await ring.pricing.withdraw("azure", "m-newer", actor=LIBRARY) == 3


def test_the_name_as_reported_comes_first() -> None:
    assert names_of("openrouter", "openrouter/openai/gpt-4o") == [
        ("openrouter", "openrouter/openai/gpt-4o"),
        ("openrouter", "openai/gpt-4o"),
        ("openrouter", "gpt-4o"),
    ]
    assert names_of("bedrock", "us.acme.x-v1:0")[-1] == ("bedrock", "acme.x-v1:0")
    for odd in ("", ":", "/", "models/", "openai:", "openai/", "a:b:c", "ft::", "arn:"):
        assert names_of("openai", odd)[0] == ("openai", odd)
