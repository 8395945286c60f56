"""Our own corrections to the built-in price book, for facts that genai-prices cannot express.

Each names its source and the day on which it was checked. A test compares `entry` with the entry of
the installed genai-prices: it fails when a new version changes what is corrected here, so that the
correction is checked again, and removed if the price book has caught up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo

SATURDAY = 5


@dataclass(frozen=True, kw_only=True)
class DailyHours:
    """A condition of genai-prices' kind: some hours (UTC) of each day from a date on.

    From `weekdays_from` on, only of Monday to Friday.
    """

    start: time
    end: time
    since: date
    until: date = date.max
    weekdays_from: date = date.max

    def active(self, when: datetime) -> bool:
        when = when.astimezone(UTC)
        day = when.date()
        if not (self.start <= when.time() < self.end and self.since <= day < self.until):
            return False
        return day < self.weekdays_from or day.weekday() < SATURDAY


@dataclass(frozen=True, kw_only=True)
class Correction:
    """What the price of one model of genai-prices really is.

    `entry` is the digest of the entry that it corrects. `hours` are prices in USD for a million
    tokens that take the place of those with a time of day; `free` means that tokens cost nothing.
    """

    provider: str
    model: str
    source: str
    checked: date
    entry: str
    free: bool = False
    hours: tuple[tuple[DailyHours, Mapping[str, Decimal]], ...] = ()


def entry_digest(model: "ModelInfo") -> str:
    """Digest the prices of a model of genai-prices, with their conditions."""
    return sha256(repr((model.prices, model.price_variants)).encode()).hexdigest()[:16]


def _mtok(input: str, cache_read: str, output: str) -> dict[str, Decimal]:
    return {
        "input_mtok": Decimal(input),
        "cache_read_mtok": Decimal(cache_read),
        "output_mtok": Decimal(output),
    }


# Peak hours begin on 2026-08-17, and are those of Monday to Friday from 2026-08-23 on. Weekdays are
# meant in Beijing, where they are the same at these hours. Chinese public holidays are off-peak,
# too; they are not here, so that the price of a peak hour is an upper bound on them.
_PEAK_HOURS = (
    {"start": time(1), "end": time(4)},
    {"start": time(6), "end": time(10)},
)
_DEEPSEEK: dict[str, Any] = {
    "provider": "deepseek",
    "source": "https://api-docs.deepseek.com/quick_start/pricing",
    "checked": date(2026, 11, 30),
}


def _peak(
    since: date, prices: Mapping[str, Decimal], until: date = date.max
) -> tuple[tuple[DailyHours, Mapping[str, Decimal]], ...]:
    weekdays_from = date(2026, 8, 23)
    return tuple(
        (DailyHours(since=since, until=until, weekdays_from=weekdays_from, **hours), prices)
        for hours in _PEAK_HOURS
    )


CORRECTIONS = (
    Correction(
        model="deepseek-v4-pro",
        entry="e9ac384a43a4e388",
        hours=_peak(date(2026, 8, 17), _mtok("1.32", "0.044", "3.96")),
        **_DEEPSEEK,
    ),
    Correction(
        model="deepseek-v4-flash",
        entry="cfa484ea2dbb84bc",
        hours=(
            *_peak(date(2026, 8, 17), _mtok("0.44", "0.014", "1.32"), until=date(2026, 9, 10)),
            *_peak(date(2026, 9, 10), _mtok("0.3", "0.006", "1.2")),
        ),
        **_DEEPSEEK,
    ),
    Correction(
        model="deepseek-flash",
        entry="3514bddc6942b948",
        hours=_peak(date(2026, 9, 10), _mtok("0.3", "0.006", "1.2")),
        **_DEEPSEEK,
    ),
    # genai-prices has entries without any price both for what is free and for what is unknown.
    Correction(
        provider="openai",
        model="moderation",
        source="https://developers.openai.com/api/docs/models/omni-moderation-latest",
        checked=date(2026, 11, 30),
        entry="50f92541170e184b",
        free=True,
    ),
    Correction(
        provider="openrouter",
        # Every model whose name ends like this.
        model="*:free",
        source="https://openrouter.ai/docs/guides/routing/model-variants/free",
        checked=date(2026, 11, 30),
        entry="50f92541170e184b",
        free=True,
    ),
)

_BY_MODEL = {(each.provider, each.model): each for each in CORRECTIONS}


def correction_of(provider: str, model: str) -> Correction | None:
    """Return the correction of a model of genai-prices, if there is one."""
    exact = _BY_MODEL.get((provider, model))
    if exact or not model.endswith(":free"):
        return exact
    return _BY_MODEL.get((provider, "*:free"))
