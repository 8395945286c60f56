"""Exact prices: what is counted as what, what it costs, and when there is no price."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llmring_server.pricing.cost import MAX_COST, USAGE_FIELDS, Rate
from llmring_server.pricing.price_book import (
    EMPTY_PRICE_BOOK,
    DatedPrices,
    Price,
    PriceBook,
    PriceTable,
)
from tests.conftest import used

NOW = datetime.now(UTC)
VECTORS = json.loads((Path(__file__).parent / "token_semantics.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_tokens_are_counted_as_their_provider_means_them(vector: dict[str, Any]) -> None:
    found = used(vector["call"])
    units = {kind: count for kind, count in found.units.items() if count and kind != "request"}
    assert (found.prompt_tokens, units) == (vector["prompt"], vector["units"])


def test_more_tokens_of_a_kind_than_there_are_is_an_error() -> None:
    for field in sorted(USAGE_FIELDS.keys() - {"web_searches", "cache_creation_input_tokens"}):
        call = {"provider": "openai", "input_tokens": 5, "output_tokens": 0, field: 6}
        if field != "reasoning_output_tokens":
            with pytest.raises(ValueError, match="must not exceed"):
                used(call)


def price(**said: Any) -> Price:
    rates = {kind: Rate(Decimal(rate)) for kind, rate in said.pop("rates").items()}
    given = {"provider": "p", "model": "m", "service_tier": None, "valid_from": None} | said
    return Price(**given, source="override", version="1", rates=rates)


def cost(book: PriceBook, model: str, call: dict[str, Any] | None = None, **sought: Any) -> Any:
    call = {"provider": "p", "input_tokens": 10**6, "output_tokens": 0} | (call or {})
    when, tier = sought.get("when", NOW), sought.get("tier")
    return book.quote("p", model, tier, used(call), when)


def test_names_are_found_exact_folded_prefixed_dated_and_fine_tuned() -> None:
    named = {"m": 1, "M": 2, "m-2026-01-01": 3, "ft:m": 4}
    layer = PriceTable(
        {
            ("p", name, None): DatedPrices([price(rates={"input": usd})])
            for name, usd in named.items()
        }
    )
    book = PriceBook([layer])
    expected = {
        "m": 1, "M": 2, "p:m": 1, "m-2026-01-01": 3, "m-20251231": 1, "m-2025-12-31": 1,
        "FT:M": 4, "ft:m:acme::x": 4, "ft:n:acme::x": None, "n": None,
    }  # fmt: skip
    assert {name: cost(book, name).cost for name in expected} == expected


def test_the_time_of_the_event_chooses_its_price() -> None:
    dates = [datetime(2026, month, 1, tzinfo=UTC) for month in (1, 3)]
    prices = [
        price(rates={"input": usd}, valid_from=date)
        for usd, date in zip((1, 2), dates, strict=True)
    ]
    book = PriceBook([PriceTable({("p", "m", None): DatedPrices(prices)})])
    moment = timedelta(microseconds=1)
    times = [dates[0] - moment, dates[0], dates[1] - moment, dates[1], NOW]
    assert [cost(book, "m", when=when).cost for when in times] == [None, 1, 1, 2, 2]


def test_a_kind_without_a_price_leaves_the_call_to_the_next_layer_or_unpriced() -> None:
    poor = PriceTable({("p", "m", None): DatedPrices([price(rates={"input": 1})])})
    rich = PriceTable({("p", "m", None): DatedPrices([price(rates={"input": 3, "cache_read": 2})])})
    call = {"cached_input_tokens": 500_000}
    assert cost(PriceBook([poor]), "m", call)[::2] == (None, "no rate for cache_read")
    assert cost(PriceBook([poor, rich]), "m", call).cost == Decimal("2.5")
    assert cost(PriceBook([poor, rich]), "m").cost == 1
    assert (
        cost(PriceBook([rich]), "m", {"audio_input_tokens": 1}).unpriced_reason
        == "no rate for input_audio"
    )
    assert cost(PriceBook([rich]), "m", tier="flex").unpriced_reason == "no price for the model"
    assert cost(PriceBook([rich]), "m", tier="default").cost == 3
    assert cost(EMPTY_PRICE_BOOK, "m").unpriced_reason == "no price for the model"


def test_a_long_prompt_is_paid_whole_at_its_tier() -> None:
    tiers = {"input": Rate(Decimal(1), ((200, Decimal(2)),)), "output": Rate(Decimal(4))}
    long = Price(
        provider="p", model="m", service_tier=None, valid_from=None, source="override", version="1",
        rates=tiers,
    )  # fmt: skip
    book = PriceBook([PriceTable({("p", "m", None): DatedPrices([long])})])
    costs = [cost(book, "m", {"input_tokens": n, "output_tokens": 5}).cost for n in (200, 201)]
    assert costs == [Decimal("0.00022"), Decimal("0.000422")]


def test_costs_are_rounded_half_even_at_ten_places() -> None:
    book = PriceBook(
        [PriceTable({("p", "m", None): DatedPrices([price(rates={"input": "0.00005"})])})]
    )
    costs = [cost(book, "m", {"input_tokens": tokens}).cost for tokens in (1, 3)]
    assert costs == [Decimal("0E-10"), Decimal("0.0000000002")]


def test_what_no_call_can_cost_has_no_price() -> None:
    book = PriceBook([PriceTable({("p", "m", None): DatedPrices([price(rates={"input": 1000})])})])
    assert (
        cost(book, "m", {"input_tokens": 2**53 - 1}).unpriced_reason
        == f"the cost exceeds {MAX_COST} USD"
    )
