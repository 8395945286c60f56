"""Secrets at rest: sealed with AES-256-GCM, each bound to its project and its server.

A seal is a version, the id of its key, a nonce and the ciphertext. The first key seals; all of them
open, so that one key can take the place of another while the server serves.
"""

import secrets
from collections.abc import Sequence
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from llmring_server.core.identity import ProjectId
from llmring_server.core.strict_json import dump_bounded_json
from llmring_server.errors import DecryptionFailed, InvalidRequest

MAX_SECRET_BYTES = 64 * 1024

_VERSION, _NONCE = b"\1", 12
# How many bytes tell the key: the version, and four of its digest.
_HEAD = 5


class SecretBox:
    """The keys of a deployment."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        found = [bytes.fromhex(key.get_secret_value()) for key in keys]
        self._keys = {_VERSION + sha256(key).digest()[: _HEAD - 1]: AESGCM(key) for key in found}

    @property
    def head(self) -> bytes:
        """How what is sealed now begins."""
        if not self._keys:
            raise InvalidRequest(
                "auth_config: this server keeps no secrets; its operator sets LLMRING_SEALING_KEYS",
                "secrets_not_configured",
            )
        return next(iter(self._keys))

    def seal(self, project_id: ProjectId, id: UUID, secret: dict[str, Any]) -> bytes:
        """Seal a secret of a server; Invalid if there is no key."""
        nonce = secrets.token_bytes(_NONCE)
        text = dump_bounded_json(secret, "auth_config", MAX_SECRET_BYTES).encode()
        sealed = self._keys[self.head].encrypt(nonce, text, _place(project_id, id))
        return self.head + nonce + sealed

    def open(self, project_id: ProjectId, id: UUID, sealed: bytes) -> Any:
        """Return the secret; Sealed if no key opens it, or not here."""
        key, rest = self._keys.get(sealed[:_HEAD]), sealed[_HEAD:]
        if key is None:
            raise DecryptionFailed
        try:
            return orjson.loads(key.decrypt(rest[:_NONCE], rest[_NONCE:], _place(project_id, id)))
        except InvalidTag as exc:
            raise DecryptionFailed from exc


def _place(project_id: ProjectId, id: UUID) -> bytes:
    return b"llmring/mcp_servers/1" + project_id.bytes + id.bytes
