"""Keys to sign with, for tests, and calls to sign."""

from typing import Any

from llmring_server import Ring, signing
from llmring_server.entry import Entry
from llmring_server.keyring import Keyring, held, ring_of
from llmring_server.tenant import Tenant
from tests.conftest import CALL

# The seed of the known answers: bytes 0 to 31.
SEED = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
KID = "a050837d"


def keyring() -> Keyring:
    return ring_of([held(signing.private(SEED), "active")])


async def called(ring: Ring, tenant: Tenant, *calls: dict[str, Any]) -> list[str]:
    """Log calls, and return their ids."""
    entries = [Entry.model_validate(CALL | call) for call in calls]
    return [str(each.log_id) for each in await ring.usage.log_many(tenant, entries)]
