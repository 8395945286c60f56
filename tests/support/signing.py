"""A key that signs receipts in tests, and a legacy receipt that it signed."""

from typing import Any

from llmring_server.receipts import Keyring, signing_keys

# The seed of the known answers: bytes 0 to 31.
SEED = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
KID = "a050837d"
# A receipt of older servers; its signature is a known answer.
LEGACY_RECEIPT: dict[str, Any] = {
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
    private_key = signing_keys.decode_private_key(SEED)
    return signing_keys.keyring_from([signing_keys.stored_key(private_key, "active")])
