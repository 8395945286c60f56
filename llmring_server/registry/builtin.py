"""Built-in registry: the models and prices of the installed genai-prices, as registry files.

They need no network: they serve providers of which no file was ever fetched.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llmring_server.registry.models import EPOCH, ProviderFile, exact_json, parse_model
from llmring_server.registry.price_fields import REGISTRY_PRICE_FIELDS

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider


@lru_cache(maxsize=4)
def builtin_files(providers: tuple[str, ...], day: date) -> Mapping[str, ProviderFile]:
    """Return the files of those `providers` that genai-prices knows, with the prices of `day`."""
    from genai_prices.data import providers as known  # noqa: PLC0415, takes 20 MB and 0.2 s

    return {provider.id: _file(provider, day) for provider in known if provider.id in providers}


def _file(provider: "Provider", day: date) -> ProviderFile:
    when = datetime.combine(day, time(), UTC)
    changes = [change for change in _price_changes(provider.models) if change <= when]
    valid_from = max(changes, default=EPOCH)
    models = {}
    for model in provider.models:
        key = f"{provider.id}:{model.id}"
        models[key] = parse_model(provider.id, key, _fields(model, when))
    document = {
        "provider": provider.id,
        "version": 0,
        "updated_at": valid_from,
        "models": models,
    }
    return ProviderFile(
        id=0,
        provider=provider.id,
        version=0,
        valid_from=valid_from,
        fetched_at=valid_from,
        models=models,
        content=exact_json(document),
    )


def _price_changes(models: Sequence["ModelInfo"]) -> Iterator[datetime]:
    """Yield the times at which a price changes or changed."""
    for model in models:
        for conditional in model.prices if isinstance(model.prices, list) else ():
            start = getattr(conditional.constraint, "start_date", None)
            if start:
                yield datetime.combine(start, time(), UTC)


def _fields(model: "ModelInfo", when: datetime) -> dict[str, Any]:
    """Return a model as the registry describes it."""
    fields: dict[str, Any] = {
        "display_name": model.name or model.id,
        "description": model.description,
        "max_input_tokens": model.context_window,
    }
    prices = model.get_prices(when)
    for field in REGISTRY_PRICE_FIELDS:
        price = getattr(prices, field.genai)
        fields[field.registry_fields[0]] = getattr(price, "base", price)
        tiers = getattr(price, "tiers", ())
        # The registry has one threshold for a model, and these two prices above it.
        if tiers and field.kind in {"input", "output"}:
            fields[field.long_context_field] = tiers[0].price
            fields["long_context_threshold_tokens"] = tiers[0].start
            fields["supports_long_context_pricing"] = True
    return fields
