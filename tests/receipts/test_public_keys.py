"""Public keys, as they are published."""

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
from llmring_server.receipts import signing_keys
from llmring_server.receipts.models import ReceiptRequest
from llmring_server.receipts.signing_keys import keyring_from, stored_key
from llmring_verify.keys import TrustedKey, read_keys
from tests.receipts.test_generate import PATH, ring, settings
from tests.support.signing import KID, called, keyring

__all__ = ["ring", "settings"]

PEM = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAA6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=
-----END PUBLIC KEY-----
"""


def pinned(document: Any) -> dict[str, TrustedKey]:
    return read_keys(orjson.dumps(document))


X = "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg"


@pytest.mark.parametrize(
    ("path", "media"),
    [
        ("/receipts/public-key.pem", "text/plain; charset=utf-8"),
        (f"{PATH}/public-key.pem", "application/x-pem-file"),
    ],
)
async def test_key_pem_is_a_real_spki(client: httpx.AsyncClient, path: str, media: str) -> None:
    answer = await client.get(path, headers={"X-API-Key": ""})
    assert (answer.text, answer.headers["Content-Type"]) == (PEM, media)
    assert answer.headers["Cache-Control"] == "public, max-age=3600"
    key = load_pem_public_key(answer.content)
    assert isinstance(key, Ed25519PublicKey)
    assert key.public_bytes_raw() == keyring().active.public


async def test_old_key_pem_is_no_other(client: httpx.AsyncClient) -> None:
    for path in (f"{PATH}/public-key.pem", f"{PATH}/public-key.pem/"):
        assert (await client.get(path)).text == PEM


async def test_key_jwk_is_the_key_that_signs(client: httpx.AsyncClient) -> None:
    answer = await client.get("/receipts/public-key.jwk")
    assert answer.json() == {"kid": KID, "kty": "OKP", "crv": "Ed25519", "x": X}


async def test_jwks_and_public_keys_say_the_same(client: httpx.AsyncClient) -> None:
    [told] = (await client.get("/receipts/public-keys.json")).json()
    assert (told["state"], told["not_before"], told["retired_at"]) == ("active", None, None)
    jwks = (await client.get("/.well-known/jwks.json")).json()
    [key] = jwks["keys"]
    assert {key["kid"], told["kid"]} == pinned(jwks).keys() == pinned([told]).keys() == {KID}
    assert {key["x"], told["x"]} == {X}


async def test_old_public_keys_are_what_the_verifier_pins(client: httpx.AsyncClient) -> None:
    answer = await client.get(f"{PATH}/public-keys.json")
    document = answer.json()
    assert (document["current_key_id"], document["issuer"]) == (KID, "us")
    [key] = document["keys"]
    old = {"key_id": KID, "public_key": X, "algorithm": "Ed25519", "format": "base64url"}
    assert key | old == key
    assert pinned(document)[KID].state == "active"
    assert answer.headers["Cache-Control"] == "public, max-age=3600"


async def test_public_keys_are_shown_in_every_state(db: AsyncDatabaseManager) -> None:
    now = datetime.now(UTC)
    states = keyring_from(
        [
            stored_key(signing_keys.new_private_key(), "compromised", compromised_at=now),
            stored_key(signing_keys.new_private_key(), "retired", retired_at=now),
            stored_key(signing_keys.new_private_key(), "active"),
            stored_key(signing_keys.new_private_key(), "next", not_before=now),
        ]
    )
    transport = httpx.ASGITransport(app=build(db, keyring=states))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        told = (await client.get(f"{PATH}/public-keys.json")).json()
        listed = (await client.get("/receipts/public-keys.json")).json()
        jwks = (await client.get("/.well-known/jwks.json")).json()
    for document in (told, listed):
        assert pinned(document).keys() == states.keys.keys()
    # Who reads a JWKS knows nothing of states.
    assert pinned(jwks).keys() == states.keys.keys() - {listed[0]["kid"]}
    assert [key["state"] for key in listed] == ["compromised", "retired", "active", "next"]
    assert pinned(told)[listed[0]["kid"]].state == "compromised"
    assert listed[0]["compromised_at"]
    assert '"d"' not in str(told) + str(jwks)


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here")
async def test_openssl_verifies_a_receipt_by_hand(
    ring: Ring, project_id: ProjectId, tmp_path: Path
) -> None:
    await called(ring, project_id, {}, {})
    await ring.receipts.generate(project_id, ReceiptRequest(since_last_receipt=True))
    row = await ring.db.fetch_one(
        "SELECT signed, signature FROM {{tables.receipts}} WHERE project_id = $1", project_id
    )
    assert row
    files = {"data": row["signed"], "sig": row["signature"], "key.pem": PEM.encode()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key.pem", "-rawin"]
    command += ["-in", "data", "-sigfile", "sig"]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0  # noqa: ASYNC221
    (tmp_path / "data").write_bytes(row["signed"] + b" ")
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode != 0  # noqa: ASYNC221


def test_the_pem_is_of_the_key_that_the_known_answers_name() -> None:
    assert keyring().active.pem == PEM
