"""The files of the vectors: documents that verify, documents that do not, keys, and an export."""

import json
from pathlib import Path
from typing import Any

from tests.vectors.generate.bad import bad
from tests.vectors.generate.good import CALLS, good
from tests.vectors.generate.second_signer import ACTIVE, KEY_FILE, batch, call, export_line, usage

FOLDER = Path(__file__).parents[1]


def encode(document: Any) -> bytes:
    """Write a document as JSON; bytes are written unchanged."""
    if isinstance(document, bytes):
        return document
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def export_files() -> dict[str, bytes]:
    """Return an export, its receipts, and a later export in which some calls differ."""
    bodies = [usage(61, call(8)), batch(62, CALLS[:4]), batch(63, CALLS[4:])]
    receipts = [json.dumps(ACTIVE.envelope(body)).encode() + b"\n" for body in bodies]
    calls = [*CALLS, call(8)][::-1]
    changed = [call(5, model="gpt-4o") if each == CALLS[4] else each for each in calls]
    later = [call(9), *changed[:-1]]
    return {
        "calls.jsonl": "".join(map(export_line, calls)).encode(),
        "calls-later.jsonl": "".join(map(export_line, later)).encode(),
        "receipts.jsonl": b"".join(receipts),
    }


def jwks() -> dict[str, Any]:
    keys = [
        {
            "kty": "OKP",
            "crv": "Ed25519",
            "alg": "EdDSA",
            "use": "sig",
            "kid": key["kid"],
            "x": key["x"],
            "x-state": key["state"],
        }
        for key in KEY_FILE["keys"]
    ]
    return {"keys": keys}


def files() -> dict[str, bytes]:
    """Return all vectors by path."""
    return {
        **{f"good/{name}.json": encode(document) for name, document in good().items()},
        **{f"bad/{name}.json": encode(document) for name, (document, _) in bad().items()},
        "keys.json": encode(KEY_FILE),
        "jwks.json": encode(jwks()),
        **export_files(),
    }
