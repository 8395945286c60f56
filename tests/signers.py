"""Keys to sign with, for tests."""

from llmring_server import signing
from llmring_server.keyring import Keyring, held, ring_of
from llmring_server.settings import Settings

# contract: the seed of the known answers, bytes 0 to 31.
SEED = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
SETTINGS = Settings(receipts_private_key_b64=SEED)


def keyring() -> Keyring:
    return ring_of([held(signing.private(SEED), "active")])
