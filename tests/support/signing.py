"""Keys to sign with, for tests, and calls to sign."""

from typing import Any

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.receipts import signing_keys
from llmring_server.receipts.signing_keys import Keyring, keyring_from, stored_key
from llmring_server.usage.models import NewCall
from tests.conftest import CALL

# The seed of the known answers: bytes 0 to 31.
SEED = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
KID = "a050837d"
# What the first servers signed, and their known answer.
OLD: dict[str, Any] = {
    "receipt_id": "rcpt_0123456789abcdef",
    "timestamp": "2025-10-02T12:34:56.789012Z",
    "alias": "fast",
    "profile": "default",
    "lock_digest": "",
    "provider": "openai",
    "model": "gpt-4o-mini",
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "input_cost": 0.0004,
    "output_cost": 0.0006,
    "total_cost": 0.001,
    "signature": "ed25519:TZCLyONmyMIXyBZb5l6GtJJIVDVwFjWWYbOBbv3_gq5Lw9vnU-DReelj_LHk0J5g"
    "XJdB4lA6Ix1Y9DxG0BNIAw",
}


def keyring() -> Keyring:
    return keyring_from([stored_key(signing_keys.decode_private_key(SEED), "active")])


async def called(ring: Ring, project_id: ProjectId, *calls: dict[str, Any]) -> list[str]:
    """Log calls, and return their ids."""
    entries = [NewCall.model_validate(CALL | call) for call in calls]
    return [str(each.log_id) for each in await ring.usage.log_many(project_id, entries)]
