"""What is not counted in tokens: seconds, characters, images, requests; and calls of nothing."""

from decimal import Decimal
from typing import Any

import httpx
import pytest

from llmring_server import Ring
from llmring_server.core.identity import LIBRARY, ProjectId
from tests.pricing.test_pricing import call, override
from tests.pricing.test_rerating import rerate
from tests.pricing.test_token_semantics import explained, log

NO_TOKENS = {"input_tokens": 0, "output_tokens": 0}


@pytest.mark.parametrize(
    ("provider", "model", "quantities", "cost"),
    [
        # An empty price, or one for something else, prices nothing.
        ("openai", "whisper-1", {}, None),
        ("openai", "tts-1", {}, None),
        ("github-copilot", "gpt-4o", {}, None),
        ("google", "gemma-3", {}, None),
        ("groq", "whisper-large-v3", {}, None),
        # A given 0 is 0: of tokens, where tokens have a price, and of seconds, where they have.
        ("openai", "gpt-4o", {}, "0"),
        ("openai", "text-embedding-3-small", {}, "0"),
        ("openai", "omni-moderation-latest", {}, "0"),
        ("openai", "whisper-1", {"audio_seconds": 0}, "0"),
        # 0.36 USD for an hour.
        ("openai", "whisper-1", {"audio_seconds": 60}, "0.006"),
        ("openai", "whisper-1", {"audio_seconds": 12.5}, "0.00125"),
        ("openai", "whisper-1", {"audio_seconds": 3.2400000095367432}, "0.000324"),
        ("groq", "whisper-large-v3", {"audio_seconds": 3600}, "0.111"),
        # 15 USD for a million characters.
        ("openai", "tts-1", {"characters": 1000}, "0.015"),
        ("openai", "tts-1-hd", {"characters": 1000}, "0.03"),
        # 1 USD for a million tokens, and 12 USD for a thousand requests.
        ("perplexity", "sonar", {}, "0.012"),
        ("perplexity", "sonar", {"input_tokens": 1000}, "0.013"),
        ("perplexity", "sonar", {"input_tokens": 1000, "requests": 3}, "0.037"),
        ("perplexity", "sonar", {"input_tokens": 1000, "requests": 0}, "0.001"),
        # Nobody has a rate.
        ("openai", "gpt-4o", {"images": 1}, None),
        ("openai", "gpt-4o", {"video_seconds": 0.5}, None),
        ("openai", "whisper-1", {"characters": 5}, None),
        ("openai", "whisper-1", {"audio_seconds": 60, "input_tokens": 1}, None),
    ],
)
async def test_quantities_are_priced_where_they_have_a_rate(
    client: httpx.AsyncClient,
    provider: str,
    model: str,
    quantities: dict[str, Any],
    cost: str | None,
) -> None:
    logged = await log(client, **NO_TOKENS | {"provider": provider, "model": model} | quantities)
    assert logged["cost_source"] == ("unpriced" if cost is None else "offline")
    assert Decimal(str(logged["cost"])) == Decimal(cost or 0)
    found = await explained(client, logged["log_id"])
    assert sum(Decimal(str(line["amount"])) for line in found["lines"]) == Decimal(cost or 0)


async def test_seconds_are_exact_wherever_they_are_returned(client: httpx.AsyncClient) -> None:
    given = {"audio_seconds": 12.3456789, "video_seconds": 7, "images": 2, "requests": 1}
    expected = given | {"audio_seconds": 12.345679}
    logged = await log(client, provider="acme", model="m", cost=1, **NO_TOKENS, **given)
    [call] = (await client.get("/api/v1/logs")).json()
    assert call["details"] == expected
    export = (await client.get("/api/v1/logs/export?format=jsonl")).text
    assert '"audio_seconds":12.345679' in export
    assert '"video_seconds":7,' in export
    assert (await explained(client, logged["log_id"]))["cost"] == 1


@pytest.mark.parametrize(
    "invalid",
    [
        {"audio_seconds": -1}, {"audio_seconds": 1.1e9}, {"audio_seconds": "x"},
        {"video_seconds": True}, {"images": -1}, {"images": 0.5}, {"characters": 2**53},
        {"requests": -1},
    ],
    ids=str,
)  # fmt: skip
async def test_impossible_quantities_are_refused(
    client: httpx.AsyncClient, invalid: dict[str, Any]
) -> None:
    body = {"provider": "openai", "model": "whisper-1"} | NO_TOKENS | invalid
    response = await client.post("/api/v1/log", json=body)
    assert response.status_code == 422
    assert next(iter(invalid)) in response.text
    assert (await client.get("/api/v1/logs")).json() == []


async def test_an_override_prices_any_quantity(ring: Ring, project_id: ProjectId) -> None:
    rates = {
        "audio_second": "0.36", "video_second": "0.10", "image": "0.04", "character": 15,
        "request": 1,
    }  # fmt: skip
    await ring.pricing.override(override("media-1", 0, rates=rates), actor=LIBRARY)
    quantities = {
        "audio_seconds": Decimal("1.5"), "video_seconds": Decimal("8.5"), "images": 3,
        "characters": 1000, "requests": 2,
    }  # fmt: skip
    logged = await ring.usage.log(project_id, call("media-1", input_tokens=0, **quantities))
    # 1.5 x 0.36 / 3600 + 8.5 x 0.10 + 3 x 0.04 + 1000 x 15 / 10^6 + 2 x 1 / 1000.
    assert logged.cost == Decimal("0.98715")
    found = await ring.pricing.explain(project_id, logged.log_id)
    assert sum(line.amount for line in found.lines) == logged.cost
    assert {line.kind: (str(line.quantity), line.per) for line in found.lines} == {
        "request": ("2", 1000), "audio_second": ("1.5", 3600), "video_second": ("8.5", 1),
        "character": ("1000", 10**6), "image": ("3", 1),
    }  # fmt: skip
    rates["audio_second"] = "0.72"
    await ring.pricing.override(override("media-1", 0, rates=rates), actor=LIBRARY)
    [change] = await rerate(ring, "media-1")
    assert change.quote.cost == Decimal("0.9873")
    await ring.pricing.withdraw("acme", "media-1", actor=LIBRARY)
