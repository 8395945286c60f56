"""The price book that is there without a network: the package genai-prices, in our own terms."""

from datetime import datetime
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

from llmring_server.offers import Offer, Price
from llmring_server.rates import Rate, Rates

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


class Offline:
    """The layer of everything in the book."""

    def find(self, provider: str, model: str, tier: str | None) -> Offer | None:
        from genai_prices.data_snapshot import find_provider_by_id  # noqa: PLC0415, likewise

        seller = find_provider_by_id(providers(), provider)
        found = seller and seller.find_model(model, all_providers=providers())
        if not seller or not found:
            return None
        # What a provider resells has no price of its own in another tier.
        own = any(found is each for each in seller.models)
        return _Listed(seller.id, found, tier) if own or not tier else None


class _Listed:
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
