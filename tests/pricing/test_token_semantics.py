"""What a provider's token counts include: cached tokens in the input, reasoning in the output."""

from decimal import Decimal
from typing import Any

import httpx
import pytest

CLAUDE_ON_BEDROCK = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
CLAUDE_ON_VERTEX = "claude-sonnet-4-5@20250929"
LUNA_ON_BEDROCK = "openai.gpt-5.6-luna"

BEDROCK = [
    "bedrock", "Bedrock", "aws", "AWS", "aws.bedrock", "aws_bedrock", "amazon-bedrock",
    "amazon_bedrock", "bedrock_converse",
]  # fmt: skip
CLOUDS = [
    "vertex_ai", "google-vertex", "gcp.vertex_ai", "vertex_ai_beta", "google_vertexai", "azure",
    "azure_ai", "azure.ai.inference", "gcp.gen_ai", "vertex_ai-anthropic_models",
]  # fmt: skip
# 5000 x 3.3 + 3000 x 0.33 + 1000 x 16.5 USD for a million tokens.
CLAUDE = [(provider, CLAUDE_ON_BEDROCK, (5000, 1000, 3000), "0.03399") for provider in BEDROCK]
# 5000 x 3 + 3000 x 0.3 + 1000 x 15.
CLAUDE += [(provider, CLAUDE_ON_VERTEX, (5000, 1000, 3000), "0.0309") for provider in CLOUDS]
# 2000 x 0.22 + 8000 x 0.022: OpenAI's models count cached tokens in the input, on Bedrock, too.
OPENAI = [(provider, LUNA_ON_BEDROCK, (10000, 0, 8000), "0.000616") for provider in BEDROCK]

CACHED = [
    *CLAUDE,
    *OPENAI,
    ("anthropic", "claude-sonnet-4-5", (100, 10, 50000), "0.01545"),
    ("anthropic.messages", "claude-sonnet-4-5", (5000, 1000, 3000), "0.0309"),
    *[
        (provider, "claude-sonnet-4-5", (5000, 1000, 3000), "0.0309")
        for provider in (
            "google-cloud",
            "claude-vertex",
            "anthropic-custom",
            "my-anthropic",
            "Anthropic (EU)",
            "anthropic/claude",
        )
    ],
    ("bedrock-eu", CLAUDE_ON_BEDROCK, (5000, 1000, 3000), "0.03399"),
    ("bedrock-eu", f"converse/{CLAUDE_ON_BEDROCK}", (5000, 1000, 3000), "0.03399"),
    # OpenRouter translates to the usage of OpenAI: 2000 x 3 + 3000 x 0.3 + 1000 x 15.
    ("openrouter", "anthropic/claude-sonnet-4.5", (5000, 1000, 3000), "0.0219"),
    # 5000 x 0.8 + 3000 x 0.2 + 1000 x 3.2: Bedrock's Converse API.
    ("aws.bedrock", "eu.amazon.nova-pro-v1:0", (5000, 1000, 3000), "0.0078"),
    # 2000 x 2.5 + 3000 x 1.25 + 1000 x 10.
    ("openai", "gpt-4o", (5000, 1000, 3000), "0.01875"),
    ("azure.ai.openai", "gpt-4o", (5000, 1000, 3000), "0.01875"),
    # 2000 x 1.25 + 3000 x 0.125 + 1000 x 10.
    ("gcp.gemini", "gemini-2.5-pro", (5000, 1000, 3000), "0.012875"),
    # More cached tokens than input: 100 x 2.5 + 3000 x 1.25 + 0.
    ("openai", "gpt-4o", (100, 0, 3000), "0.004"),
]


async def log(client: httpx.AsyncClient, **call: Any) -> dict[str, Any]:
    response = await client.post("/api/v1/log", json=call)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def explained(client: httpx.AsyncClient, log_id: str) -> dict[str, Any]:
    response = await client.get(f"/api/v1/logs/{log_id}/cost")
    assert response.status_code == 200, response.text
    return dict(response.json())


@pytest.mark.parametrize(("provider", "model", "tokens", "cost"), CACHED)
async def test_cached_tokens_are_counted_as_the_api_of_the_model_means_them(
    client: httpx.AsyncClient, provider: str, model: str, tokens: tuple[int, int, int], cost: str
) -> None:
    names = ("input_tokens", "output_tokens", "cached_input_tokens")
    counts = dict(zip(names, tokens, strict=True))
    logged = await log(client, provider=provider, model=model, **counts)
    assert (Decimal(str(logged["cost"])), logged["cost_source"]) == (Decimal(cost), "offline")


