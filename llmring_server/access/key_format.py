"""API keys as text.

A key is `llmr_k1_`, 8 characters of id, 32 of secret (190 bits) and 6 of CRC-32, all base62, so
that a scanner for leaked secrets, and we, can tell one from noise without asking a database.
"""

import re
import secrets
import zlib
from hashlib import sha256
from string import ascii_lowercase, ascii_uppercase, digits

PREFIX = "llmr_k1_"
PATTERN = re.compile(PREFIX + r"([0-9A-Za-z]{8})[0-9A-Za-z]{38}")

_BASE62 = digits + ascii_uppercase + ascii_lowercase


def _random(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))


def _checksum(body: str) -> str:
    number, text = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        text = _BASE62[digit] + text
    return text


def new_api_key() -> str:
    """Make a key that nobody can guess."""
    body = PREFIX + _random(40)
    return body + _checksum(body)


def key_id(key: str) -> str | None:
    """Return the public id inside a key, or None if it is not one of ours."""
    match = PATTERN.fullmatch(key)
    return match[1] if match and _checksum(key[:-6]) == key[-6:] else None


def key_digest(key: str) -> bytes:
    # 190 random bits leave nothing for a slow hash to protect.
    return sha256(key.encode()).digest()
