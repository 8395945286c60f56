"""Which source prices a call: one that knows as much as any other knows about the model."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.pricing import sources
from llmring_server.pricing.price_book import PriceBook, PricedCall
from llmring_server.registry.models import EPOCH, ProviderFile
from llmring_server.usage.models import NewCall
from tests.conftest import used
from tests.pricing.test_pricing import override
from tests.support.fake_registry import FakeRegistry

DAY = datetime(2026, 11, 30, 12, tzinfo=UTC)
USD = "dollars_per_million_tokens_"


def model(input: Any, output: Any, cached: Any = None, **fields: Any) -> dict[str, Any]:
    """Make a model as the public registry describes it: its files have no tiers of OpenAI's."""
    return {
        f"{USD}input": input, f"{USD}output": output, f"{USD}cached_input": cached,
        "supports_long_context_pricing": False, **fields,
    }  # fmt: skip


# Prices of the public registry's files of 2026-08-18.
PUBLIC: dict[str, Any] = {
    "gpt-5.4": model("2.5", "15", "0.25"),
    "gpt-5.5": model("5", "30", "0.5"),
    "gpt-5.6-luna": model("0.2", "1.2", "0.02"),
    "gpt-4o": model("2.5", "10", "1.25"),
    "gpt-4o-2024-08-06": model("2.5", "10", "1.25", model_aliases=["gpt-4o-2024-05-13"]),
    "gpt-4o-2024-05-13": model("5", "15"),
}
UPDATED = datetime(2026, 8, 18, tzinfo=UTC)


def file(
    models: dict[str, Any], valid_from: datetime = UPDATED, of: str = "openai"
) -> ProviderFile:
    named = {f"{of}:{name}": each for name, each in models.items()}
    return ProviderFile(1, of, 1, valid_from, valid_from, named, b"")


def book(models: dict[str, Any] | None = None, *, of: str = "openai") -> PriceBook:
    files = [file(PUBLIC if models is None else models, of=of)]
    return PriceBook([sources.registry_source(files), sources.GenaiPrices()])


def quote(
    book: PriceBook, model: str, *, provider: str = "openai", when: datetime = DAY, **tokens: int
) -> PricedCall:
    call = {"provider": provider, "model": model, "input_tokens": 0, "output_tokens": 0} | tokens
    return book.quote(provider, model, None, used(call), when)


@pytest.mark.parametrize(
    ("model", "input", "cached", "cost", "source"),
    [
        # Above 272,000 tokens of input: twice the input, 1.5 times the output, for the whole call.
        ("gpt-5.4", 300_000, 0, "1.5225", "offline"),
        ("gpt-5.5", 300_000, 0, "3.045", "offline"),
        ("gpt-5.6-luna", 300_000, 0, "0.1218", "offline"),
        ("gpt-5.4", 300_000, 300_000, "0.1725", "offline"),
        ("gpt-5.4", 272_001, 0, "1.382505", "offline"),
        # Below, the registry knows as much.
        ("gpt-5.4", 272_000, 0, "0.695", "registry"),
        ("gpt-5.4", 1000, 500, "0.016375", "registry"),
        ("gpt-5.6-luna", 1000, 0, "0.0014", "registry"),
        ("gpt-4o", 300_000, 0, "0.76", "registry"),
    ],
)
def test_a_source_without_a_tier_does_not_hide_the_one_that_has_it(
    model: str, input: int, cached: int, cost: str, source: str
) -> None:
    found = quote(book(), model, input_tokens=input, cached_input_tokens=cached, output_tokens=1000)
    assert (found.cost, found.source) == (Decimal(cost), source)


