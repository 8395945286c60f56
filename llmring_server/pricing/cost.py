"""Cost of a call: its usage, sorted into kinds, times the rate of each kind; exact, in USD.

`PriceBook.quote` chooses the price, `cost` multiplies.

A call may report that some of its tokens are of a special kind (audio, cached, reasoning). They are
subtracted from the kind that includes them, so that every unit is billed once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias

import asyncpg
import orjson

from llmring_server.core.numbers import MAX_COUNT
from llmring_server.pricing.token_semantics import ReportedTokens, TokenReading
from llmring_server.registry.price_fields import PRICE_FIELDS

# Costs are stored with ten decimal places, and below a billion.
COST_QUANTUM = Decimal(1).scaleb(-10)
MAX_COST = 10**9 - COST_QUANTUM

_ZERO = Decimal(0)

# The kinds of usage, and how many units of each a price is for.
UNITS_PER_PRICE = {field.kind: field.units for field in PRICE_FIELDS}

# The detailed fields of a call: by kind, what each unit that they count adds or takes away.
USAGE_FIELDS: dict[str, dict[str, int]] = {
    "cache_creation_input_tokens": {"input": -1, "cache_write": 1},
    "cache_creation_1h_input_tokens": {"cache_write": -1, "cache_write_1h": 1},
    "audio_input_tokens": {"input": -1, "input_audio": 1},
    "image_input_tokens": {"input": -1, "input_image": 1},
    "video_input_tokens": {"input": -1, "input_video": 1},
    # Cached audio counts as audio and as cached, so it was subtracted from the input twice.
    "cached_audio_input_tokens": {
        "input": 1,
        "input_audio": -1,
        "cache_read": -1,
        "cache_read_audio": 1,
    },
    "cached_image_input_tokens": {
        "input": 1,
        "input_image": -1,
        "cache_read": -1,
        "cache_read_image": 1,
    },
    "audio_output_tokens": {"output": -1, "output_audio": 1},
    "image_output_tokens": {"output": -1, "output_image": 1},
    "reasoning_output_tokens": {"output": -1, "reasoning": 1},
    "web_searches": {"web_search": 1},
    "audio_seconds": {"audio_second": 1},
    "video_seconds": {"video_second": 1},
    "characters": {"character": 1},
    "images": {"image": 1},
    # Instead of the one request that a call is.
    "requests": {},
}

# Fields that may have a fraction.
DECIMAL_FIELDS = ("audio_seconds", "video_seconds")
# Fields that say how to read others.
FLAGS = ("cache_tokens_included", "reasoning_tokens_included")

# The field that counts a kind together with its special kinds.
TOTAL_FIELDS = {
    "input": "input_tokens",
    "input_audio": "audio_input_tokens",
    "input_image": "image_input_tokens",
    "cache_read": "cached_input_tokens",
    "cache_write": "cache_creation_input_tokens",
    "output": "output_tokens",
}

# A number of units: whole, except for seconds.
Quantity: TypeAlias = int | Decimal


class Rate(NamedTuple):
    """A price for `UNITS_PER_PRICE` units; longer prompts may have another one.

    `above` are pairs of a number of prompt tokens, ascending, and the price of prompts that exceed
    it. None: that price is unknown.
    """

    base: Decimal
    above: tuple[tuple[int, Decimal | None], ...] = ()

    def tier(self, prompt_tokens: int) -> tuple[int, Decimal | None]:
        """Return the threshold that a prompt exceeds, 0 if none, and its price."""
        for threshold, price in reversed(self.above):
            # Providers bill the whole request at the tier that its prompt reaches.
            if prompt_tokens > threshold:
                return threshold, price
        return 0, self.base


Rates = Mapping[str, Rate]


class TokenUsage(NamedTuple):
    """The usage of a call, each unit of one kind; `prompt_tokens` is all input, cached or not."""

    prompt_tokens: int
    units: dict[str, Quantity]


@dataclass(slots=True)
class CostLine:
    """One line of a cost: `quantity` units at `unit_price` USD for `per` of them."""

    kind: str
    quantity: Decimal
    unit_price: Decimal
    per: int
    prompt_above: int
    amount: Decimal


class MissingRate(LookupError):
    """A kind of usage, which the message names, has no price."""


def normalize_usage(tokens: ReportedTokens, reading: TokenReading | None = None) -> TokenUsage:
    """Sort the usage that a call reports into kinds, by default as `tokens.reading()` says.

    ValueError names the fields that count more tokens than the field that includes them.
    """
    details = tokens.details
    prompt_tokens = tokens.input
    output_tokens = tokens.output
    if tokens.cached or details:
        reading = reading or tokens.reading()
        if not reading.cache_included:
            prompt_tokens += tokens.cache
        if not reading.reasoning_included:
            output_tokens += tokens.reasoning
    units: dict[str, Quantity] = {
        "input": prompt_tokens - tokens.cached,
        "cache_read": tokens.cached,
        "output": output_tokens,
        "request": details.get("requests", 1),
    }
    for field, count in details.items():
        if field in USAGE_FIELDS:
            for kind, sign in USAGE_FIELDS[field].items():
                units[kind] = units.get(kind, 0) + sign * count
    if min(units.values()) < 0:
        parts = {**details, "cached_input_tokens": tokens.cached}
        if prompt_tokens > tokens.input:
            del parts["cached_input_tokens"]
            parts.pop("cache_creation_input_tokens", None)
        raise ValueError(_excess(units, parts))
    return TokenUsage(prompt_tokens, units)


def _excess(units: Mapping[str, Quantity], parts: Mapping[str, Any]) -> str:
    """Say which of `parts`, fields of a call, exceed the field that includes them."""
    kind = next(kind for kind in TOTAL_FIELDS if units.get(kind, 0) < 0)
    effects = {"cached_input_tokens": {"input": -1}, **USAGE_FIELDS}
    fields = [
        field for field in effects if effects[field].get(kind, 0) < 0 and parts.get(field, 0) > 0
    ]
    return f"{' + '.join(fields)} must not exceed {TOTAL_FIELDS[kind]}"


def tokens_of_row(row: asyncpg.Record) -> ReportedTokens:
    """Return the tokens that a stored call reports.

    ValueError if its details are none: earlier versions imported them without looking at them.
    """
    details = orjson.loads(row["details"] or "{}") or {}
    if not isinstance(details, dict):
        raise ValueError("details must be an object")  # noqa: TRY004, like other bad details
    for field, value in details.items():
        if field in DECIMAL_FIELDS and type(value) in {int, float}:
            # The shortest text of a float has the digits that were stored, since they are few.
            details[field] = Decimal(str(value))
        if not _is_detail(field, details[field]):
            raise ValueError(f"{field} is not valid")
    return ReportedTokens(
        row["provider"],
        row["model"],
        row["input_tokens"],
        row["output_tokens"],
        row["cached_input_tokens"],
        details,
    )


def _is_detail(field: str, value: object) -> bool:
    """Tell whether a member of stored details is one that a call can have, or of no importance."""
    if field in FLAGS:
        return isinstance(value, bool)
    if field in USAGE_FIELDS:
        expected = Decimal if field in DECIMAL_FIELDS else int
        return type(value) is expected and 0 <= value <= MAX_COUNT
    return True


def priced_units(rates: Rates, usage: TokenUsage) -> list[tuple[str, Quantity, int, Decimal]]:
    """Return each kind, its quantity, the threshold of its tier, and its unit price.

    MissingRate names a kind that has no price. A call of nothing costs nothing, but only if
    something that it reports has a price: 0 tokens of a model that is billed by the second of audio
    do not say what was used.
    """
    priced = []
    for kind, quantity in usage.units.items():
        if not quantity:
            continue
        rate = rates.get(kind)
        if rate is None and kind == "reasoning":
            # Every provider bills reasoning as output unless reasoning has a separate price.
            rate = rates.get("output")
        threshold, price = rate.tier(usage.prompt_tokens) if rate else (0, None)
        if price is not None:
            priced.append((kind, quantity, threshold, price))
        elif kind != "request":
            # Few models have a price for the request itself.
            raise MissingRate(kind)
    if not priced and rates.keys().isdisjoint(usage.units):
        raise MissingRate("tokens")
    return priced


def cost(rates: Rates, usage: TokenUsage) -> Decimal:
    """Return the cost of a usage, rounded half-even."""
    total = _ZERO
    for kind, quantity, _, unit_price in priced_units(rates, usage):
        total += unit_price * quantity / UNITS_PER_PRICE[kind]
    return total.quantize(COST_QUANTUM)


def cost_lines(rates: Rates, usage: TokenUsage) -> list[CostLine]:
    """Return the cost of a usage, one line for each kind."""
    return [
        CostLine(
            kind=kind,
            quantity=Decimal(quantity),
            unit_price=unit_price,
            per=UNITS_PER_PRICE[kind],
            prompt_above=threshold,
            amount=unit_price * quantity / UNITS_PER_PRICE[kind],
        )
        for kind, quantity, threshold, unit_price in priced_units(rates, usage)
    ]
