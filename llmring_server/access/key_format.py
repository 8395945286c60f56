"""Format of API keys: `llmr_k1_`, 8 characters of id, 32 of secret (190 bits), 6 of CRC-32, base62.

The checksum lets the server, and scanners for leaked secrets, recognize a key without a database.
"""

import re
import secrets
import zlib
from hashlib import sha256
from string import ascii_lowercase, ascii_uppercase, digits

PREFIX = "llmr_k1_"
ID_LENGTH = 8
SECRET_LENGTH = 32
CHECKSUM_LENGTH = 6
PATTERN = re.compile(
    rf"{PREFIX}([0-9A-Za-z]{{{ID_LENGTH}}})[0-9A-Za-z]{{{SECRET_LENGTH + CHECKSUM_LENGTH}}}"
)

_BASE62 = digits + ascii_uppercase + ascii_lowercase


def new_api_key() -> str:
    """Generate a key."""
    random = "".join(secrets.choice(_BASE62) for _ in range(ID_LENGTH + SECRET_LENGTH))
    body = PREFIX + random
    return body + _checksum(body)


def key_id(key: str) -> str | None:
    """Return the public id of a key; None if it does not have the format of an issued key."""
    match = PATTERN.fullmatch(key)
    if match is None or _checksum(key[:-CHECKSUM_LENGTH]) != key[-CHECKSUM_LENGTH:]:
        return None
    return match[1]


def key_digest(key: str) -> bytes:
    """Return the digest by which a key is stored."""
    # A secret of 190 random bits does not need a slow hash.
    return sha256(key.encode()).digest()


def _checksum(body: str) -> str:
    """Return the CRC-32 of a key's other characters, in base62."""
    number = zlib.crc32(body.encode())
    text = ""
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_BASE62))
        text = _BASE62[digit] + text
    return text
