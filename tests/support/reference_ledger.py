"""Reference ledger: a project's calls and their costs in memory, to compare the database with."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

COST_QUANTUM = Decimal(1).scaleb(-10)
MAX_COST = 10**9


class Ledger:
    """Calls in the order in which they were logged. Only provider `p` has prices."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self._prices: dict[str, Decimal] = {}
        self._rated: dict[int, Decimal] = {}
        self._dropped: set[int] = set()

    def add(self, call: Any) -> None:
        self.calls.append(call)
        self._rate(call)

    def set_price(self, model: str, price: Decimal) -> None:
        """Set one price for all tokens of a model, and re-rate the calls that are not expired."""
        self._prices[model] = price
        for call in self.calls:
            if id(call) not in self._dropped:
                self._rate(call)

    def drop_before(self, oldest: datetime) -> None:
        self._dropped |= {id(call) for call in self.calls if call.logged_at < oldest}

    def between(self, since: datetime, until: datetime) -> list[Any]:
        return [call for call in self.calls if since <= call.logged_at <= until]

    def is_usage_known(self, call: Any) -> bool:
        return (
            call.input_tokens is not None
            or call.output_tokens is not None
            or call.status == "error"
        )

    def cost(self, call: Any) -> Decimal | None:
        return self._rated.get(id(call)) if call.cost is None else call.cost

    def total(self, calls: Iterable[Any]) -> Decimal:
        return sum((self.cost(call) or Decimal(0) for call in calls), Decimal(0))

    def _rate(self, call: Any) -> None:
        if not self.is_usage_known(call):
            return
        if call.cost is None and call.provider == "p" and call.model in self._prices:
            input_tokens, output_tokens = call.input_tokens or 0, call.output_tokens or 0
            tokens = input_tokens + output_tokens
            if call.cached_input_tokens > input_tokens:
                tokens += call.cached_input_tokens
            cost = (tokens * self._prices[call.model] / 10**6).quantize(COST_QUANTUM)
            if cost < MAX_COST:
                self._rated[id(call)] = cost


def period_of(moment: datetime, tz: str, group_by: str) -> str:
    """Return the name of the hour, day, week or month of a moment, from Python's time zones."""
    local = moment.astimezone(ZoneInfo(tz))
    if group_by == "hour":
        # The hour may have begun with another offset: the name has that of the moment.
        offset = local.isoformat()[-len("+00:00") :]
        return f"{local:%Y-%m-%dT%H}:00{offset}"
    day = local.date()
    if group_by == "week":
        day -= timedelta(days=day.weekday())
    elif group_by == "month":
        day = day.replace(day=1)
    return f"{day}"