REASONING = [
    # 1000 x 0.3 + 700 x 2.5.
    ("my-google", "gemini-2.5-flash", (1000, 500, 200), "0.00205"),
    ("gemini-api", "gemini-2.5-flash", (1000, 500, 200), "0.00205"),
    ("google-cloud", "gemini-2.5-flash", (1000, 500, 200), "0.00205"),
    # 100 x 0.3 + 500 x 0.5.
    ("xai", "grok-3-mini", (100, 300, 200), "0.00028"),
    ("x_ai", "grok-3-mini", (100, 300, 200), "0.00028"),
    ("xAI", "grok-3-mini-latest", (100, 300, 200), "0.00028"),
    # 100 x 1.25 + 500 x 10.
    ("google", "gemini-2.5-pro", (100, 300, 200), "0.005125"),
    ("gemini", "gemini-2.5-pro", (100, 300, 200), "0.005125"),
    ("gcp.vertex_ai", "gemini-2.5-pro", (100, 300, 200), "0.005125"),
    # In the output: 100 x 2 + 300 x 8.
    ("openai", "o3", (100, 300, 200), "0.0026"),
    ("azure", "o3", (100, 300, 200), "0.0026"),
    ("openai", "o3", (100, 100, 200), "0.0026"),  # more reasoning than output: 100 x 2 + 300 x 8
    # OpenRouter translates: 100 x 1.25 + 300 x 10.
    ("openrouter", "google/gemini-2.5-pro", (100, 300, 200), "0.003125"),
]


@pytest.mark.parametrize(("provider", "model", "tokens", "cost"), REASONING)
async def test_reasoning_is_counted_as_the_api_of_the_model_means_it(
    client: httpx.AsyncClient, provider: str, model: str, tokens: tuple[int, int, int], cost: str
) -> None:
    names = ("input_tokens", "output_tokens", "reasoning_output_tokens")
    counts = dict(zip(names, tokens, strict=True))
    logged = await log(client, provider=provider, model=model, **counts)
    assert Decimal(str(logged["cost"])) == Decimal(cost)


@pytest.mark.parametrize(
    ("stated", "cost"), [(None, "0.00028"), (False, "0.00028"), (True, "0.00018")]
)
async def test_a_call_may_say_whether_its_output_includes_reasoning(
    client: httpx.AsyncClient, *, stated: bool | None, cost: str
) -> None:
    call = {"input_tokens": 100, "output_tokens": 300, "reasoning_output_tokens": 200}
    logged = await log(
        client, provider="xai", model="grok-3-mini", reasoning_tokens_included=stated, **call
    )
    assert Decimal(str(logged["cost"])) == Decimal(cost)
    found = await explained(client, logged["log_id"])
    assert found["reasoning_tokens_included"] is bool(stated)
    assert ("the call says so" in found["assumptions"][0]) is (stated is not None)


@pytest.mark.parametrize(
    ("call", "included", "assumption"),
    [
        (
            {"provider": "aws.bedrock", "model": CLAUDE_ON_BEDROCK, "cached_input_tokens": 3},
            (False, True),
            (
                "Input tokens do not include the 3 cached ones: Anthropic's API counts cached"
                " tokens beside the input."
            ),
        ),
        (
            {"provider": "openai", "model": "gpt-4o", "cached_input_tokens": 3},
            (True, True),
            (
                "Input tokens include the 3 cached ones: most APIs count cached tokens in the"
                " input, as OpenAI's does."
            ),
        ),
        (
            {"provider": "openai", "model": "gpt-4o", "cached_input_tokens": 3000},
            (False, True),
            (
                "Input tokens do not include the 3000 cached ones: they are more than the input"
                " tokens."
            ),
        ),
        (
            {"provider": "xai", "model": "grok-3-mini", "reasoning_output_tokens": 2},
            (True, False),
            (
                "Output tokens do not include the 2 of reasoning: xAI's API counts reasoning beside"
                " the output."
            ),
        ),
    ],
    ids=lambda value: value.get("model") if isinstance(value, dict) else "",
)
async def test_an_explanation_says_what_was_assumed_and_why(
    client: httpx.AsyncClient, call: dict[str, Any], included: tuple[bool, bool], assumption: str
) -> None:
    logged = await log(client, input_tokens=50, output_tokens=5, **call)
    found = await explained(client, logged["log_id"])
    assert found["assumptions"] == [assumption]
    assert (found["cache_tokens_included"], found["reasoning_tokens_included"]) == included
    total = sum(Decimal(str(line["amount"])) for line in found["lines"])
    assert total == Decimal(str(found["cost"])) == Decimal(str(logged["cost"]))


async def test_a_call_without_cached_tokens_or_reasoning_needs_no_assumption(
    client: httpx.AsyncClient,
) -> None:
    call = {"provider": "openai", "model": "gpt-4o", "input_tokens": 50, "output_tokens": 5}
    logged = await log(client, **call)
    assert (await explained(client, logged["log_id"]))["assumptions"] == []
