"""Registry diff: how two lists of models differ, and the quarantine rule for suspicious changes."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from llmring_server.registry.models import PRICE_PREFIXES, Models

# A price that changes by more than this factor is more likely a slip than a price.
MAX_PRICE_FACTOR = 100


class PriceChange(NamedTuple):
    """A price that differs; None means that there is no price."""

    model: str
    field: str
    before: Decimal | None
    after: Decimal | None

    @property
    def is_suspicious(self) -> bool:
        if self.before is None or self.after is None:
            return False
        return max(self.before, self.after) > MAX_PRICE_FACTOR * min(self.before, self.after)


class RegistryDiff(NamedTuple):
    """The difference between two lists of models."""

    added: list[str]
    removed: list[str]
    price_changes: list[PriceChange]


def diff_registries(before: Models, after: Models) -> RegistryDiff:
    """Compare two lists of models."""
    price_changes: list[PriceChange] = []
    for key in sorted(before.keys() & after.keys()):
        price_changes += _price_changes(key, before[key], after[key])
    return RegistryDiff(
        added=sorted(after.keys() - before.keys()),
        removed=sorted(before.keys() - after.keys()),
        price_changes=price_changes,
    )


def _price_changes(
    key: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[PriceChange]:
    for field in sorted({*before, *after}):
        if field.startswith(PRICE_PREFIXES) and before.get(field) != after.get(field):
            yield PriceChange(key, field, before.get(field), after.get(field))


def quarantine_reason(current: Models, new: Models, known_prices: Models) -> str | None:
    """Say why `new` must not replace `current` without an operator's consent, if so.

    `known_prices` are models with their last known prices.
    """
    removed = current.keys() - new.keys()
    if 2 * len(removed) > len(current):
        return f"{len(removed)} of {len(current)} models are gone"
    changes = diff_registries(known_prices, new).price_changes
    suspicious = [change for change in changes if change.is_suspicious]
    if not suspicious:
        return None
    first = suspicious[0]
    more = f" and {len(suspicious) - 1} more" if len(suspicious) > 1 else ""
    return f"{first.model}: {first.field} goes from {first.before} to {first.after}{more}"
