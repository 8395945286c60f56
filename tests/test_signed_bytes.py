"""What is signed is RFC 8785's, under keys of the curve: independent implementations agree."""

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
from llmring_verify.strict import MOST, Refused, Unchecked, canonical, parse
from tests.good_vectors import STRANGE, good
from tests.second_signer import ACTIVE, PINNED, RETIRED, Doc, Signer, batch, call, usage

NAMES = st.text(st.characters(max_codepoint=0x7F), max_size=8)
SIGNED = st.recursive(
    st.none() | st.booleans() | st.integers(-MOST, MOST) | st.text(),
    lambda each: st.lists(each, max_size=5) | st.dictionaries(NAMES, each, max_size=5),
)
PRIME, D = 2**255 - 19, -121665 * pow(121666, -1, 2**255 - 19)


@given(SIGNED)
def test_canonical_is_rfc_8785(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)
    assert parse(canonical(value)) == value


def _random(random: Random, number: int, signer: Signer) -> Doc:
    def text() -> str:
        return "".join(random.choices(STRANGE + "abc", k=random.randrange(20)))

    calls = [call(each, model=text(), alias=text()) for each in range(1, random.randrange(2, 6))]
    if random.random() < 0.3:
        return batch(number, calls, signer, description=text(), tags=[text()])
    return usage(number, calls[0], signer, lock_digest=text())


@pytest.mark.slow
def test_10_000_receipts_verify_with_two_verifiers() -> None:
    random, pinned = Random(35), keys.read(json.dumps(PINNED).encode())  # noqa: S311, again the same
    for number in range(10_000):
        signer = random.choice((ACTIVE, RETIRED))
        ours = Ed25519PrivateKey.from_private_bytes(bytes(signer.key))
        body = _random(random, number, signer)
        signed = receipt.signed(body)
        assert signed == b"llmring-receipt/1\n" + rfc8785.dumps(body)
        signature = ours.sign(signed)
        nacl.signing.VerifyKey(signer.public).verify(signed, signature)
        assert verify.receipt(receipt.envelope(body, signature), pinned) == body


@pytest.mark.parametrize("number", range(10))
def test_openssl_verifies_them(number: int, tmp_path: Path) -> None:
    body = _random(Random(number), number, ACTIVE)  # noqa: S311, again the same
    _, data, signature = receipt.opened(ACTIVE.seal(body))
    for name, content in {"key": keys.spki(ACTIVE.public), "data": data, "sig": signature}.items():
        (tmp_path / name).write_bytes(content)
    command = "openssl pkeyutl -verify -pubin -keyform DER -inkey key -rawin -in data -sigfile sig"
    done = subprocess.run(command.split(), cwd=tmp_path, check=False, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"Signature Verified Successfully\n")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="no JavaScript here")
def test_receipts_survive_javascript() -> None:
    pinned = keys.read(json.dumps(PINNED).encode())
    for name, document in good().items():
        text = document if isinstance(document, bytes) else json.dumps(document).encode()
        command = ("node", "-e", "console.log(JSON.stringify(JSON.parse(fs.readFileSync(0))))")
        done = subprocess.run(command, input=text, check=True, capture_output=True)
        of: Any = verify.proof if name.startswith("proof") else verify.receipt
        assert of(parse(done.stdout), pinned) == of(parse(text), pinned)


def _sum(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """Add two points of the curve (RFC 8032, 5.1.4, in affine coordinates)."""
    (x1, y1), (x2, y2) = one, other
    product = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, PRIME)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, PRIME)
    return x % PRIME, y % PRIME


def _small() -> set[tuple[int, int]]:
    """Return all multiples of a point of order eight: its double doubled is (0, -1)."""
    y = keys._ORDER_8
    square = (y * y - 1) * pow(D * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    x = x if x * x % PRIME == square else x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    points, point = {(0, 1)}, (x, y)
    while point != (0, 1):
        points.add(point)
        point = _sum(point, (x, y))
    return points


def test_keys_of_small_order_are_refused() -> None:
    assert len(_small()) == 8
    for x, y in _small():
        with pytest.raises(Refused, match="small order"):
            keys.load_public((y | (x & 1) << 255).to_bytes(32, "little"))
    for y in (PRIME, PRIME + 1, 2**255 - 1):
        for sign in (0, 1):
            with pytest.raises(Refused, match="canonical"):
                keys.load_public((y | sign << 255).to_bytes(32, "little"))


def test_keys_that_are_no_points_are_refused() -> None:
    for length in (0, 31, 33):
        with pytest.raises(Refused, match="32 bytes"):
            keys.load_public(bytes(length))
    with pytest.raises(Refused, match="point"):
        keys.load_public((2).to_bytes(32, "little"))
    for number in range(64):
        assert keys.load_public(Signer(number, "active").public)


KEY = {name: each for name, each in ACTIVE.told().items() if name != "state"}
STATES: tuple[Any, ...] = ("lost", "", None, [], {}, False, 0)
WRONG: list[tuple[Any, str]] = [
    ([], "no key"),
    ({"keys": [KEY, KEY]}, "twice"),
    ({"keys": {}}, "no list"),
    ({"keys": ["x"]}, "no key"),
    ({"keys": [KEY | {"kid": RETIRED.kid}]}, "another key's id"),
    ({"keys": [KEY | {"crv": "Ed448"}]}, "not of Ed25519"),
    ({"keys": [KEY | {"alg": "RS256"}]}, "not of Ed25519"),
    *(
        ({"keys": [KEY | {name: state}]}, "unknown state")
        for name in ("state", "x-state")
        for state in STATES
    ),
    ({"keys": [KEY | {"x": KEY["x"] + "="}]}, "base64url"),
    ({"keys": [{"x": "AQ" + "A" * 41}]}, "small order"),
]


@pytest.mark.parametrize(("document", "why"), WRONG)
def test_documents_of_other_keys_are_not_taken(document: Any, why: str) -> None:
    with pytest.raises(Unchecked, match=why):
        keys.read(json.dumps(document).encode())
    assert set(keys.read(json.dumps([KEY]).encode())) == {ACTIVE.kid}


@pytest.mark.parametrize("name", ["compromised_at", "x-compromised-at"])
@pytest.mark.parametrize("moment", ["2026-11-01T00:00:00Z", "", 0, False, []])
def test_a_key_that_tells_when_it_was_lost_is_lost(name: str, moment: Any) -> None:
    document = [KEY | {"state": "active", name: moment}]
    assert keys.read(json.dumps(document).encode())[ACTIVE.kid].state == "compromised"
