"""Our own corrections to the built-in price book, and whether they still correct something."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices.types import ModelInfo

from llmring_server.pricing import sources
from llmring_server.pricing.corrections import CORRECTIONS, Correction, entry_digest
from llmring_server.pricing.price_book import PriceBook
from tests.conftest import used

BOOK = PriceBook([sources.GenaiPrices()])


@pytest.mark.parametrize(
    ("model", "when", "cost"),
    [
        # Monday to Friday at 01:00 to 04:00 and 06:00 to 10:00 (UTC) are peak hours.
        ("deepseek-v4-pro", "2026-11-29T02:30", "0.66"),  # Sunday
        ("deepseek-v4-pro", "2026-11-28T02:30", "0.66"),  # Saturday
        ("deepseek-v4-pro", "2026-11-27T02:30", "1.32"),  # Friday
        ("deepseek-v4-pro", "2026-11-30T00:59:59", "0.66"),  # Monday
        ("deepseek-v4-pro", "2026-11-30T01:00", "1.32"),
        ("deepseek-v4-pro", "2026-11-30T03:59:59.999999", "1.32"),
        ("deepseek-v4-pro", "2026-11-30T04:00", "0.66"),
        ("deepseek-v4-pro", "2026-11-30T09:59:59", "1.32"),
        ("deepseek-v4-pro", "2026-11-30T10:00", "0.66"),
        ("deepseek-v4-pro-0813", "2026-11-29T02:30", "0.66"),
        # Every day until 2026-08-23, and no peak hours before 2026-08-17.
        ("deepseek-v4-pro", "2026-08-22T02:30", "1.32"),  # Saturday
        ("deepseek-v4-pro", "2026-08-23T02:30", "0.66"),  # Sunday
        ("deepseek-v4-pro", "2026-08-14T02:30", "0.435"),
        ("deepseek-v4-flash", "2026-11-29T02:30", "0.15"),
        ("deepseek-v4-flash", "2026-11-30T02:30", "0.3"),
        ("deepseek-v4-flash", "2026-08-20T02:30", "0.44"),
        ("deepseek-v4-flash", "2026-08-20T12:00", "0.22"),
        ("deepseek-flash", "2026-11-29T07:00", "0.15"),
        ("deepseek-flash", "2026-11-30T07:00", "0.3"),
    ],
)
@pytest.mark.parametrize("provider", ["deepseek", "DeepSeek"])
def test_peak_hours_are_those_of_working_days(
    provider: str, model: str, when: str, cost: str
) -> None:
    usage = used({"provider": provider, "input_tokens": 10**6, "output_tokens": 0})
    at = datetime.fromisoformat(when).replace(tzinfo=UTC)
    assert BOOK.quote(provider, model, None, usage, at).cost == Decimal(cost)


def corrected_models(correction: Correction) -> list[ModelInfo]:
    [provider] = (each for each in sources.genai_providers() if each.id == correction.provider)
    ending = correction.model.removeprefix("*")
    return [
        model
        for model in provider.models
        if (model.id.endswith(ending) if ending != correction.model else model.id == ending)
    ]


@pytest.mark.parametrize("correction", CORRECTIONS, ids=lambda each: each.model)
def test_a_correction_is_about_the_entry_of_the_installed_price_book(
    correction: Correction,
) -> None:
    """If this fails, genai-prices has changed the entry.

    Read it and the source again: remove the correction if the entry is right now, else renew its
    date, its prices and `entry`.
    """
    models = corrected_models(correction)
    assert models
    assert {entry_digest(model) for model in models} == {correction.entry}


@pytest.mark.parametrize("correction", CORRECTIONS, ids=lambda each: each.model)
def test_a_corrected_price_names_its_source(correction: Correction) -> None:
    model = correction.model.replace("*", "a/b")
    [history] = BOOK.histories(correction.provider, model, None)
    price = history.at(datetime(2026, 11, 30, tzinfo=UTC))
    assert price
    assert price.version.endswith(f"corrected on {correction.checked}: {correction.source}")
