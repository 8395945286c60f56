"""Public keys of receipts over HTTP, as PEM, JWK, JWKS, list and document."""

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, build
from llmring_server.core.identity import ProjectId
from llmring_server.receipts.signing_keys import keyring_from, new_private_key, stored_key
from llmring_verify.keys import TrustedKey, key_id, read_keys
from tests.support.receipts import PATH, UNCERTIFIED, log_calls
from tests.support.signing import KID, keyring

PEM = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAA6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=
-----END PUBLIC KEY-----
"""
X = "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg"
CACHE_CONTROL = "public, max-age=3600"


def read_trusted_keys(document: Any) -> dict[str, TrustedKey]:
    """Read keys as `llmring-verify` does."""
    return read_keys(orjson.dumps(document))


async def check_pem(client: httpx.AsyncClient, path: str, media_type: str) -> None:
    response = await client.get(path, headers={"X-API-Key": ""})
    assert (response.text, response.headers["Content-Type"]) == (PEM, media_type)
    assert response.headers["Cache-Control"] == CACHE_CONTROL
    key = load_pem_public_key(response.content)
    assert isinstance(key, Ed25519PublicKey)
    assert key.public_bytes_raw() == keyring().active.public


async def test_get_public_key_pem(client: httpx.AsyncClient) -> None:
    await check_pem(client, "/receipts/public-key.pem", "text/plain; charset=utf-8")


async def test_get_public_key_pem_compat(client: httpx.AsyncClient) -> None:
    for path in (f"{PATH}/public-key.pem", f"{PATH}/public-key.pem/"):
        await check_pem(client, path, "application/x-pem-file")


async def test_get_public_key_jwk(client: httpx.AsyncClient) -> None:
    response = await client.get("/receipts/public-key.jwk")
    assert response.json() == {"kid": KID, "kty": "OKP", "crv": "Ed25519", "x": X}


async def test_list_public_keys(client: httpx.AsyncClient) -> None:
    keys = (await client.get("/receipts/public-keys.json")).json()
    [key] = keys
    assert (key["state"], key["not_before"], key["retired_at"]) == ("active", None, None)
    assert (key["kid"], key["x"]) == (KID, X)
    assert read_trusted_keys(keys).keys() == {KID}


async def test_get_jwks(client: httpx.AsyncClient) -> None:
    jwks = (await client.get("/.well-known/jwks.json")).json()
    [key] = jwks["keys"]
    assert (key["kid"], key["x"]) == (KID, X)
    assert "nbf" not in key
    assert read_trusted_keys(jwks).keys() == {KID}


async def test_get_public_key_document(client: httpx.AsyncClient) -> None:
    response = await client.get(f"{PATH}/public-keys.json")
    document = response.json()
    assert (document["current_key_id"], document["issuer"]) == (KID, "us")
    [key] = document["keys"]
    compat = {"key_id": KID, "public_key": X, "algorithm": "Ed25519", "format": "base64url"}
    assert key | compat == key
    assert read_trusted_keys(document)[KID].state == "active"
    assert response.headers["Cache-Control"] == CACHE_CONTROL


async def test_public_keys_are_published_in_every_state(db: AsyncDatabaseManager) -> None:
    now = datetime.now(UTC)
    every_state = keyring_from(
        [
            stored_key(new_private_key(), "compromised", compromised_at=now),
            stored_key(new_private_key(), "retired", retired_at=now),
            stored_key(new_private_key(), "active"),
            stored_key(new_private_key(), "next", not_before=now),
        ]
    )
    transport = httpx.ASGITransport(app=build(db, keyring=every_state))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        document = (await client.get(f"{PATH}/public-keys.json")).json()
        keys = (await client.get("/receipts/public-keys.json")).json()
        jwks = (await client.get("/.well-known/jwks.json")).json()
    compromised = keys[0]
    assert [key["state"] for key in keys] == ["compromised", "retired", "active", "next"]
    assert compromised["compromised_at"]
    assert read_trusted_keys(keys).keys() == every_state.keys.keys()
    assert read_trusted_keys(document).keys() == every_state.keys.keys()
    assert read_trusted_keys(document)[compromised["kid"]].state == "compromised"
    # A JWKS has no states of keys.
    assert read_trusted_keys(jwks).keys() == every_state.keys.keys() - {compromised["kid"]}
    assert jwks["keys"][-1]["nbf"] == int(now.timestamp())
    assert '"d"' not in f"{orjson.dumps([document, keys, jwks])!r}"


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here")
async def test_openssl_verifies_a_receipt(
    ring: Ring, project_id: ProjectId, tmp_path: Path
) -> None:
    await log_calls(ring, project_id, {}, {})
    await ring.receipts.generate(project_id, UNCERTIFIED)
    row = await ring.db.fetch_one(
        "SELECT signed, signature FROM {{tables.receipts}} WHERE project_id = $1", project_id
    )
    assert row
    files = {"data": row["signed"], "signature": row["signature"], "key.pem": PEM.encode()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key.pem", "-rawin"]
    command += ["-in", "data", "-sigfile", "signature"]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0  # noqa: ASYNC221
    (tmp_path / "data").write_bytes(row["signed"] + b" ")
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode != 0  # noqa: ASYNC221


def test_pem_and_id_of_a_key_are_the_known_answers() -> None:
    assert keyring().active.pem == PEM
    assert key_id(keyring().active.public) == KID
