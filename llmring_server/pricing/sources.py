"""The price book that is there without a network: the package genai-prices, in our own terms."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import asyncpg
import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    TypeAdapter,
)

from llmring_server.pricing.cost import UNITS_PER_PRICE, Rate, Rates
from llmring_server.pricing.price_book import (
    EVER,
    STANDARD,
    DatedPrices,
    Price,
    PriceHistory,
    PriceTable,
    rates_from_json,
    rates_to_json,
)
from llmring_server.registry.models import ProviderFile

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider


KINDS = {
    "input_mtok": "input",
    "input_audio_mtok": "input_audio",
    "input_image_mtok": "input_image",
    "input_video_mtok": "input_video",
    "cache_read_mtok": "cache_read",
    "cache_audio_read_mtok": "cache_read_audio",
    "cache_image_read_mtok": "cache_read_image",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_mtok": "output",
    "output_audio_mtok": "output_audio",
    "output_image_mtok": "output_image",
    "output_reasoning_mtok": "reasoning",
    "web_searches_kcount": "web_search",
    "requests_kcount": "request",
}


# What the book calls some service tiers.
CONTEXTS = {
    None: {},
    "batch": {"processing": "batch"},
    "fast": {"service_tier": "fast", "speed": "fast"},
}


def context(tier: str | None) -> dict[str, str]:
    return CONTEXTS.get(tier, {"service_tier": tier or ""})


@cache
def providers() -> "list[Provider]":
    """Load the book: a fifth of a second and 30 MB, the first time."""
    from genai_prices.data import providers  # noqa: PLC0415, for those who price nothing

    return providers


class GenaiPrices:
    """The layer of everything in the book."""

    def find(self, provider: str, model: str, tier: str | None) -> PriceHistory | None:
        from genai_prices.data_snapshot import find_provider_by_id  # noqa: PLC0415, likewise

        seller = find_provider_by_id(providers(), provider)
        found = seller and seller.find_model(model, all_providers=providers())
        if not seller or not found:
            return None
        # What a provider resells has no price of its own in another tier.
        own = any(found is each for each in seller.models)
        return _GenaiModel(seller.id, found, tier) if own or not tier else None


class _GenaiModel:
    def __init__(self, provider: str, model: "ModelInfo", tier: str | None) -> None:
        self._provider, self._model, self._tier = provider, model, tier
        self._context = context(tier)
        self._variants = [
            each
            for each in model.price_variants or ()
            if each.when.items() <= self._context.items()
        ]
        conditional = model.prices if isinstance(model.prices, list) else []
        either = [each.constraint for each in conditional] + [
            each.constraint for each in self._variants
        ]
        self._constraints = [each for each in either if each]
        self._prices: dict[tuple[bool, ...], Price | None] = {}

    def at(self, when: datetime) -> Price | None:
        active = tuple(each.active(when) for each in self._constraints)
        if active not in self._prices:
            self._prices[active] = self._price(when)
        return self._prices[active]

    def _price(self, when: datetime) -> Price | None:
        if self._tier and not any(
            each.constraint is None or each.constraint.active(when) for each in self._variants
        ):
            return None
        return Price.of(
            provider=self._provider,
            model=self._model.id,
            service_tier=self._tier,
            source="offline",
            version=f"genai-prices {version('genai-prices')}",
            since=self._since(when),
            rates=_rates(self._model.get_prices(when, self._context)),
        )

    def _since(self, when: datetime) -> datetime | None:
        """Return the last day, until then, that changed a price."""
        starts = [getattr(each, "start_date", None) for each in self._constraints]
        passed = [day for day in starts if day and day <= when.date()]
        return datetime.combine(max(passed), datetime.min.time(), when.tzinfo) if passed else None


def _rates(prices: "ModelPrice") -> Rates:
    given = {kind: getattr(prices, key) for key, kind in KINDS.items()}
    return {
        kind: Rate(price.base, tuple((tier.start, tier.price) for tier in price.tiers))
        if hasattr(price, "tiers")
        else Rate(price)
        for kind, price in given.items()
        if price is not None
    }


USD = "dollars_per_million_tokens_"


# The registry says the same thing in different ways: the first that is there counts.
FIELDS = {
    "input": ("input",),
    "output": ("output",),
    "cache_read": ("cache_read", "cached_input"),
    "cache_write": ("cache_write_5m",),
    "cache_write_1h": ("cache_write_1h",),
    "reasoning": ("output_thinking",),
}


def registry_source(files: Iterable[ProviderFile]) -> PriceTable:
    """Make the layer of some files, the oldest first: each holds until the next one's time."""
    offers = defaultdict(list)
    for file in files:
        for name, model in _names(file).items():
            offers[file.provider, name, None].append(_price(file, name, model))
    return PriceTable({name: DatedPrices(prices) for name, prices in offers.items()})


