"""The registry's models as a layer of prices."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from llmring_server.listing import File
from llmring_server.offers import Dated, Named, Price
from llmring_server.rates import Rate, Rates

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


def layer(files: Iterable[File]) -> Named:
    """Make the layer of some files, the oldest first: each holds until the next one's time."""
    offers = defaultdict(list)
    for file in files:
        for name, model in _names(file).items():
            offers[file.provider, name, None].append(_price(file, name, model))
    return Named({name: Dated(prices) for name, prices in offers.items()})


def _names(file: File) -> dict[str, Mapping[str, Any]]:
    """Return models by name and alias; a model of a name goes before an alias that is like it."""
    models = {key.partition(":")[2]: model for key, model in file.models.items()}
    aliases = {
        alias: model for model in models.values() for alias in model.get("model_aliases") or ()
    }
    return aliases | models


def _price(file: File, name: str, model: Mapping[str, Any]) -> Price:
    return Price.of(
        provider=file.provider,
        model=name,
        service_tier=None,
        source="registry",
        version=f"{file.provider} {file.version}, file {file.id}",
        since=file.since,
        rates=_rates(model),
    )


def _rates(model: Mapping[str, Any]) -> Rates:
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
