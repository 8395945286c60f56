"""Prices of the registry: equal to the published client's, from the file valid at the time."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from llmring.registry import RegistryModel  # type: ignore[import-untyped]
from llmring.schemas import LLMResponse  # type: ignore[import-untyped]
from llmring.services.cost_calculator import CostCalculator  # type: ignore[import-untyped]
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.core.identity import ProjectId
from llmring_server.pricing import sources
from llmring_server.pricing.cost import COST_QUANTUM
from llmring_server.pricing.models import PriceQuery
from llmring_server.pricing.price_book import PriceBook, PricedCall
from llmring_server.registry import builtin
from llmring_server.registry.models import EPOCH, ProviderFile
from llmring_server.usage.models import NewCall
from tests.conftest import used
from tests.support.fake_registry import FakeRegistry, document

NOW = datetime.now(UTC)
# Prices are compared at this fixed day.
DAY = datetime(2026, 11, 30, tzinfo=UTC)
USD = "dollars_per_million_tokens_"


def file(valid_from: datetime, version: int = 1, **models: dict[str, Any]) -> ProviderFile:
    named = {f"openai:{name}": model for name, model in models.items()}
    return ProviderFile(version, "openai", version, valid_from, valid_from, named, b"")


def quote(book: PriceBook, model: str, when: datetime = NOW, **tokens: int) -> PricedCall:
    call = {"provider": "openai", "input_tokens": 0, "output_tokens": 0} | tokens
    return book.quote("openai", model, None, used(call), when)


async def test_costs_are_those_that_the_client_computes() -> None:
    chance = random.Random(6)  # noqa: S311, for its repetition
    files = builtin.builtin_files(("openai", "anthropic", "google"), DAY.date())
    book = PriceBook([sources.registry_source(files.values())])
    known = [model for each in files.values() for model in each.models.values()]
    able = [
        model for model in known
        if model.get(f"{USD}input") is not None and model.get(f"{USD}output") is not None
    ]  # fmt: skip
    for model in chance.choices(able, k=500):
        usage = usage_of(model, chance)
        response = LLMResponse(
            content="", model=f"{model['provider']}:{model['model_name']}", usage=usage
        )
        theirs = await CostCalculator(None).calculate_cost(
            response, RegistryModel.model_validate({**model, "display_name": "x"})
        )
        found = book.quote(
            model["provider"], model["model_name"], None, used(reported(model, usage)), DAY
        )
        assert found.cost == Decimal(repr(theirs["total_cost"])).quantize(COST_QUANTUM), (
            model,
            usage,
        )


def usage_of(model: Any, chance: random.Random) -> dict[str, int]:
    """Return a usage of the kinds that the client has a price for, with a usual prompt."""
    prompt, completion = chance.randrange(100_000), chance.randrange(9999)
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    if model.get(f"{USD}cache_read"):
        usage["cached_tokens"] = chance.randrange(usage["prompt_tokens"] + 1)
    for ttl in ("5m", "1h"):
        if model.get(f"{USD}cache_write_{ttl}"):
            usage[f"cache_creation_{ttl}_tokens"] = chance.randrange(9999)
    return usage


def reported(model: Any, usage: dict[str, int]) -> dict[str, Any]:
    """Report a usage as its provider does; the client counts cache writes beside the prompt."""
    cached = usage.get("cached_tokens", 0)
    hour = usage.get("cache_creation_1h_tokens", 0)
    written = usage.get("cache_creation_5m_tokens", 0) + hour
    excluded = cached if model["provider"] == "anthropic" else -written
    return {
        "provider": model["provider"],
        "input_tokens": usage["prompt_tokens"] - excluded,
        "output_tokens": usage["completion_tokens"],
        "cached_input_tokens": cached,
        "cache_creation_input_tokens": written,
        "cache_creation_1h_input_tokens": hour,
    }


def test_a_call_is_priced_by_the_file_of_its_time() -> None:
    dates = [NOW - timedelta(days=days) for days in (30, 10)]
    files = [file(date, n, m={f"{USD}input": n}) for n, date in enumerate(dates, start=1)]
    book = PriceBook([sources.registry_source(files)])
    days = {40: None, 20: 1, 5: 2}
    for ago, cost in days.items():
        assert quote(book, "m", NOW - timedelta(days=ago), input_tokens=10**6).cost == cost


def test_a_model_takes_precedence_over_an_alias_of_the_same_name() -> None:
    cheap = {f"{USD}input": 1, "model_aliases": ["b", "c"]}
    book = PriceBook(
        [
            sources.registry_source(
                [file(EPOCH, a=cheap, b={f"{USD}input": 2}, B={f"{USD}input": 3})]
            )
        ]
    )
    costs = {name: quote(book, name, input_tokens=10**6).cost for name in ("a", "b", "B", "c", "C")}
    assert costs == {"a": 1, "b": 2, "B": 3, "c": 1, "C": 1}


def test_a_long_prompt_without_a_long_context_price_is_left_to_other_sources() -> None:
    model = {
        f"{USD}input": 1, f"{USD}output": 2, f"{USD}cached_input": Decimal("0.5"),
        f"{USD}input_long_context": 10, f"{USD}output_long_context": 20,
        "long_context_threshold_tokens": 1000, "supports_long_context_pricing": True,
    }  # fmt: skip
    book = PriceBook([sources.registry_source([file(EPOCH, m=model)])])
    assert quote(book, "m", input_tokens=1000, cached_input_tokens=500).cost == Decimal("0.00075")
    assert quote(book, "m", input_tokens=1001, output_tokens=1).cost == Decimal("0.01003")
    assert (
        quote(book, "m", input_tokens=1001, cached_input_tokens=1).unpriced_reason
        == "no rate for cache_read"
    )


async def test_the_registry_takes_precedence_over_the_built_in_prices(
    db: AsyncDatabaseManager, fake: FakeRegistry, project_id: ProjectId
) -> None:
    ring = Ring(db, Settings(registry_url=fake.url))
    fake.files["openai"] = document("openai")
    fake.files["openai"]["models"]["openai:gpt-4o"] = {
        "provider": "openai", "model_name": "gpt-4o", "display_name": "GPT-4o",
        f"{USD}input": 2.4, f"{USD}output": 9.6,
    }  # fmt: skip
    await ring.registry.refresh()
    found = await ring.pricing.find(PriceQuery(provider="openai", model="gpt-4o"))
    assert [(each.source, each.rates["input"]) for each in found] == [
        ("registry", "2.4"), ("offline", "2.5"),
    ]  # fmt: skip
    call = NewCall(provider="openai", model="gpt-4o", input_tokens=10**6, output_tokens=0)
    logged = await ring.usage.log(project_id, call)
    assert (logged.cost, logged.cost_source) == (Decimal("2.4"), "registry")
    cached = await ring.usage.log(project_id, call.model_copy(update={"cached_input_tokens": 1}))
    assert cached.cost_source == "offline"  # the registry has no price for cached tokens


def test_the_built_in_files_have_every_price_that_the_registry_has_a_field_for() -> None:
    [file] = builtin.builtin_files(("perplexity",), DAY.date()).values()
    model = file.models["perplexity:sonar-deep-research"]
    assert model[f"{USD}output"] == 8
    assert model[f"{USD}output_thinking"] == 3
    assert model[f"{USD}cache_write_5m"] is None
