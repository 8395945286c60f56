"""Canonical JSON, signatures and public keys agree with independent implementations."""

import json
import shutil
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import nacl.signing
import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from llmring_verify import keys, receipt, verify
from llmring_verify.canonical_json import (
    MAX_SAFE_INTEGER,
    CannotVerify,
    NotVerified,
    canonicalize,
    parse,
)
from tests.vectors.generate.good import STRANGE, good
from tests.vectors.generate.second_signer import (
    ACTIVE,
    KEY_FILE,
    RETIRED,
    Document,
    Signer,
    batch,
    call,
    usage,
)

NAMES = st.text(st.characters(max_codepoint=0x7F), max_size=8)
SIGNED = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER) | st.text(),
    lambda each: st.lists(each, max_size=5) | st.dictionaries(NAMES, each, max_size=5),
)
PRIME, D = 2**255 - 19, -121665 * pow(121666, -1, 2**255 - 19)


@given(SIGNED)
def test_canonical_form_is_that_of_rfc_8785(value: Any) -> None:
    assert canonicalize(value) == rfc8785.dumps(value)
    assert parse(canonicalize(value)) == value


def _random_receipt(random: Random, number: int, signer: Signer) -> Document:
    def text() -> str:
        return "".join(random.choices(STRANGE + "abc", k=random.randrange(20)))

    calls = [call(each, model=text(), alias=text()) for each in range(1, random.randrange(2, 6))]
    if random.random() < 0.3:
        return batch(number, calls, signer, description=text(), tags=[text()])
    return usage(number, calls[0], signer, lock_digest=text())


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.full)])
def test_receipts_verify_with_two_verifiers(count: int) -> None:
    random, trusted = Random(35), keys.read_keys(json.dumps(KEY_FILE).encode())  # noqa: S311, reproducible
    for number in range(count):
        signer = random.choice((ACTIVE, RETIRED))
        ours = Ed25519PrivateKey.from_private_bytes(bytes(signer.key))
        body = _random_receipt(random, number, signer)
        signed = receipt.signed_bytes(body)
        assert signed == b"llmring-receipt/1\n" + rfc8785.dumps(body)
        signature = ours.sign(signed)
        nacl.signing.VerifyKey(signer.public).verify(signed, signature)
        envelope = signer.envelope(body)
        assert envelope["signature"]["sig"] == receipt.base64url(signature)
        assert verify.verify_receipt(envelope, trusted) == body


@pytest.mark.parametrize("number", range(10))
def test_openssl_verifies_receipts(number: int, tmp_path: Path) -> None:
    body = _random_receipt(Random(number), number, ACTIVE)  # noqa: S311, reproducible
    _, data, signature = receipt.open_envelope(ACTIVE.envelope(body))
    for name, content in {"key": keys.spki(ACTIVE.public), "data": data, "sig": signature}.items():
        (tmp_path / name).write_bytes(content)
    command = "openssl pkeyutl -verify -pubin -keyform DER -inkey key -rawin -in data -sigfile sig"
    done = subprocess.run(command.split(), cwd=tmp_path, check=False, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"Signature Verified Successfully\n")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_receipts_survive_javascript() -> None:
    trusted = keys.read_keys(json.dumps(KEY_FILE).encode())
    for name, document in good().items():
        text = document if isinstance(document, bytes) else json.dumps(document).encode()
        command = ("node", "-e", "console.log(JSON.stringify(JSON.parse(fs.readFileSync(0))))")
        done = subprocess.run(command, input=text, check=True, capture_output=True)
        check: Any = verify.verify_receipt
        if name.startswith("proof"):
            check = verify.verify_proof
        assert check(parse(done.stdout), trusted) == check(parse(text), trusted)


def _sum(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """Add two points of the curve (RFC 8032, 5.1.4, in affine coordinates)."""
    (x1, y1), (x2, y2) = one, other
    product = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, PRIME)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, PRIME)
    return x % PRIME, y % PRIME


def _small_order_points() -> set[tuple[int, int]]:
    """Return all multiples of a point of order eight."""
    y = keys._Y_OF_ORDER_8
    square = (y * y - 1) * pow(D * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    x = x if x * x % PRIME == square else x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    points, point = {(0, 1)}, (x, y)
    while point != (0, 1):
        points.add(point)
        point = _sum(point, (x, y))
    return points


def test_keys_of_small_order_are_rejected() -> None:
    assert len(_small_order_points()) == 8
    for x, y in _small_order_points():
        with pytest.raises(NotVerified, match="small order"):
            keys.load_public_key((y | (x & 1) << 255).to_bytes(32, "little"))
    for y in (PRIME, PRIME + 1, 2**255 - 1):
        for sign in (0, 1):
            with pytest.raises(NotVerified, match="canonical"):
                keys.load_public_key((y | sign << 255).to_bytes(32, "little"))


def test_keys_that_are_not_points_are_rejected() -> None:
    for length in (0, 31, 33):
        with pytest.raises(NotVerified, match="32 bytes"):
            keys.load_public_key(bytes(length))
    with pytest.raises(NotVerified, match="not a point"):
        keys.load_public_key((2).to_bytes(32, "little"))
    for number in range(64):
        assert keys.load_public_key(Signer(number, "active").public)


KEY = {name: each for name, each in ACTIVE.key_entry().items() if name != "state"}
STATES: tuple[Any, ...] = ("lost", "", None, [], {}, False, 0)
WRONG: list[tuple[Any, str]] = [
    ([], "no keys"),
    ({"keys": [KEY, KEY]}, "duplicate key"),
    ({"keys": {}}, "no list of keys"),
    ({"keys": ["x"]}, "not a key"),
    ({"keys": [KEY | {"kid": RETIRED.kid}]}, "kid of a key does not match"),
    ({"keys": [KEY | {"crv": "Ed448"}]}, "not an Ed25519 key"),
    ({"keys": [KEY | {"alg": "RS256"}]}, "not an Ed25519 key"),
    *(
        ({"keys": [KEY | {name: state}]}, "unknown state")
        for name in ("state", "x-state")
        for state in STATES
    ),
    ({"keys": [KEY | {"x": KEY["x"] + "="}]}, "base64url"),
    ({"keys": [{"x": "AQ" + "A" * 41}]}, "small order"),
]


@pytest.mark.parametrize(("document", "why"), WRONG)
def test_invalid_key_files_are_rejected(document: Any, why: str) -> None:
    with pytest.raises(CannotVerify, match=why):
        keys.read_keys(json.dumps(document).encode())
    assert set(keys.read_keys(json.dumps([KEY]).encode())) == {ACTIVE.kid}


@pytest.mark.parametrize("name", ["compromised_at", "x-compromised-at"])
@pytest.mark.parametrize("timestamp", ["2026-11-01T00:00:00Z", "", 0, False, []])
def test_a_key_with_a_compromise_time_is_compromised(name: str, timestamp: Any) -> None:
    document = [KEY | {"state": "active", name: timestamp}]
    assert keys.read_keys(json.dumps(document).encode())[ACTIVE.kid].state == "compromised"
