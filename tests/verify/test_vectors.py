"""The vectors: the verifier accepts the good ones and rejects the bad ones for their defect."""

import json
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from llmring_verify import keys, legacy, merkle, receipt, verify
from llmring_verify.canonical_json import CannotVerify, NotVerified, parse
from tests.vectors.generate.bad import bad
from tests.vectors.generate.files import FOLDER, encode, files
from tests.vectors.generate.good import CALLS, good
from tests.vectors.generate.second_signer import ACTIVE, KEY_FILE, export_line, leaf, usage

KEYS = keys.read_keys((FOLDER / "keys.json").read_bytes())
GOOD, BAD = sorted((FOLDER / "good").iterdir()), sorted((FOLDER / "bad").iterdir())
REASONS = {name: reason for name, (_, reason) in bad().items()}


def stem(path: Path) -> str:
    return path.stem


def check(path: Path) -> Any:
    return check_bytes(path.stem, path.read_bytes())


def check_bytes(name: str, data: bytes) -> Any:
    document = parse(data)
    if name.startswith("proof"):
        return verify.verify_proof(document, KEYS)
    return verify.verify_receipt(document, KEYS)


def test_the_generator_reproduces_the_vectors() -> None:
    there = {str(each.relative_to(FOLDER)): each.read_bytes() for each in FOLDER.rglob("*.json*")}
    assert there == files(), "python -m tests.vectors.generate.__main__"
    assert len(GOOD) >= 20
    assert len(BAD) >= 60


@pytest.mark.parametrize("path", GOOD, ids=stem)
def test_good_vectors_verify(path: Path) -> None:
    assert check(path)


@pytest.mark.parametrize("path", BAD, ids=stem)
def test_bad_vectors_are_rejected_for_their_defect(path: Path) -> None:
    with pytest.raises((NotVerified, CannotVerify)) as error:
        check(path)
    assert REASONS[path.stem] in str(error.value)
    unknown_key = "not among your trusted keys" in str(error.value)
    assert isinstance(error.value, CannotVerify) == unknown_key


def test_both_implementations_write_the_same_bytes() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(ACTIVE.key))
    assert (keys.key_id(ACTIVE.public), keys.spki(ACTIVE.public)[-32:]) == (
        ACTIVE.kid,
        ACTIVE.public,
    )
    for name, document in good().items():
        if name.startswith(("usage", "batch")) and isinstance(document, dict):
            body = document["receipt"]
            if body["kid"] == ACTIVE.kid:
                data = receipt.signed_bytes(body)
                sig = receipt.base64url(key.sign(data))
                assert receipt.open_envelope(document)[1] == data
                assert document["signature"] == {"alg": "Ed25519", "kid": ACTIVE.kid, "sig": sig}
    for call in CALLS:
        assert merkle.leaf_hash(receipt.leaf_entry(call)) == leaf(call)
        assert receipt.call_from_export(parse(export_line(call).encode(), Decimal)) == call
    assert receipt.call_from_receipt(usage(3, CALLS[2])) == CALLS[2]


def test_legacy_receipts_have_the_known_digests_and_signatures() -> None:
    known = {
        "old": "6496012a72a500c1ee811605221d51f749f74c5f2c7c9b7cd3446c4841f4c27a",
        "old-batch": "cf885166c991efb90e84e16a23bc488e184098d928198c7ec402dbf6a0ab80c3",
    }
    signatures = {
        "old": "TZCLyONmyMIXyBZb5l6GtJJIVDVwFjWWYbOBbv3_gq5Lw9vnU-DReelj_LHk0J5g"
        "XJdB4lA6Ix1Y9DxG0BNIAw",
        "old-batch": "iN0dYf3XJJ9m-fvlVkey8s_k-siWeDI432Z8w00TCvzD2fbtpSuq983R44eddNXc"
        "W4aur25uSlR6jfz4i1cTCQ",
    }
    for name, digest in known.items():
        flat = good()[name]
        assert sha256(legacy.signed_bytes(flat)).hexdigest() == digest
        assert flat["signature"] == f"ed25519:{signatures[name]}"


def signed(path: Path) -> tuple[str, bytes, bytes]:
    document = parse(path.read_bytes())
    if path.stem.startswith("old"):
        return ACTIVE.kid, legacy.signed_bytes(document), legacy.signature(document)
    document = document["receipt"] if "certified_count" in document else document
    return receipt.open_envelope(document.get("envelope", document))


# One of each kind: every bit costs a signature.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["answer-batch", "batch-of-three", "old", "old-batch", "usage", "usage-by-a-retired-key"],
)
def test_changing_any_signed_bit_invalidates_the_signature(name: str) -> None:
    kid, data, signature = signed(FOLDER / "good" / f"{name}.json")
    public = KEYS[kid].public
    assert keys.is_valid_signature(public, data, signature)
    both = data + signature
    for bit in range(len(both) * 8):
        flipped = bytearray(both)
        flipped[bit // 8] ^= 1 << bit % 8
        changed = bytes(flipped)
        assert not keys.is_valid_signature(public, changed[: len(data)], changed[len(data) :]), bit


@pytest.mark.slow
@pytest.mark.parametrize("name", ["usage", "answer-batch", "old", "proof-in-the-middle"])
def test_changing_any_bit_of_a_document_never_changes_what_is_proved(name: str) -> None:
    data = json.dumps(good()[name]).encode()
    genuine = check_bytes(name, data)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            proved = check_bytes(name, bytes(flipped))
        except (NotVerified, CannotVerify):
            continue
        # White space and fields that are not signed may change.
        assert proved == genuine, bit


@settings(max_examples=200)
@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_noise_is_rejected(data: bytes) -> None:
    for check_document in (verify.verify_receipt, verify.verify_proof):
        with pytest.raises(NotVerified):
            check_document(parse(data), KEYS)


def test_a_jwks_is_a_key_file() -> None:
    jwks = keys.read_keys((FOLDER / "jwks.json").read_bytes())
    assert {jwk.kid: jwk.state for jwk in jwks.values()} == {
        key["kid"]: key["state"] for key in KEY_FILE["keys"]
    }
    assert encode(good()["usage"]) == (FOLDER / "good/usage.json").read_bytes()
