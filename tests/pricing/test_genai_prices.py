"""The built-in prices, compared with what genai-prices computes from them."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import genai_prices
from genai_prices.types import ModelInfo, Provider

from llmring_server.pricing import sources
from llmring_server.pricing.cost import COST_QUANTUM
from llmring_server.pricing.price_book import PriceBook
from tests.conftest import used

# Calls are priced at times in the 400 days before this fixed day.
END = datetime(2026, 11, 30, tzinfo=UTC)
BOOK = PriceBook([sources.GenaiPrices()])

# The fields of a call, by the names of genai-prices.
THEIRS = {
    "cache_write_tokens": "cache_creation_input_tokens",
    "cache_write_1h_tokens": "cache_creation_1h_input_tokens",
    "input_audio_tokens": "audio_input_tokens",
    "cache_audio_read_tokens": "cached_audio_input_tokens",
    "input_image_tokens": "image_input_tokens",
    "cache_image_read_tokens": "cached_image_input_tokens",
    "input_video_tokens": "video_input_tokens",
    "output_audio_tokens": "audio_output_tokens",
    "output_image_tokens": "image_output_tokens",
    "output_reasoning_tokens": "reasoning_output_tokens",
    "web_searches": "web_searches",
    "audio_seconds": "audio_seconds",
    "input_characters": "characters",
}


def models() -> list[tuple[Provider, ModelInfo]]:
    return [
        (provider, model)
        for provider in sources.genai_providers()
        for model in provider.models
        if provider.find_model(model.id) is model
    ]


def random_usage(chance: random.Random, kinds: set[str]) -> dict[str, int]:
    """Return a usage, in genai-prices' terms, of kinds that have a price.

    It states every count, zeros too: genai-prices refuses a usage of cached tokens and of image
    tokens that leaves open how many are both.
    """
    counts = {kind: chance.randrange(10 ** chance.randrange(1, 6)) for kind in sorted(kinds)}
    inner = {
        "input_audio_tokens": counts.get("input_audio", 0) + counts.get("cache_read_audio", 0),
        "cache_audio_read_tokens": counts.get("cache_read_audio", 0),
        "input_image_tokens": counts.get("input_image", 0) + counts.get("cache_read_image", 0),
        "cache_image_read_tokens": counts.get("cache_read_image", 0),
        "input_video_tokens": counts.get("input_video", 0),
        "cache_write_tokens": counts.get("cache_write", 0) + counts.get("cache_write_1h", 0),
        "cache_write_1h_tokens": counts.get("cache_write_1h", 0),
        "output_audio_tokens": counts.get("output_audio", 0),
        "output_image_tokens": counts.get("output_image", 0),
        "output_reasoning_tokens": counts.get("reasoning", 0),
        "web_searches": counts.get("web_search", 0),
        # Groq bills at least ten seconds.
        "audio_seconds": counts.get("audio_second", -10) + 10,
        "input_characters": counts.get("character", 0),
    }
    outputs = ("output", "output_audio", "output_image", "reasoning")
    not_input = (*outputs, "web_search", "request", "audio_second", "character")
    inputs = sum(count for kind, count in counts.items() if kind not in not_input)
    cache_reads = ("cache_read", "cache_read_audio", "cache_read_image")
    return {
        "input_tokens": inputs,
        "output_tokens": sum(counts.get(kind, 0) for kind in outputs),
        "cache_read_tokens": sum(counts.get(kind, 0) for kind in cache_reads),
        **inner,
    }


def reported(provider: str, usage: dict[str, int]) -> dict[str, Any]:
    """Report a usage in genai-prices' terms: the whole includes its parts."""
    return {
        "provider": provider,
        "input_tokens": usage["input_tokens"],
        "output_tokens": usage["output_tokens"],
        "cached_input_tokens": usage["cache_read_tokens"],
        "cache_tokens_included": True,
        "reasoning_tokens_included": True,
        **{THEIRS[name]: count for name, count in usage.items() if name in THEIRS},
    }


def cases(count: int) -> Iterator[tuple[Provider, ModelInfo, str | None, datetime, set[str]]]:
    chance = random.Random(4)  # noqa: S311, for its repetition
    known = models()
    while count:
        provider, model = chance.choice(known)
        tier = chance.choice([None, None, "batch", "flex", "priority", "fast"])
        when = END - timedelta(minutes=chance.randrange(400 * 24 * 60))
        histories = BOOK.histories(provider.id, model.id, tier)
        price = histories[0].at(when) if histories else None
        if price and price.rates.keys() - {"request"}:
            count -= 1
            yield provider, model, tier, when, set(price.rates)


def test_costs_are_those_that_genai_prices_computes() -> None:
    chance = random.Random(5)  # noqa: S311, likewise
    for provider, model, tier, when, kinds in cases(500):
        usage = random_usage(chance, kinds)
        theirs = genai_prices.calc_price(
            genai_prices.Usage(**usage), model.id, provider_id=provider.id,
            genai_request_timestamp=when, price_context=sources.price_context(tier),
        )  # fmt: skip
        call = reported(provider.id, usage)
        found = BOOK.quote(provider.id, model.id, tier, used(call), when)
        assert found.cost == theirs.total_price.quantize(COST_QUANTUM), (
            provider.id,
            model.id,
            usage,
        )
