"""Any history of calls and receipts: what is certified, what is left, and that receipts verify."""

from uuid import UUID, uuid4

import orjson
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from llmring_server import Ring
from llmring_server.core.identity import ProjectId, project_of_key
from llmring_server.errors import BadRequest
from llmring_server.receipts import OffsetPage, Receipt, ReceiptRequest
from tests.support.receipts import UNCERTIFIED, log_calls

ALL_CALLS = OffsetPage(limit=1000)

STEPS = st.lists(
    st.tuples(st.sampled_from(["log", "ids", "uncertified", "issue"]), st.integers(1, 5)),
    max_size=10,
)


class History:
    """The calls of a project, and the receipts that certify them."""

    def __init__(self, ring: Ring, project_id: ProjectId) -> None:
        self.ring, self.project_id = ring, project_id
        self.logged: list[UUID] = []
        self.certified: set[UUID] = set()
        self.receipts: dict[str, tuple[Receipt, set[UUID]]] = {}

    async def step(self, name: str, count: int) -> None:
        if name == "log":
            await self._log(count)
        elif name == "ids":
            await self._certify_newest(count)
        elif name == "uncertified":
            await self._certify_uncertified()
        else:
            await self._issue_oldest(count)

    async def _log(self, count: int) -> None:
        ids = await log_calls(self.ring, self.project_id, *[{"cost": count}] * count)
        self.logged += map(UUID, ids)

    async def _certify_newest(self, count: int) -> None:
        ids = self.logged[-count:]
        if ids:
            # Duplicate and unknown ids are skipped.
            await self._generate(ReceiptRequest(log_ids=[*ids, *ids, uuid4()]), set(ids))

    async def _certify_uncertified(self) -> None:
        uncertified = set(self.logged) - self.certified
        try:
            await self._generate(UNCERTIFIED, uncertified)
        except BadRequest:
            assert not uncertified

    async def _issue_oldest(self, count: int) -> None:
        for id in self.logged[:count]:
            receipt = await self.ring.receipts.issue(self.project_id, id)
            self._add(receipt, {id})

    async def _generate(self, request: ReceiptRequest, expected: set[UUID]) -> None:
        result = await self.ring.receipts.generate(self.project_id, request)
        assert result["certified_count"] == len(expected)
        self._add(result["receipt"], expected)

    def _add(self, receipt: Receipt, ids: set[UUID]) -> None:
        self.receipts[receipt["receipt_id"]] = receipt, ids
        self.certified |= ids


@examples(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
async def test_any_history_is_certified(ring: Ring, steps: list[tuple[str, int]]) -> None:
    project_id = project_of_key(uuid4().hex)
    history = History(ring, project_id)
    for name, count in steps:
        await history.step(name, count)
    uncertified = await ring.receipts.uncertified(project_id, ALL_CALLS)
    assert {call["id"] for call in uncertified["logs"]} == set(history.logged) - history.certified
    page = await ring.receipts.list(project_id)
    assert page["total"] == len(history.receipts)
    for receipt in page["receipts"]:
        expected, ids = history.receipts[receipt["receipt_id"]]
        assert receipt == expected
        assert ring.receipts.verify(orjson.loads(orjson.dumps(receipt)))["valid"]
        calls = await ring.receipts.calls(project_id, receipt["receipt_id"], ALL_CALLS)
        assert {call["id"] for call in calls["logs"]} == ids
