"""Encryption of MCP credentials at rest: AES-256-GCM, bound to the project and the server.

A stored secret is a version byte, the id of its key, a nonce and the ciphertext. The first key
encrypts; all keys decrypt, so that keys can be rotated while the server runs.
"""

import secrets
from collections.abc import Sequence
from hashlib import sha256
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from llmring_server.core.identity import ProjectId
from llmring_server.core.strict_json import dump_bounded_json, load_json
from llmring_server.errors import DecryptionFailed, InvalidRequest

MAX_SECRET_BYTES = 64 * 1024

_VERSION = b"\1"
# The version, and four bytes of the key's digest.
_KEY_ID_LENGTH = 5
_NONCE_LENGTH = 12


class SecretBox:
    """The encryption keys of a deployment (LLMRING_SEALING_KEYS)."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self._ciphers: dict[bytes, AESGCM] = {}
        for key in keys:
            key_bytes = bytes.fromhex(key.get_secret_value())
            self._ciphers[_key_id(key_bytes)] = AESGCM(key_bytes)

    @property
    def current_key_id(self) -> bytes:
        """The first bytes of every secret that is encrypted now; InvalidRequest without a key."""
        if not self._ciphers:
            raise InvalidRequest(
                "auth_config: secrets cannot be stored: LLMRING_SEALING_KEYS is not set",
                "secrets_not_configured",
            )
        return next(iter(self._ciphers))

    def encrypt(self, project_id: ProjectId, server_id: UUID, secret: dict[str, Any]) -> bytes:
        """Encrypt a server's secret; InvalidRequest if there is no key or the secret is large."""
        plaintext = dump_bounded_json(secret, "auth_config", MAX_SECRET_BYTES).encode()
        key_id = self.current_key_id
        nonce = secrets.token_bytes(_NONCE_LENGTH)
        ciphertext = self._ciphers[key_id].encrypt(
            nonce, plaintext, _associated_data(project_id, server_id)
        )
        return key_id + nonce + ciphertext

    def decrypt(self, project_id: ProjectId, server_id: UUID, encrypted: bytes) -> Any:
        """Decrypt a server's secret.

        DecryptionFailed if its key is missing, or if it was encrypted for another server.
        """
        key_id, encrypted = encrypted[:_KEY_ID_LENGTH], encrypted[_KEY_ID_LENGTH:]
        nonce, ciphertext = encrypted[:_NONCE_LENGTH], encrypted[_NONCE_LENGTH:]
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise DecryptionFailed
        try:
            plaintext = cipher.decrypt(nonce, ciphertext, _associated_data(project_id, server_id))
        except InvalidTag as exc:
            raise DecryptionFailed from exc
        return load_json(plaintext.decode())


def _key_id(key: bytes) -> bytes:
    return _VERSION + sha256(key).digest()[: _KEY_ID_LENGTH - len(_VERSION)]


def _associated_data(project_id: ProjectId, server_id: UUID) -> bytes:
    # Stored secrets depend on these bytes: they must not change.
    return b"llmring/mcp_servers/1" + project_id.bytes + server_id.bytes