def test_a_source_without_a_fee_or_a_separate_price_does_not_hide_the_one_that_has_it() -> None:
    models = {"sonar": model(1, 1), "sonar-deep-research": model(2, 8)}
    perplexity = book(models, of="perplexity")
    # The request itself costs 0.012.
    found = quote(perplexity, "sonar", provider="perplexity", input_tokens=1000)
    assert (found.cost, found.source) == (Decimal("0.013"), "offline")
    deep: dict[str, Any] = {"input_tokens": 1000, "output_tokens": 1000}
    found = quote(perplexity, "sonar-deep-research", provider="perplexity", **deep)
    assert found.source == "registry"
    # Reasoning has a price of its own: 1000 x 2 + 400 x 8 + 600 x 3.
    deep["reasoning_output_tokens"] = 600
    found = quote(perplexity, "sonar-deep-research", provider="perplexity", **deep)
    assert (found.cost, found.source) == (Decimal("0.007"), "offline")


def test_a_registry_file_does_not_outlive_a_newer_price_of_the_price_book() -> None:
    # The price book has prices of gpt-5.6-luna from 2026-07-30 on.
    old = file({"gpt-5.6-luna": model(1, 6)}, datetime(2026, 7, 20, tzinfo=UTC))
    books = PriceBook([sources.registry_source([old]), sources.GenaiPrices()])
    before = quote(books, "gpt-5.6-luna", when=datetime(2026, 7, 29, tzinfo=UTC), input_tokens=1000)
    assert (before.cost, before.source) == (Decimal("0.001"), "registry")
    after = quote(books, "gpt-5.6-luna", when=datetime(2026, 7, 30, tzinfo=UTC), input_tokens=1000)
    assert (after.cost, after.source) == (Decimal("0.0002"), "offline")
    newer = file({"gpt-5.6-luna": model("0.3", 6)}, datetime(2026, 7, 31, tzinfo=UTC))
    books = PriceBook([sources.registry_source([old, newer]), sources.GenaiPrices()])
    found = quote(books, "gpt-5.6-luna", input_tokens=1000)
    assert (found.cost, found.source) == (Decimal("0.0003"), "registry")


@pytest.mark.parametrize(
    ("model", "cached", "cost"),
    [
        # Its own price is 5 and 15; nobody has one for its cached tokens.
        ("gpt-4o-2024-05-13", 1000, None),
        ("gpt-4o-2024-05-13", 0, "6.5"),
        ("gpt-4o-2024-08-06", 1000, "3.49875"),
        # Nobody knows this version: it is priced as the undated model.
        ("gpt-4o-2031-01-01", 1000, "3.49875"),
    ],
)
@pytest.mark.parametrize("with_registry", [True, False])
def test_a_dated_model_that_is_known_is_not_priced_as_its_sibling(
    model: str, cached: int, cost: str | None, *, with_registry: bool
) -> None:
    found = quote(
        book(PUBLIC if with_registry else {}), model,
        input_tokens=10**6, cached_input_tokens=cached, output_tokens=10**5,
    )  # fmt: skip
    assert found.cost == (None if cost is None else Decimal(cost))


def test_an_alias_with_another_date_is_another_version() -> None:
    only_alias = {"gpt-4o-2024-08-06": PUBLIC["gpt-4o-2024-08-06"]}
    found = quote(book(only_alias), "gpt-4o-2024-05-13", input_tokens=10**6)
    assert (found.cost, found.source) == (Decimal(5), "offline")
    dated = {"gpt-9-2031-01-01": model(3, 4, model_aliases=["gpt-9", "gpt-9-20310101"])}
    costs = {
        name: quote(book(dated), name, input_tokens=10**6).cost
        for name in ("gpt-9", "gpt-9-2031-01-01", "gpt-9-20310101", "gpt-9-2031-02-02")
    }
    assert costs == dict.fromkeys(costs, 3)


