"""Cost computation: kinds of usage, rates, precedence of prices, and unpriced calls."""

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llmring_server.pricing.cost import MAX_COST, USAGE_FIELDS, Rate, cost_lines
from llmring_server.pricing.price_book import (
    EMPTY_PRICE_BOOK,
    Price,
    PriceBook,
    PricedCall,
    PriceTable,
    rates_from_json,
    rates_to_json,
)
from tests.conftest import used

NOW = datetime.now(UTC)
VECTORS = json.loads((Path(__file__).parent / "token_semantics.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_tokens_are_counted_as_their_provider_means_them(vector: dict[str, Any]) -> None:
    usage = used(vector["call"])
    units = {kind: count for kind, count in usage.units.items() if count and kind != "request"}
    assert (usage.prompt_tokens, units) == (vector["prompt"], vector["units"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"audio_input_tokens": 6}, "audio_input_tokens must not exceed input_tokens"),
        (
            {"image_input_tokens": 4, "video_input_tokens": 2},
            "image_input_tokens + video_input_tokens must not exceed input_tokens",
        ),
        (
            {"cached_input_tokens": 3, "audio_input_tokens": 3},
            "cached_input_tokens + audio_input_tokens must not exceed input_tokens",
        ),
        (
            {"provider": "anthropic", "cached_input_tokens": 3, "audio_input_tokens": 6},
            "audio_input_tokens must not exceed input_tokens",
        ),
        (
            {"cached_input_tokens": 1, "audio_input_tokens": 2, "cached_audio_input_tokens": 2},
            "cached_audio_input_tokens must not exceed cached_input_tokens",
        ),
        (
            {"cached_input_tokens": 2, "image_input_tokens": 1, "cached_image_input_tokens": 2},
            "cached_image_input_tokens must not exceed image_input_tokens",
        ),
        (
            {"cache_creation_input_tokens": 1, "cache_creation_1h_input_tokens": 2},
            "cache_creation_1h_input_tokens must not exceed cache_creation_input_tokens",
        ),
        (
            {"audio_output_tokens": 1, "reasoning_output_tokens": 3},
            "audio_output_tokens + reasoning_output_tokens must not exceed output_tokens",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_about_tokens_names_the_fields(call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        used({"provider": "openai", "input_tokens": 5, "output_tokens": 3} | call)


@pytest.mark.parametrize(
    "field",
    sorted(
        field
        for field, effects in USAGE_FIELDS.items()
        if -1 in effects.values() and field != "cache_creation_input_tokens"
    ),
)
def test_a_part_must_not_exceed_its_total(field: str) -> None:
    call = {"provider": "openai", "input_tokens": 5, "output_tokens": 0, field: 6}
    if field == "reasoning_output_tokens":
        assert used(call).units["reasoning"] == 6
    else:
        with pytest.raises(ValueError, match=f"^{field} must not exceed"):
            used(call)


def price(
    rates: dict[str, Any], valid_from: datetime | None = None, model: str = "m", tier: Any = None
) -> Price:
    return Price(
        provider="p",
        model=model,
        service_tier=tier,
        source="override",
        version="1",
        valid_from=valid_from,
        rates={
            kind: rate if isinstance(rate, Rate) else Rate(Decimal(rate))
            for kind, rate in rates.items()
        },
    )


def book_of(*prices: Price) -> PriceBook:
    return PriceBook([PriceTable.of_prices(prices)])


def quote(
    book: PriceBook,
    call: dict[str, Any] | None = None,
    *,
    model: str = "m",
    tier: str | None = None,
    when: datetime = NOW,
) -> PricedCall:
    """Price a call, by default one of a million input tokens."""
    call = {"provider": "p", "input_tokens": 10**6, "output_tokens": 0} | (call or {})
    return book.quote("p", model, tier, used(call), when)


@pytest.mark.parametrize(
    ("model", "cost"),
    [
        ("m", 1),
        ("M", 2),
        ("p:m", 1),
        ("m-2026-01-01", 3),
        ("m-20251231", 1),
        ("m-2025-12-31", 1),
        ("FT:M", 4),
        ("ft:m:acme::x", 4),
        ("ft:n:acme::x", None),
        ("n", None),
    ],
)
def test_a_model_is_found_by_exact_folded_prefixed_dated_or_fine_tuned_name(
    model: str, cost: int | None
) -> None:
    listed = {"m": 1, "M": 2, "m-2026-01-01": 3, "ft:m": 4}
    book = book_of(*(price({"input": usd}, model=name) for name, usd in listed.items()))
    assert quote(book, model=model).cost == cost


def test_the_time_of_a_call_chooses_its_price() -> None:
    january, march = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 3))
    book = book_of(price({"input": 2}, march), price({"input": 1}, january))
    instant = timedelta(microseconds=1)
    times = [january - instant, january, march - instant, march, NOW]
    assert [quote(book, when=when).cost for when in times] == [None, 1, 1, 2, 2]


def test_a_call_goes_to_the_first_source_that_has_all_its_rates() -> None:
    poor = PriceTable.of_prices([price({"input": 1})])
    rich = PriceTable.of_prices([price({"input": 3, "cache_read": 2})])
    call = {"cached_input_tokens": 500_000}
    assert quote(PriceBook([poor, rich]), call).cost == Decimal("2.5")
    assert quote(PriceBook([poor, rich])).cost == 1


def test_an_unpriced_call_says_why() -> None:
    book = book_of(price({"input": 3, "cache_read": 2}))
    unpriced = quote(book, {"audio_input_tokens": 1})
    assert unpriced.source == "unpriced"
    assert unpriced == (None, None, "no rate for input_audio")
    assert quote(book, tier="flex").unpriced_reason == "no price for the model"
    assert quote(EMPTY_PRICE_BOOK).unpriced_reason == "no price for the model"


def test_a_cost_above_the_maximum_is_unpriced() -> None:
    found = quote(book_of(price({"input": 1000})), {"input_tokens": 2**53 - 1})
    assert found == (None, None, f"the cost exceeds {MAX_COST} USD")


@pytest.mark.parametrize("tier", [None, "default", "standard", "on_demand"])
def test_the_standard_tier_has_the_list_price(tier: str | None) -> None:
    book = book_of(price({"input": 3}), price({"input": 1}, tier="batch"))
    assert quote(book, tier=tier).cost == 3
    assert quote(book, tier="batch").cost == 1


def test_a_long_prompt_is_billed_whole_at_its_tier() -> None:
    rates = {"input": Rate(Decimal(1), ((200, Decimal(2)),)), "output": 4}
    book = book_of(price(rates))
    costs = [quote(book, {"input_tokens": n, "output_tokens": 5}).cost for n in (200, 201)]
    assert costs == [Decimal("0.00022"), Decimal("0.000422")]


def test_a_tier_that_costs_nothing_is_free_and_one_without_a_price_is_not() -> None:
    for usd, cost in ((Decimal(0), 0), (None, None)):
        rate = Rate(Decimal(1), ((200, usd),))
        assert rates_from_json(rates_to_json({"input": rate})) == {"input": rate}
        assert quote(book_of(price({"input": rate}))).cost == cost


def test_reasoning_without_a_separate_rate_is_billed_as_output() -> None:
    call = {"input_tokens": 0, "output_tokens": 10**6, "reasoning_output_tokens": 10**5}
    assert quote(book_of(price({"output": 2})), call).cost == 2
    assert quote(book_of(price({"output": 2, "reasoning": 12})), call).cost == 3


def test_the_lines_of_a_cost_add_up_to_it() -> None:
    rates = price({"input": "0.15", "output": "0.6", "cache_read": "0.075"}).rates
    usage = used(
        {"provider": "p", "input_tokens": 70, "output_tokens": 3, "cached_input_tokens": 9}
    )
    lines = cost_lines(rates, usage)
    assert [(line.kind, int(line.quantity)) for line in lines] == [
        ("input", 61),
        ("cache_read", 9),
        ("output", 3),
    ]
    assert sum(line.amount for line in lines) == Decimal("0.000011625")


def test_costs_are_rounded_half_even_at_ten_places() -> None:
    book = book_of(price({"input": "0.00005"}))
    costs = [quote(book, {"input_tokens": tokens}).cost for tokens in (1, 3)]
    assert costs == [Decimal("0E-10"), Decimal("0.0000000002")]
