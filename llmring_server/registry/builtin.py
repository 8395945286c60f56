"""The offline book: the models and prices that came with this installation, as a registry's files.

They are those of the package genai-prices, and need no network.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llmring_server.registry.models import EPOCH, ProviderFile, model_json, provider_file_json

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

_PRICE = "dollars_per_million_tokens_"
_FIELDS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write_5m",
    "cache_write_1h_mtok": "cache_write_1h",
}


@lru_cache(maxsize=4)
def files(providers: tuple[str, ...], day: date) -> Mapping[str, ProviderFile]:
    """Return the files of those `providers` that the book knows, with the prices of `day`."""
    from genai_prices.data import providers as known  # noqa: PLC0415, 20 MB and 0.2 s

    return {each.id: _file(each, day) for each in known if each.id in providers}


def _file(provider: "Provider", day: date) -> ProviderFile:
    at = datetime.combine(day, time(), UTC)
    since = max((start for start in _starts(provider.models) if start <= at), default=EPOCH)
    given = {f"{provider.id}:{each.id}": _fields(each, at) for each in provider.models}
    models = {key: model_json(provider.id, key, fields) for key, fields in given.items()}
    said = {"provider": provider.id, "version": 0, "updated_at": since, "models": models}
    return ProviderFile(0, provider.id, 0, since, since, models, provider_file_json(said))


def _starts(models: Sequence["ModelInfo"]) -> Iterator[datetime]:
    """Tell when prices change, or changed: the file of a day is dated by the last such change."""
    for each in models:
        for conditional in each.prices if isinstance(each.prices, list) else ():
            start = getattr(conditional.constraint, "start_date", None)
            if start:
                yield datetime.combine(start, time(), UTC)


def _fields(given: "ModelInfo", at: datetime) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "display_name": given.name or given.id,
        "description": given.description,
        "max_input_tokens": given.context_window,
    }
    for theirs, ours in _FIELDS.items():
        price = getattr(given.get_prices(at), theirs)
        fields[_PRICE + ours] = getattr(price, "base", price)
        if theirs in {"input_mtok", "output_mtok"} and (tiers := getattr(price, "tiers", ())):
            fields[f"{_PRICE}{ours}_long_context"] = tiers[0].price
            fields["long_context_threshold_tokens"] = tiers[0].start
            fields["supports_long_context_pricing"] = True
    return fields