async def test_an_override_of_a_dated_model_is_not_replaced_by_its_sibling(
    ring: Ring, project_id: ProjectId
) -> None:
    sibling = {"input": 2, "output": 8, "cache_read": "0.2"}
    await ring.pricing.override(override("big-1", 0, rates=sibling), actor=LIBRARY)
    dated = {"input": 20, "output": 80}
    await ring.pricing.override(override("big-1-2026-05-01", 0, rates=dated), actor=LIBRARY)
    costs = []
    for name, cached, tier in (
        ("big-1-2026-05-01", 0, None), ("big-1-2026-05-01", 1, None),
        ("big-1-2026-05-01", 0, "batch"), ("big-1", 1, None), ("big-1-2026-06-01", 1, None),
    ):  # fmt: skip
        call = NewCall(
            provider="acme", model=name, input_tokens=10**6, output_tokens=0,
            cached_input_tokens=cached, service_tier=tier,
        )  # fmt: skip
        costs.append((await ring.usage.log(project_id, call)).cost)
    assert costs == [20, None, None, Decimal("1.9999982"), Decimal("1.9999982")]
    for name in ("big-1", "big-1-2026-05-01"):
        await ring.pricing.withdraw("acme", name, actor=LIBRARY)


async def test_an_override_is_the_operators_word(ring: Ring, project_id: ProjectId) -> None:
    """It is flat unless it says otherwise, whatever tiers other sources know."""
    flat: dict[str, Any] = {"provider": "openai", "rates": {"input": 2, "output": 12}}
    await ring.pricing.override(override("gpt-5.4", 0, **flat), actor=LIBRARY)
    long: dict[str, Any] = {"provider": "openai", "model": "gpt-5.4", "input_tokens": 300_000}
    logged = await ring.usage.log(project_id, NewCall(**long, output_tokens=1000))
    assert (logged.cost, logged.cost_source) == (Decimal("0.612"), "override")
    # It has no price for cached tokens: the next source prices the call.
    cached = NewCall(**long, output_tokens=1000, cached_input_tokens=1)
    logged = await ring.usage.log(project_id, cached)
    assert (logged.cost, logged.cost_source) == (Decimal("1.5224955"), "offline")
    await ring.pricing.withdraw("openai", "gpt-5.4", actor=LIBRARY)


async def test_an_explanation_says_what_each_source_says(
    db: AsyncDatabaseManager, fake: FakeRegistry, project_id: ProjectId
) -> None:
    ring = Ring(db, Settings(registry_url=fake.url))
    known = fake.files["openai"]["models"]["openai:model-0"]
    fake.files["openai"]["models"]["openai:gpt-5.4"] = known | {
        "model_name": "gpt-5.4", "model_aliases": [],
        f"{USD}input": 2.5, f"{USD}output": 15.0, f"{USD}cached_input": 0.25,
    }  # fmt: skip
    await ring.registry.refresh()
    call = NewCall(provider="openai", model="gpt-5.4", input_tokens=300_000, output_tokens=1000)
    logged = await ring.usage.log(project_id, call)
    assert (logged.cost, logged.cost_source) == (Decimal("1.5225"), "offline")
    found = await ring.pricing.explain(project_id, logged.log_id)
    said = [(each.source, each.prices_the_call, each.reason) for each in found.sources]
    assert said == [
        ("override", False, "no price for the model"),
        ("registry", False, "no rate for input of prompts above 272000 tokens"),
        ("offline", True, ""),
    ]
    assert [bool(each.version) for each in found.sources] == [False, True, True]
    short = call.model_copy(update={"input_tokens": 1000})
    logged = await ring.usage.log(project_id, short)
    found = await ring.pricing.explain(project_id, logged.log_id)
    assert [each.prices_the_call for each in found.sources] == [False, True, False]
    unknown = call.model_copy(update={"model": "x"})
    logged = await ring.usage.log(project_id, unknown)
    found = await ring.pricing.explain(project_id, logged.log_id)
    assert {each.reason for each in found.sources} == {"no price for the model"}
    reported = call.model_copy(update={"cost": Decimal(1)})
    logged = await ring.usage.log(project_id, reported)
    assert (await ring.pricing.explain(project_id, logged.log_id)).sources == []


def test_the_registry_prices_what_the_price_book_does_not_know() -> None:
    models = {"gpt-99": model(1, 2)}
    registry = sources.registry_source([file(models, EPOCH), file(models, DAY - timedelta(days=1))])
    found = quote(PriceBook([registry, sources.GenaiPrices()]), "gpt-99", input_tokens=10**6)
    assert (found.cost, found.source) == (Decimal(1), "registry")