def _names(file: ProviderFile) -> dict[str, Mapping[str, Any]]:
    """Return models by name and alias; a model of a name goes before an alias that is like it."""
    models = {key.partition(":")[2]: model for key, model in file.models.items()}
    aliases = {
        alias: model for model in models.values() for alias in model.get("model_aliases") or ()
    }
    return aliases | models


def _price(file: ProviderFile, name: str, model: Mapping[str, Any]) -> Price:
    return Price.of(
        provider=file.provider,
        model=name,
        service_tier=None,
        source="registry",
        version=f"{file.provider} {file.version}, file {file.id}",
        since=file.since,
        rates=_registry_rates(model),
    )


def _registry_rates(model: Mapping[str, Any]) -> Rates:
    start = model.get("long_context_threshold_tokens")
    long = start if model.get("supports_long_context_pricing") else None
    return {
        kind: Rate(base, ((long, _usd(model, f"{kind}_long_context")),) if long else ())
        for kind, fields in FIELDS.items()
        if (base := _usd(model, *fields)) is not None
    }


def _usd(model: Mapping[str, Any], *fields: str) -> Decimal | None:
    given = (model.get(USD + field) for field in fields)
    return next((Decimal(str(usd)) for usd in given if usd is not None), None)


MAX_PRICE = 1_000_000


def _exact(value: object) -> object:
    return str(value) if isinstance(value, float) else value


def _known(kind: str) -> str:
    if kind not in UNITS_PER_PRICE:
        raise ValueError(f"must be one of {', '.join(UNITS_PER_PRICE)}")
    return kind


Amount = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0, le=MAX_PRICE)]


Kind = Annotated[str, AfterValidator(_known)]


class TieredRate(BaseModel, extra="forbid"):
    """A price, and other ones for prompts that are longer than so many tokens."""

    base: Amount
    above: dict[Annotated[int, Field(gt=0)], Amount]


class PriceOverride(BaseModel, extra="forbid"):
    """USD for a million tokens, or a thousand requests or searches, of each kind."""

    provider: Annotated[str, StringConstraints(pattern=r"^\S{1,50}$", to_lower=True)]
    model: Annotated[str, Field(min_length=1, max_length=255)]
    service_tier: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    since: AwareDatetime = EVER
    rates: Annotated[dict[Kind, Amount | TieredRate], Field(min_length=1)]

    def row(self) -> dict[str, Any]:
        rates = {kind: _rate(price) for kind, price in self.rates.items()}
        tier = None if self.service_tier in STANDARD else self.service_tier
        return self.model_dump(exclude={"rates"}) | {
            "service_tier": tier,
            "rates": rates_to_json(rates),
        }


OVERRIDES = TypeAdapter(list[PriceOverride])


def _rate(price: Decimal | TieredRate) -> Rate:
    if isinstance(price, TieredRate):
        return Rate(price.base, tuple(sorted(price.above.items())))
    return Rate(price)


def override_source(rows: Iterable[asyncpg.Record]) -> PriceTable:
    """Make the layer of overrides from their rows."""
    offers = defaultdict(list)
    for price in override_prices(rows):
        offers[price.provider, price.model, price.service_tier].append(price)
    return PriceTable({name: DatedPrices(found) for name, found in offers.items()})


def override_prices(rows: Iterable[asyncpg.Record]) -> Iterator[Price]:
    for row in rows:
        yield Price.of(
            provider=row["provider"],
            model=row["model"],
            service_tier=row["service_tier"] or None,
            source="override",
            version=f"{row['made_at']:%Y-%m-%dT%H:%M:%SZ}",
            since=None if row["since"] == EVER else row["since"],
            rates=rates_from_json(orjson.loads(row["rates"])),
        )
