"""What units of use cost: exact arithmetic, in USD.

Tokens that are said to be of one kind are taken out of the kind that holds them: a price is per
unit of one kind, and each unit is paid once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

import asyncpg
import orjson

MILLION, THOUSAND = 10**6, 10**3

# Costs are kept to this, and up to that.
COST_QUANTUM = Decimal(1).scaleb(-10)
MAX_COST = 10**9 - COST_QUANTUM

_NOTHING = Decimal(0)

# Kinds of use, and how many units of each a price is for.
UNITS_PER_PRICE = {
    "input": MILLION,
    "input_audio": MILLION,
    "input_image": MILLION,
    "input_video": MILLION,
    "cache_read": MILLION,
    "cache_read_audio": MILLION,
    "cache_read_image": MILLION,
    "cache_write": MILLION,
    "cache_write_1h": MILLION,
    "output": MILLION,
    "output_audio": MILLION,
    "output_image": MILLION,
    "reasoning": MILLION,
    "web_search": THOUSAND,
    "request": THOUSAND,
}

# What a field that says more adds to each kind, for each of its tokens.
USAGE_FIELDS: dict[str, dict[str, int]] = {
    "cache_creation_input_tokens": {"input": -1, "cache_write": 1},
    "cache_creation_1h_input_tokens": {"cache_write": -1, "cache_write_1h": 1},
    "audio_input_tokens": {"input": -1, "input_audio": 1},
    "image_input_tokens": {"input": -1, "input_image": 1},
    "video_input_tokens": {"input": -1, "input_video": 1},
    "cached_audio_input_tokens": {
        "input_audio": -1, "input": 1, "cache_read": -1, "cache_read_audio": 1,
    },
    "cached_image_input_tokens": {
        "input_image": -1, "input": 1, "cache_read": -1, "cache_read_image": 1,
    },
    "audio_output_tokens": {"output": -1, "output_audio": 1},
    "image_output_tokens": {"output": -1, "output_image": 1},
    "reasoning_output_tokens": {"output": -1, "reasoning": 1},
    "web_searches": {"web_search": 1},
}  # fmt: skip

# Their input tokens leave out those read from a cache or written to it:
# https://platform.claude.com/docs/en/build-with-claude/prompt-caching (Tracking cache performance),
# https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html
CACHE_EXCLUDED_FROM_INPUT = {"anthropic", "aws", "bedrock"}


class Rate(NamedTuple):
    """A price for `PER` units; above some lengths of the prompt another one, or None: unknown."""

    base: Decimal
    above: tuple[tuple[int, Decimal | None], ...] = ()

    def of(self, prompt: int) -> tuple[int, Decimal | None]:
        """Return where the tier of a prompt of so many tokens starts, and its price."""
        for start, price in reversed(self.above):
            # Providers bill the whole request at the tier that its prompt reaches.
            if prompt > start:
                return start, price
        return 0, self.base


Rates = Mapping[str, Rate]


class TokenUsage(NamedTuple):
    """What a call used, each unit of one kind; `prompt` is the whole input, cached or not."""

    prompt: int
    units: dict[str, int]


@dataclass(slots=True)
class CostLine:
    """One line of a bill: `quantity` units at `unit_price` USD for `per` of them."""

    kind: str
    quantity: int
    unit_price: Decimal
    per: int
    prompt_above: int
    amount: Decimal


class MissingRate(LookupError):
    """There is no price for one kind of what was used."""


def normalize_usage(
    provider: str, inputs: int, outputs: int, cached: int, details: Mapping[str, Any]
) -> TokenUsage:
    """Sort what a call reports into kinds.

    ValueError: it says to hold more tokens of some kind than it has.
    """
    written = details.get("cache_creation_input_tokens", 0)
    if provider.lower() in CACHE_EXCLUDED_FROM_INPUT or cached + written > inputs:
        inputs += cached + written
    outputs += reasoning_on_top(outputs, details)
    units = {"input": inputs - cached, "cache_read": cached, "output": outputs, "request": 1}
    for field in USAGE_FIELDS.keys() & details.keys():
        for kind, sign in USAGE_FIELDS[field].items():
            units[kind] = units.get(kind, 0) + sign * details[field]
    if min(units.values()) < 0:
        raise ValueError("tokens of one kind are more than the tokens that hold them")
    return TokenUsage(inputs, units)


def usage_of_row(row: asyncpg.Record) -> TokenUsage:
    """Sort what a stored call used into kinds."""
    tokens = row["input_tokens"], row["output_tokens"], row["cached_input_tokens"]
    return normalize_usage(row["provider"], *tokens, orjson.loads(row["details"] or "{}"))


def reasoning_on_top(outputs: int, details: Mapping[str, Any]) -> int:
    """Return the reasoning tokens that `outputs` cannot hold, and so must leave out."""
    reasoning: int = details.get("reasoning_output_tokens", 0)
    return reasoning if reasoning > outputs else 0


def priced_units(rates: Rates, used: TokenUsage) -> Iterator[tuple[str, int, int, Decimal]]:
    """Yield kind, quantity, start of the tier and unit price; Lacking names what has no price."""
    for kind, quantity in used.units.items():
        if quantity:
            # Reasoning is output, unless it has a price of its own: so every provider bills it.
            rate = rates.get(kind) or (rates.get("output") if kind == "reasoning" else None)
            if rate:
                start, price = rate.of(used.prompt)
                if price is not None:
                    yield kind, quantity, start, price
                    continue
            # Few models cost anything by the request.
            if kind != "request":
                raise MissingRate(kind)


def cost(rates: Rates, used: TokenUsage) -> Decimal:
    """Return what was used costs, rounded half-even."""
    amounts = (
        price * quantity / UNITS_PER_PRICE[kind]
        for kind, quantity, _, price in priced_units(rates, used)
    )
    return sum(amounts, _NOTHING).quantize(COST_QUANTUM)


def cost_lines(rates: Rates, used: TokenUsage) -> list[CostLine]:
    """Return the same line by line."""
    return [
        CostLine(
            kind,
            quantity,
            price,
            UNITS_PER_PRICE[kind],
            start,
            price * quantity / UNITS_PER_PRICE[kind],
        )
        for kind, quantity, start, price in priced_units(rates, used)
    ]
