"""Receipts of a second implementation: ours finds the good ones good, and the bad ones bad."""

import json
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from llmring_verify import call, keys, legacy, merkle, receipt, verify
from llmring_verify.canonical_json import Refused, Unchecked, parse
from tests.vectors.generate.bad import bad
from tests.vectors.generate.good import CALLS, good
from tests.vectors.generate.__main__ import FOLDER, files, written
from tests.vectors.generate.second_signer import ACTIVE, PINNED, export_line, leaf, usage

KEYS = keys.read((FOLDER / "keys.json").read_bytes())
GOOD, BAD = sorted((FOLDER / "good").iterdir()), sorted((FOLDER / "bad").iterdir())
WHY = {name: why for name, (_, why) in bad().items()}


def stem(path: Path) -> str:
    return path.stem


def check(path: Path) -> Any:
    return check_bytes(path.stem, path.read_bytes())


def check_bytes(name: str, data: bytes) -> Any:
    told = parse(data)
    return verify.proof(told, KEYS) if name.startswith("proof") else verify.receipt(told, KEYS)


def test_vectors_are_what_their_maker_makes() -> None:
    there = {
        str(each.relative_to(FOLDER)): each.read_bytes()
        for each in FOLDER.rglob("*")
        if each.is_file()
    }
    assert there == files(), "python -m tests.vectors.generate.__main__"
    assert len(GOOD) >= 20
    assert len(BAD) >= 60


@pytest.mark.parametrize("path", GOOD, ids=stem)
def test_good_vectors_verify(path: Path) -> None:
    assert check(path)


@pytest.mark.parametrize("path", BAD, ids=stem)
def test_bad_vectors_are_refused_for_what_is_wrong_with_them(path: Path) -> None:
    with pytest.raises((Refused, Unchecked)) as refusal:
        check(path)
    assert WHY[path.stem] in str(refusal.value)
    strangers = "not among the keys" in str(refusal.value)
    assert isinstance(refusal.value, Unchecked) == strangers


def test_our_bytes_are_those_of_the_second_implementation() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(ACTIVE.key))
    assert (keys.kid_of(ACTIVE.public), keys.spki(ACTIVE.public)[-32:]) == (
        ACTIVE.kid,
        ACTIVE.public,
    )
    for name, document in good().items():
        if name.startswith(("usage", "batch")) and isinstance(document, dict):
            body = document["receipt"]
            if body["kid"] == ACTIVE.kid:
                assert receipt.envelope(body, key.sign(receipt.signed(body))) == document
    for each in CALLS:
        assert merkle.leaf(call.entry(each)) == leaf(each)
        assert call.from_export(parse(export_line(each).encode(), Decimal)) == each
    assert receipt.call_of(usage(3, CALLS[2])) == CALLS[2]


def test_the_digests_of_old_receipts_are_those_that_are_known() -> None:
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
        assert sha256(legacy.canonical(flat)).hexdigest() == digest
        assert flat["signature"] == f"ed25519:{signatures[name]}"


SIGNED = [path for path in GOOD if not path.stem.startswith("proof")]


def signed(path: Path) -> tuple[str, bytes, bytes]:
    told = parse(path.read_bytes())
    if path.stem.startswith("old"):
        return ACTIVE.kid, legacy.canonical(told), legacy.signature(told)
    told = told["receipt"] if "certified_count" in told else told
    return receipt.opened(told.get("envelope", told))


@pytest.mark.parametrize("path", SIGNED, ids=stem)
def test_no_bit_of_what_is_signed_may_change(path: Path) -> None:
    kid, data, signature = signed(path)
    public = KEYS[kid].public
    assert keys.signed(public, data, signature)
    both = data + signature
    for bit in range(len(both) * 8):
        flipped = bytearray(both)
        flipped[bit // 8] ^= 1 << bit % 8
        changed = bytes(flipped)
        assert not keys.signed(public, changed[: len(data)], changed[len(data) :]), bit


@pytest.mark.parametrize("name", ["usage", "answer-batch", "old", "proof-in-the-middle"])
def test_no_bit_of_a_document_may_change(name: str) -> None:
    data = json.dumps(good()[name]).encode()
    genuine = check_bytes(name, data)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            proved = check_bytes(name, bytes(flipped))
        except (Refused, Unchecked):
            continue
        # What is not signed may change, and white space; never what is proved.
        assert proved == genuine, bit


@settings(max_examples=200)
@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_noise_is_refused(data: bytes) -> None:
    for of in (verify.receipt, verify.proof):
        with pytest.raises(Refused):
            of(parse(data), KEYS)


def test_a_key_may_be_pinned_as_a_jwks() -> None:
    jwks = keys.read((FOLDER / "jwks.json").read_bytes())
    assert {each.kid: each.state for each in jwks.values()} == {
        each["kid"]: each["state"] for each in PINNED["keys"]
    }
    assert written(good()["usage"]) == (FOLDER / "good/usage.json").read_bytes()
