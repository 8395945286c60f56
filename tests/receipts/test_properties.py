"""Any history of calls and receipts: what is certified, what is left, and that all of it holds."""

from uuid import UUID, uuid4

import orjson
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from llmring_server import Ring
from llmring_server.core.identity import ProjectId, project_of_key
from llmring_server.errors import BadRequest
from llmring_server.receipts.models import OffsetPage, Receipt, ReceiptRequest
from tests.receipts.test_generate import ring
from tests.support.signing import called

__all__ = ["ring"]

REST = ReceiptRequest(since_last_receipt=True)
ALL = OffsetPage(limit=1000)

steps = st.lists(
    st.tuples(st.sampled_from(["log", "some", "rest", "issue"]), st.integers(1, 5)), max_size=10
)


class History:
    """What a project did, and which of its calls have been certified."""

    def __init__(self, ring: Ring, project_id: ProjectId) -> None:
        self.ring, self.project_id = ring, project_id
        self.logged: list[UUID] = []
        self.certified: set[UUID] = set()
        self.receipts: dict[str, tuple[Receipt, set[UUID]]] = {}

    async def log(self, count: int) -> None:
        made = await called(self.ring, self.project_id, *[{"cost": count}] * count)
        self.logged += map(UUID, made)

    async def some(self, count: int) -> None:
        ids = self.logged[-count:]
        if ids:
            # Ids of nobody are left out.
            await self._generate(ReceiptRequest(log_ids=[*ids, *ids, uuid4()]), set(ids))

    async def rest(self, _: int) -> None:
        left = set(self.logged) - self.certified
        try:
            await self._generate(REST, left)
        except BadRequest:
            assert not left

    async def issue(self, count: int) -> None:
        for id in self.logged[:count]:
            told = await self.ring.receipts.issue(self.project_id, id)
            self._keep(told, {id})

    async def _generate(self, wanted: ReceiptRequest, expected: set[UUID]) -> None:
        made = await self.ring.receipts.generate(self.project_id, wanted)
        assert made["certified_count"] == len(expected)
        self._keep(made["receipt"], expected)

    def _keep(self, told: Receipt, ids: set[UUID]) -> None:
        self.receipts[told["receipt_id"]] = told, ids
        self.certified |= ids


@examples(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=steps)
async def test_any_history_holds(ring: Ring, steps: list[tuple[str, int]]) -> None:
    history = History(ring, project_id := project_of_key(uuid4().hex))
    for name, count in steps:
        await getattr(history, name)(count)
    left = await ring.receipts.uncertified(project_id, ALL)
    assert {each["id"] for each in left["logs"]} == set(history.logged) - history.certified
    listed = await ring.receipts.list(project_id)
    assert listed["total"] == len(history.receipts)
    for told in listed["receipts"]:
        kept, ids = history.receipts[told["receipt_id"]]
        assert told == kept
        assert ring.receipts.verify(orjson.loads(orjson.dumps(told)))["valid"]
        logs = await ring.receipts.calls(project_id, told["receipt_id"], ALL)
        assert {each["id"] for each in logs["logs"]} == ids
