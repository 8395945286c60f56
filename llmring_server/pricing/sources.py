"""Price sources: overrides of the operator, the model registry, the built-in genai-prices.

Each makes the prices that the price book tries, in this order.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from operator import itemgetter
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

from llmring_server.pricing.corrections import Correction, correction_of
from llmring_server.pricing.cost import UNITS_PER_PRICE, Rate, Rates
from llmring_server.pricing.model_names import date_of
from llmring_server.pricing.price_book import (
    EPOCH,
    DatedPrices,
    Price,
    PriceHistory,
    PriceTable,
    rates_from_json,
    rates_to_json,
)
from llmring_server.pricing.service_tiers import normal_tier
from llmring_server.registry.models import ProviderFile
from llmring_server.registry.price_fields import PRICE_FIELDS, REGISTRY_PRICE_FIELDS

if TYPE_CHECKING:
    from genai_prices.types import MatchLogic, ModelInfo, ModelPrice, Provider

# Overrides


MAX_OVERRIDE_USD = 1_000_000


def _exact(value: object) -> object:
    """Take the number that was written: 0.1 is a tenth, not the float next to it."""
    return str(value) if isinstance(value, float) else value


def _known_kind(kind: str) -> str:
    if kind not in UNITS_PER_PRICE:
        raise ValueError(f"must be one of {', '.join(UNITS_PER_PRICE)}")
    return kind


Amount = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0, le=MAX_OVERRIDE_USD)]
Kind = Annotated[str, AfterValidator(_known_kind)]


class TieredRate(BaseModel, extra="forbid"):
    """A price, and the prices of prompts that are longer than a number of tokens."""

    base: Amount
    above: dict[Annotated[int, Field(gt=0)], Amount]

    def rate(self) -> Rate:
        return Rate(self.base, tuple(sorted(self.above.items())))


class PriceOverride(BaseModel, extra="forbid"):
    """A price that the operator sets, in USD.

    It is for 10^6 tokens or characters, 10^3 requests or searches, an hour of audio, an image, or a
    second of video.
    """

    provider: Annotated[str, StringConstraints(pattern=r"^\S{1,50}$", to_lower=True)]
    model: Annotated[str, Field(min_length=1, max_length=255)]
    service_tier: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    valid_from: AwareDatetime = EPOCH
    rates: Annotated[dict[Kind, Amount | TieredRate], Field(min_length=1)]

    def row(self) -> dict[str, Any]:
        """Return the columns of this override."""
        rates = {
            kind: rate.rate() if isinstance(rate, TieredRate) else Rate(rate)
            for kind, rate in self.rates.items()
        }
        return {
            "provider": self.provider,
            "model": self.model,
            "service_tier": self.service_tier and normal_tier(self.service_tier),
            "valid_from": self.valid_from,
            "rates": rates_to_json(rates),
        }


OVERRIDES = TypeAdapter(list[PriceOverride])


def override_prices(rows: Iterable[asyncpg.Record]) -> Iterator[Price]:
    """Yield the prices of overrides, made from their rows."""
    for row in rows:
        yield Price(
            provider=row["provider"],
            model=row["model"],
            service_tier=row["service_tier"] or None,
            source="override",
            version=f"{row['created_at']:%Y-%m-%dT%H:%M:%SZ}",
            valid_from=None if row["valid_from"] == EPOCH else row["valid_from"],
            rates=rates_from_json(orjson.loads(row["rates"])),
        )


def override_source(rows: Iterable[asyncpg.Record]) -> PriceTable:
    """Make the price source of overrides from their rows.

    Two spellings of a provider may have an override of the same model and date: the newer counts.
    """
    return PriceTable.of_prices(override_prices(sorted(rows, key=itemgetter("created_at"))))


# The model registry


def registry_source(files: Iterable[ProviderFile]) -> PriceTable:
    """Make the price source of registry files, oldest first: each is valid until the next one."""
    return PriceTable.of_prices(
        _registry_price(file, name, model)
        for file in files
        for name, model in _models_by_name(file).items()
    )


def _models_by_name(file: ProviderFile) -> dict[str, Mapping[str, Any]]:
    """Return models by name and alias; a model's name takes precedence over an equal alias.

    An alias with a date is another version unless the model has this date, and other versions have
    other prices: the registry calls gpt-4o-2024-05-13 an alias of gpt-4o-2024-08-06.
    """
    models = {key.partition(":")[2]: model for key, model in file.models.items()}
    aliases = {
        alias: model
        for name, model in models.items()
        for alias in model.get("model_aliases") or ()
        if date_of(alias) in {"", date_of(name)}
    }
    return aliases | models


def _registry_price(file: ProviderFile, name: str, model: Mapping[str, Any]) -> Price:
    return Price(
        provider=file.provider,
        model=name,
        service_tier=None,
        source="registry",
        version=f"{file.provider} {file.version}, file {file.id}",
        valid_from=file.valid_from,
        rates=_registry_rates(model),
    )


def _registry_rates(model: Mapping[str, Any]) -> Rates:
    threshold = None
    if model.get("supports_long_context_pricing"):
        threshold = model.get("long_context_threshold_tokens")
    rates = {}
    for field in REGISTRY_PRICE_FIELDS:
        base = _first_price(model, field.registry_fields)
        if base is not None:
            # Without a price for long prompts, they are left to other sources.
            long = _first_price(model, [field.long_context_field]) if threshold else None
            rates[field.kind] = Rate(base, ((threshold, long),) if threshold else ())
    return rates


def _first_price(model: Mapping[str, Any], fields: Iterable[str]) -> Decimal | None:
    for field in fields:
        price = model.get(field)
        if price is not None:
            return Decimal(str(price))
    return None


# The built-in price book: genai-prices


# genai-prices has conditions for some service tiers; other tiers have none.
_TIER_CONTEXTS: dict[str | None, dict[str, str]] = {
    None: {},
    "batch": {"processing": "batch"},
    "fast": {"service_tier": "fast", "speed": "fast"},
}


def price_context(tier: str | None) -> dict[str, str]:
    """Return a service tier as genai-prices describes it."""
    return _TIER_CONTEXTS.get(tier, {"service_tier": tier or ""})


@cache
def genai_providers() -> "list[Provider]":
    """Load the data of genai-prices, which takes 0.2 s and 30 MB the first time."""
    from genai_prices.data import providers  # noqa: PLC0415, not loaded by those who price nothing

    return providers


@cache
def _genai_sellers() -> "dict[str, Provider]":
    """Return the providers of genai-prices by their ids."""
    return {provider.id: provider for provider in genai_providers()}


# What genai-prices calls the providers that it has another name for. It has one price list for
# Google: that of the Gemini API, which is Vertex AI's, too, and Claude's at Vertex AI.
_GENAI_IDS = {
    "bedrock": "aws",
    "github_copilot": "github-copilot",
    "vertex_ai": "google",
    "xai": "x-ai",
}


# Google and xAI list a price for audio, images or video only where it is not the price of text:
# https://ai.google.dev/gemini-api/docs/pricing, https://docs.x.ai/docs/models
PRICED_AS_TEXT = {
    "input_audio": "input",
    "input_image": "input",
    "input_video": "input",
    "cache_read_audio": "cache_read",
    "cache_read_image": "cache_read",
}


class GenaiPrices:
    """The price source of everything in genai-prices, with our own corrections."""

    def find(self, provider: str, model: str, tier: str | None) -> PriceHistory | None:
        found = self._find(provider, model)
        if found is None:
            return _free_model(provider, model, tier)
        seller, info = found
        # A provider has no separate prices for other tiers of a model that it resells.
        is_own = any(info is own for own in seller.models)
        if tier and not is_own:
            return None
        correction = correction_of(seller.id, info.id) if is_own else None
        if correction and correction.free:
            return _free_model(provider, info.id, tier)
        return _GenaiModel(seller.id, info, tier, correction)

    def knows(self, provider: str, model: str) -> bool:
        return self._find(provider, model) is not None

    def models(self, provider: str) -> Iterator[str]:
        seller = _genai_sellers().get(_GENAI_IDS.get(provider, provider))
        for info in seller.models if seller else ():
            yield info.id
            yield from _names_in(info.match)

    @staticmethod
    def _find(provider: str, model: str) -> "tuple[Provider, ModelInfo] | None":
        # genai-prices itself would take a name for any that it contains, but what tokens mean would
        # not follow: see `recognized_provider`.
        seller = _genai_sellers().get(_GENAI_IDS.get(provider, provider))
        providers = genai_providers()
        info = seller and seller.find_model(model, all_providers=providers)
        return (seller, info) if seller and info else None


def _names_in(match: "MatchLogic") -> Iterator[str]:
    """Yield the complete names that a rule of genai-prices matches; others are patterns."""
    if name := getattr(match, "equals", None):
        yield name
    for alternative in getattr(match, "or_", ()):
        yield from _names_in(alternative)


def _free_model(provider: str, model: str, tier: str | None) -> PriceHistory | None:
    """Return the prices of a model whose tokens are free, if it is one."""
    correction = correction_of(provider, model)
    if not correction or not correction.free or tier:
        return None
    price = Price(
        provider=provider,
        model=model,
        service_tier=None,
        source="offline",
        version=_genai_version(correction),
        valid_from=None,
        rates={field.kind: Rate(Decimal(0)) for field in PRICE_FIELDS if field.is_token},
    )
    return DatedPrices([price])


def _genai_version(correction: Correction | None) -> str:
    name = f"genai-prices {version('genai-prices')}"
    if correction is None:
        return name
    return f"{name}, corrected on {correction.checked}: {correction.source}"


class _GenaiModel:
    """The price history of one model of genai-prices in one service tier."""

    def __init__(
        self, provider: str, model: "ModelInfo", tier: str | None, correction: Correction | None
    ) -> None:
        if correction:
            model = _corrected(model, correction)
        self._provider = provider
        self._model = model
        self._tier = tier
        self._version = _genai_version(correction)
        self._context = price_context(tier)
        self._variants = [
            variant
            for variant in model.price_variants or ()
            if variant.when.items() <= self._context.items()
        ]
        conditional = model.prices if isinstance(model.prices, list) else []
        constraints = [price.constraint for price in conditional]
        constraints += [variant.constraint for variant in self._variants]
        self._constraints = [constraint for constraint in constraints if constraint]
        # Only what holds at a time decides the price: there are few combinations.
        self._prices: dict[tuple[bool, ...], Price | None] = {}

    def at(self, when: datetime) -> Price | None:
        active = tuple([constraint.active(when) for constraint in self._constraints])
        if active not in self._prices:
            self._prices[active] = self._price(when)
        return self._prices[active]

    def _price(self, when: datetime) -> Price | None:
        if self._tier and not any(
            variant.constraint is None or variant.constraint.active(when)
            for variant in self._variants
        ):
            return None
        return Price(
            provider=self._provider,
            model=self._model.id,
            service_tier=self._tier,
            source="offline",
            version=self._version,
            valid_from=self._valid_from(when),
            rates=self._with_modalities(_genai_rates(self._model.get_prices(when, self._context))),
        )

    def _with_modalities(self, rates: Rates) -> Rates:
        """Add the rates that some providers do not list, since they are those of text."""
        if self._provider not in {"google", "x-ai"}:
            return rates
        same = {kind: rates[text] for kind, text in PRICED_AS_TEXT.items() if text in rates}
        return {**same, **rates}

    def _valid_from(self, when: datetime) -> datetime | None:
        """Return the last date, up to a time, on which a price changed."""
        starts = [getattr(constraint, "start_date", None) for constraint in self._constraints]
        past = [start for start in starts if start and start <= when.date()]
        return datetime.combine(max(past), datetime.min.time(), when.tzinfo) if past else None


def _corrected(model: "ModelInfo", correction: Correction) -> "ModelInfo":
    """Return a model whose prices by time of day are those of the correction."""
    from genai_prices.types import (  # noqa: PLC0415, likewise
        ConditionalPrice,
        ModelPrice,
        TimeOfDateConstraint,
    )

    kept = [
        price
        for price in (model.prices if isinstance(model.prices, list) else [])
        if not isinstance(price.constraint, TimeOfDateConstraint)
    ]
    ours = [
        ConditionalPrice(hours, prices=ModelPrice(**rates))  # type: ignore[arg-type]
        for hours, rates in correction.hours
    ]
    return replace(model, prices=kept + ours)


def _genai_rates(prices: "ModelPrice") -> Rates:
    rates = {}
    for field in PRICE_FIELDS:
        price = getattr(prices, field.genai) if field.genai else None
        if price is None:
            continue
        if hasattr(price, "tiers"):
            rates[field.kind] = Rate(
                price.base, tuple((tier.start, tier.price) for tier in price.tiers)
            )
        else:
            rates[field.kind] = Rate(price)
    return rates
