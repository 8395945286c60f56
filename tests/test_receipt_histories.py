"""Any history of calls and receipts: what is certified, what is left, and that all of it holds."""

from uuid import UUID, uuid4

import orjson
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from llmring_server import Ring
from llmring_server.errors import BadRequest
from llmring_server.receipt import Receipt
from llmring_server.tenant import Tenant, of_key
from llmring_server.wanted import Stretch, Wanted
from tests.signers import called
from tests.test_receipts import ring

__all__ = ["ring"]

REST = Wanted(since_last_receipt=True)
ALL = Stretch(limit=1000)

steps = st.lists(
    st.tuples(st.sampled_from(["log", "some", "rest", "issue"]), st.integers(1, 5)), max_size=10
)


class History:
    """What a tenant did, and which of its calls have been certified."""

    def __init__(self, ring: Ring, tenant: Tenant) -> None:
        self.ring, self.tenant = ring, tenant
        self.logged: list[UUID] = []
        self.certified: set[UUID] = set()
        self.receipts: dict[str, tuple[Receipt, set[UUID]]] = {}

    async def log(self, count: int) -> None:
        made = await called(self.ring, self.tenant, *[{"cost": count}] * count)
        self.logged += map(UUID, made)

    async def some(self, count: int) -> None:
        ids = self.logged[-count:]
        if ids:
            # Ids of nobody are left out.
            await self._generate(Wanted(log_ids=[*ids, *ids, uuid4()]), set(ids))

    async def rest(self, _: int) -> None:
        left = set(self.logged) - self.certified
        try:
            await self._generate(REST, left)
        except BadRequest:
            assert not left

    async def issue(self, count: int) -> None:
        for id in self.logged[:count]:
            told = await self.ring.receipts.issue(self.tenant, id)
            self._keep(told, {id})

    async def _generate(self, wanted: Wanted, expected: set[UUID]) -> None:
        made = await self.ring.receipts.generate(self.tenant, wanted)
        assert made["certified_count"] == len(expected)
        self._keep(made["receipt"], expected)

    def _keep(self, told: Receipt, ids: set[UUID]) -> None:
        self.receipts[told["receipt_id"]] = told, ids
        self.certified |= ids


@examples(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=steps)
async def test_any_history_holds(ring: Ring, steps: list[tuple[str, int]]) -> None:
    history = History(ring, tenant := of_key(uuid4().hex))
    for name, count in steps:
        await getattr(history, name)(count)
    left = await ring.receipts.uncertified(tenant, ALL)
    assert {each["id"] for each in left["logs"]} == set(history.logged) - history.certified
    listed = await ring.receipts.list(tenant)
    assert listed["total"] == len(history.receipts)
    for told in listed["receipts"]:
        kept, ids = history.receipts[told["receipt_id"]]
        assert told == kept
        assert ring.receipts.verify(orjson.loads(orjson.dumps(told)))["valid"]
        logs = await ring.receipts.logs(tenant, told["receipt_id"], ALL)
        assert {each["id"] for each in logs["logs"]} == ids
