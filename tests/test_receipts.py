"""Receipts: what is signed, kept, shown and proved."""

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring
from llmring_server.entry import Entry
from llmring_server.tenant import Tenant
from llmring_server.wanted import Wanted
from tests.conftest import CALL
from tests.signers import SETTINGS


@pytest.fixture
def ring(db: AsyncDatabaseManager) -> Ring:
    return Ring(db, SETTINGS)


async def test_generate(ring: Ring, tenant: Tenant) -> None:
    for n in range(5):
        await ring.usage.log(tenant, Entry.model_validate(CALL | {"alias": f"a{n}"}))
    made = await ring.receipts.generate(tenant, Wanted(since_last_receipt=True, tags=["a"]))
    print(made)
    assert made["certified_count"] == 5
    print(await ring.receipts.list(tenant))
    print(await ring.receipts.logs(tenant, made["receipt"]["receipt_id"]))
    print(ring.receipts.verify(made["receipt"]))
