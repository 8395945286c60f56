"""Statistics as a property: after any history, they equal the exact totals of the calls."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from llmring_server import Ring, Settings
from llmring_server.core.identity import LIBRARY, ProjectId, project_of_key
from llmring_server.core.providers import normal_provider
from llmring_server.errors import InvalidRequest, Unavailable
from llmring_server.maintenance import maintain
from llmring_server.pricing.rerating import RerateFilter
from llmring_server.pricing.sources import PriceOverride
from llmring_server.usage.models import NewCall
from llmring_server.usage.stats import StatsQuery
from tests.conftest import drop
from tests.support.reference_ledger import Ledger, period_of

NOW = datetime.now(UTC)
TODAY = NOW.replace(hour=0, minute=0, second=0, microsecond=0)

MODELS = ["a", "b", "c"]

costs = st.none() | st.decimals(0, 1000, places=10)
tokens = st.integers(0, 2**53 - 1)


def new_call(counts: tuple[int | None, int | None], **fields: Any) -> NewCall:
    return NewCall(input_tokens=counts[0], output_tokens=counts[1], **fields)


calls = st.builds(
    new_call,
    counts=st.tuples(tokens, tokens) | st.tuples(tokens, st.none()) | st.just((None, None)),
    provider=st.sampled_from(["p", "q", "Q", "bedrock", "aws.bedrock"]),
    model=st.sampled_from(MODELS),
    alias=st.none() | st.sampled_from(["x", "y"]),
    cached_input_tokens=tokens,
    cost=costs,
    status=st.sampled_from(["ok", "error"]),
    logged_at=st.timedeltas(timedelta(days=-380), timedelta(0)).map(lambda ago: NOW + ago),
)
keys = st.none() | st.sampled_from(["k1", "k2", "k3"])


class Histories(RuleBasedStateMachine):
    """A project's calls in the database, beside a model of them in memory."""

    ring: Ring
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        self.project_id: ProjectId = project_of_key(uuid4().hex)
        self.ledger = Ledger()
        self.keys: dict[str, Any] = {}
        self.dropped_until: datetime | None = None
        for model in MODELS:
            self.wait(self.ring.pricing.withdraw("p", model, actor=LIBRARY))

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    @rule(call=calls, key=keys)
    def log(self, call: NewCall, key: str | None) -> None:
        known = self.keys.get(key or "")
        work = self.ring.usage.log(self.project_id, call, key)
        if known is not None and known != call:
            with pytest.raises(InvalidRequest):
                self.wait(work)
            return
        assert self.wait(work).replayed == (known is not None)
        if known is None:
            self.remember(call, key)

    @rule(key=keys.filter(bool))
    def send_again(self, key: str) -> None:
        if key in self.keys:
            assert self.wait(self.ring.usage.log(self.project_id, self.keys[key], key)).replayed

    @rule(batch=st.lists(calls, min_size=1, max_size=5), spoilt=st.booleans())
    def log_many(self, batch: list[NewCall], spoilt: bool) -> None:  # noqa: FBT001, hypothesis names it
        if not spoilt:
            self.wait(self.ring.usage.log_many(self.project_id, batch))
            for call in batch:
                self.remember(call, None)
            return
        bad = batch[0].model_copy(update={"model": "NUL \0"})
        with pytest.raises(InvalidRequest):
            self.wait(self.ring.usage.log_many(self.project_id, [*batch, bad]))

    @rule(call=calls, committed=st.booleans())
    def log_within_a_transaction(self, call: NewCall, committed: bool) -> None:  # noqa: FBT001, likewise
        async def work() -> None:
            async with self.ring.db.acquire() as connection:
                transaction = connection.transaction()
                await transaction.start()
                await self.ring.within(connection).usage.log(self.project_id, call)
                await (transaction.commit() if committed else transaction.rollback())

        self.wait(work())
        if committed:
            self.remember(call, None)

    @rule(call=calls)
    def lose_the_answer_of_a_commit(self, call: NewCall) -> None:
        group_commit = self.ring.usage._group_commit
        write = group_commit._write

        async def write_and_disconnect(items: Sequence[Any]) -> Any:
            outcomes = await write(items)
            if group_commit._write is write_and_disconnect:
                group_commit._write = write
                raise Unavailable
            return outcomes

        group_commit._write = write_and_disconnect
        self.wait(self.ring.usage.log(self.project_id, call))
        self.remember(call, None)

    @rule(days=st.integers(40, 400))
    def drop_old_calls(self, days: int) -> None:
        # Counted from noon, so that the oldest day does not depend on the current hour.
        noon = TODAY - timedelta(days=days, hours=-12)
        self.wait(maintain(self.ring.db, datetime.now(UTC) - noon, actor=LIBRARY))
        oldest = noon.replace(day=1, hour=0)
        self.ledger.drop_before(oldest)
        dropped = [key for key, call in self.keys.items() if call.logged_at.date() < oldest.date()]
        self.keys = {key: call for key, call in self.keys.items() if key not in dropped}
        self.dropped_until = max(oldest, self.dropped_until or oldest)

    @rule(model=st.sampled_from(MODELS), price=st.decimals(0, Decimal("0.1"), places=6))
    def rerate(self, model: str, price: Decimal) -> None:
        rates = dict.fromkeys(("input", "cache_read", "output"), price)
        override = PriceOverride(provider="p", model=model, rates=rates)
        self.wait(self.ring.pricing.override([override], actor=LIBRARY))
        self.wait(
            self.adjust(RerateFilter(NOW - timedelta(days=400), NOW + timedelta(hours=1), model))
        )
        self.ledger.set_price(model, price)

    async def adjust(self, calls: RerateFilter) -> None:
        await self.ring.rerating.run(calls, actor=LIBRARY)

    def remember(self, call: NewCall, key: str | None) -> None:
        self.ledger.add(call)
        if key:
            self.keys[key] = call

    @invariant()
    def stats_are_what_the_calls_add_up_to(self) -> None:
        self.check(TODAY - timedelta(days=390), NOW + timedelta(hours=1))

    @rule(
        a=st.timedeltas(timedelta(days=-380), timedelta(0)),
        b=st.timedeltas(timedelta(days=-380), timedelta(0)),
    )
    def any_range_is_exact(self, a: timedelta, b: timedelta) -> None:
        since, until = NOW + min(a, b), NOW + max(a, b)
        if self.dropped_until:
            since = since.replace(hour=0, minute=0, second=0, microsecond=0)
            until = max(until, self.dropped_until + timedelta(days=1), since)
        self.check(since, until)

    @rule(
        a=st.timedeltas(timedelta(days=-380), timedelta(0)),
        b=st.timedeltas(timedelta(days=-380), timedelta(0)),
        tz=st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "CET"]),
        group_by=st.sampled_from(["hour", "day", "week", "month"]),
    )
    def any_range_of_a_zone_is_exact(
        self, a: timedelta, b: timedelta, tz: str, group_by: str
    ) -> None:
        since, until = NOW + min(a, b), NOW + max(a, b)
        if self.dropped_until:
            # Before, only days of UTC are left.
            since = max(since, self.dropped_until)
            until = max(until, since)
        if group_by == "hour":
            since = max(since, until - timedelta(days=31))
        query = StatsQuery.model_validate(
            {"start_date": since, "end_date": until, "tz": tz, "group_by": group_by}
        )
        stats = self.wait(self.ring.usage.stats(self.project_id, query))
        calls = self.ledger.between(since, until)
        assert stats.summary.total_requests == len(calls)
        periods = Counter(period_of(call.logged_at, tz, group_by) for call in calls)
        assert {period.date: period.requests for period in stats.by_day} == periods

    @rule(top=st.integers(1, 2))
    def labels_beyond_the_top_are_summed_up(self, top: int) -> None:
        since, until = TODAY - timedelta(days=390), NOW + timedelta(hours=1)
        query = StatsQuery(start_date=since, end_date=until, top=top)
        stats = self.wait(self.ring.usage.stats(self.project_id, query))
        calls = self.ledger.between(since, until)
        for label, labelled in (
            ("model", calls),
            ("provider", calls),
            ("alias", [call for call in calls if call.alias]),
        ):
            totals = getattr(stats, f"by_{label}")
            assert len(totals) <= top + 1
            assert ("(other)" in totals) == (f"by_{label}" in stats.truncated)
            assert sum(each.requests for each in totals.values()) == len(labelled)
            assert sum(each.cost for each in totals.values()) == self.ledger.total(labelled)

    def check(self, since: datetime, until: datetime) -> None:
        query = StatsQuery(start_date=since, end_date=until)
        stats = self.wait(self.ring.usage.stats(self.project_id, query))
        calls = self.ledger.between(since, until)
        assert stats.summary.total_cost == self.ledger.total(calls)
        assert stats.summary.total_requests == len(calls)
        assert stats.summary.total_errors == sum(call.status != "ok" for call in calls)
        unpriced = [call for call in calls if self.ledger.cost(call) is None]
        assert stats.summary.unpriced_requests == len(unpriced)
        assert stats.summary.total_tokens == sum(
            (call.input_tokens or 0) + (call.output_tokens or 0) for call in calls
        )
        unknown = [call for call in calls if not self.ledger.is_usage_known(call)]
        assert stats.summary.unknown_usage_requests == len(unknown)
        assert stats.summary.usage_known == (not unknown)
        for label in ("model", "provider", "alias"):
            names = (getattr(call, label) for call in calls)
            counted = Counter(
                normal_provider(name) if label == "provider" else name for name in names if name
            )
            totals = getattr(stats, f"by_{label}")
            assert {value: each.requests for value, each in totals.items()} == counted
        days = Counter(f"{call.logged_at:%Y-%m-%d}" for call in calls)
        assert {bucket.date: bucket.requests for bucket in stats.by_day} == days


SETTINGS = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.slow
def test_statistics_are_exact_after_any_history(owner_settings: Settings) -> None:
    schema = f"history_{uuid4().hex[:8]}"
    opened = Ring.open(owner_settings.model_copy(update={"database_schema": schema}))
    with asyncio.Runner() as runner:
        Histories.runner, Histories.ring = runner, runner.run(opened.__aenter__())
        try:
            run_state_machine_as_test(Histories, settings=SETTINGS)
        finally:
            runner.run(drop(Histories.ring.db, schema))
            runner.run(opened.__aexit__(None, None, None))
