"""Receipts with invalid signatures, each with one defect, and the expected reason."""

import copy
import json
from collections.abc import Callable
from typing import Any

import rfc8785

from tests.vectors.generate.good import CALLS, LEGACY, legacy
from tests.vectors.generate.second_signer import (  # fmt: skip
    ACTIVE,
    COMPROMISED,
    RETIRED,
    STRANGER,
    Document,
    Signer,
    b64,
    batch,
    usage,
)

ORDER = 2**252 + 27742317777372353535851937790883648493
BODY = usage(31)
GOOD = ACTIVE.envelope(BODY)
SIG = GOOD["signature"]["sig"]
HEAD, JCS = b"llmring-receipt/1\n", rfc8785.dumps(BODY)
RAW = ACTIVE.sign(HEAD + JCS)

Bad = tuple[Any, str]


def signature(**changes: Any) -> Document:
    return GOOD | {"signature": GOOD["signature"] | changes}


def altered(change: Callable[[Document], Any], document: Document = GOOD) -> Document:
    """Change a signed receipt and its digest, but not the signature."""
    made = copy.deepcopy(document)
    change(made["receipt"])
    return made | {"signed_sha256": ACTIVE.envelope(made["receipt"])["signed_sha256"]}


def signing(data: bytes, signer: Signer = ACTIVE) -> Document:
    """Replace the signature with one of other bytes."""
    return signature(sig=b64(signer.sign(data)))


def _signatures() -> dict[str, Bad]:
    lifted = (int.from_bytes(RAW[32:], "little") + ORDER).to_bytes(32, "little")
    identity = (1).to_bytes(32, "little") + bytes(32)
    other = ACTIVE.envelope(usage(32))["signature"]["sig"]
    found = {
        "one-bit-flipped": signature(sig=b64(bytes([RAW[0] ^ 1]) + RAW[1:])),
        "of-another-receipt": signature(sig=other),
        "with-s-plus-the-order": signature(sig=b64(RAW[:32] + lifted)),
        "of-zeros": signature(sig=b64(bytes(64))),
        "of-small-order": signature(sig=b64(identity)),
        "by-another-pinned-key": signing(HEAD + JCS, RETIRED),
        "without-the-first-line": signing(JCS),
        "of-the-digest": signing(bytes.fromhex(GOOD["signed_sha256"])),
        "of-json-not-canonical": signing(HEAD + json.dumps(BODY).encode()),
        "under-another-version": signing(b"llmring-receipt/2\n" + JCS),
    }
    return {f"signature-{name}": (each, "invalid signature") for name, each in found.items()}


def _spellings() -> dict[str, Bad]:
    last = chr(ord(SIG[-1]) + 1)
    found = {
        "63-bytes": b64(RAW[:63]),
        "65-bytes": b64(RAW + b"\0"),
        "empty": "",
        "padded": SIG + "==",
        "with-stray-bits": SIG[:-1] + last,
        "with-white-space": SIG[:40] + "\n" + SIG[40:],
    }
    why = "not 64 bytes of base64url"
    return {f"signature-{name}": (signature(sig=each), why) for name, each in found.items()} | {
        "signature-null": (signature(sig=None), "envelope: invalid value for signature")
    }


def _keys() -> dict[str, Bad]:
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64(STRANGER.public)}
    stranger = STRANGER.envelope(usage(33, signer=STRANGER))
    posing = STRANGER.envelope(usage(33))
    return {
        "key-unknown": (stranger, "not among your trusted keys"),
        "key-unknown-and-brought-along": (stranger | {"jwk": jwk}, "envelope: 1 unknown field"),
        "key-brought-along-in-the-signature": (
            signature(jwk=jwk),
            "envelope: invalid value for signature",
        ),
        "key-posing-as-a-pinned-one": (posing, "invalid signature"),
        "key-compromised": (COMPROMISED.envelope(usage(34, signer=COMPROMISED)), "compromised"),
        "key-compromised-of-an-old-receipt": (legacy(LEGACY, COMPROMISED), "compromised"),
        "key-two-names": (signature(kid=RETIRED.kid), "different keys"),
        "key-in-capitals": (
            signature(kid=ACTIVE.kid.upper()),
            "envelope: invalid value for signature",
        ),
        "algorithm-none": (signature(alg="none"), "envelope: invalid value for signature"),
        "algorithm-of-a-secret": (signature(alg="HS256"), "envelope: invalid value for signature"),
        "algorithm-in-small-letters": (
            signature(alg="ed25519"),
            "envelope: invalid value for signature",
        ),
    }


def _altered() -> dict[str, Bad]:
    def more(body: Document) -> None:
        body["cost"]["amount"] = "9.0000000000"

    invalid = "invalid signature"
    many = ACTIVE.envelope(batch(41, CALLS))
    return {
        "altered-amount": (altered(more), invalid),
        "altered-tokens": (altered(lambda body: body["tokens"].update(input=1)), invalid),
        "altered-model": (altered(lambda body: body.update(model="gpt-4o")), invalid),
        "altered-time": (altered(lambda body: body.update(issued_at=BODY["logged_at"])), invalid),
        "altered-project": (altered(lambda body: body.update(project_id=BODY["log_id"])), invalid),
        "altered-count": (altered(lambda body: body.update(count=8), many), invalid),
        "altered-root": (altered(lambda body: body.update(leaves_root="0" * 64), many), invalid),
        "altered-tags": (altered(lambda body: body.update(tags=["paid"]), many), invalid),
        "altered-old": (legacy(LEGACY) | {"total_cost": 0.002}, "none of your trusted keys"),
        "altered-old-time": (
            legacy(LEGACY) | {"timestamp": "2025-10-02T12:34:56Z"},
            "none of your trusted keys",
        ),
        "digest-of-something-else": (GOOD | {"signed_sha256": "0" * 64}, "not the digest"),
    }


def signatures() -> dict[str, Bad]:
    """Return each document by name, with a part of the expected error."""
    return {**_signatures(), **_spellings(), **_keys(), **_altered()}
