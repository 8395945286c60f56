"""Reference ledger: a project's calls and their costs in memory, to compare the database with."""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

COST_QUANTUM = Decimal(1).scaleb(-10)
MAX_COST = 10**9


class Ledger:
    """Calls in the order in which they were logged. Only provider `p` has prices."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self._prices: dict[str, Decimal] = {}
        self._rated: dict[int, Decimal] = {}
        self._forgotten: set[int] = set()

    def add(self, call: Any) -> None:
        self.calls.append(call)
        self._rate(call)

    def set_price(self, model: str, price: Decimal) -> None:
        """Set one price for all tokens of a model, and re-rate the calls that are not expired."""
        self._prices[model] = price
        for call in self.calls:
            if id(call) not in self._forgotten:
                self._rate(call)

    def forget(self, oldest: datetime) -> None:
        self._forgotten |= {id(call) for call in self.calls if call.logged_at < oldest}

    def cost(self, call: Any) -> Decimal | None:
        return self._rated.get(id(call)) if call.cost is None else call.cost

    def total(self, calls: Iterable[Any]) -> Decimal:
        return sum((self.cost(call) or Decimal(0) for call in calls), Decimal(0))

    def _rate(self, call: Any) -> None:
        if call.cost is None and call.provider == "p" and call.model in self._prices:
            tokens = call.input_tokens + call.output_tokens
            if call.cached_input_tokens > call.input_tokens:
                tokens += call.cached_input_tokens
            cost = (tokens * self._prices[call.model] / 10**6).quantize(COST_QUANTUM)
            if cost < MAX_COST:
                self._rated[id(call)] = cost
