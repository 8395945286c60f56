"""How one list of models differs from another, and when that is too much to believe."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from llmring_server.registry.models import PRICES, Models

# A price that changes by more than this factor is likelier a slip than a price.
FARTHEST = 100


class PriceChange(NamedTuple):
    """A price that differs; None: there is none."""

    model: str
    price: str
    before: Decimal | None
    after: Decimal | None

    @property
    def is_far(self) -> bool:
        if self.before is None or self.after is None:
            return False
        return max(self.before, self.after) > FARTHEST * min(self.before, self.after)


class RegistryDiff(NamedTuple):
    """How two lists of models differ."""

    added: list[str]
    removed: list[str]
    changes: list[PriceChange]


def diff_registries(before: Models, after: Models) -> RegistryDiff:
    return RegistryDiff(
        sorted(after.keys() - before.keys()),
        sorted(before.keys() - after.keys()),
        [
            change
            for key in sorted(before.keys() & after.keys())
            for change in _changes(key, before[key], after[key])
        ],
    )


def _changes(
    key: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[PriceChange]:
    for price in sorted({*before, *after}):
        pair = before.get(price), after.get(price)
        if price.startswith(PRICES) and pair[0] != pair[1]:
            yield PriceChange(key, price, *pair)


def quarantine_reason(before: Models, after: Models, known: Models) -> str | None:
    """Say why `after` should not follow `before` unseen, given what is known of prices."""
    removed = before.keys() - after.keys()
    if 2 * len(removed) > len(before):
        return f"{len(removed)} of {len(before)} models are gone"
    far = [change for change in diff_registries(known, after).changes if change.is_far]
    if not far:
        return None
    first, more = far[0], f" and {len(far) - 1} more" if far[1:] else ""
    return f"{first.model}: {first.price} goes from {first.before} to {first.after}{more}"
