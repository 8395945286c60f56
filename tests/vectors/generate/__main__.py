"""Write tests/vectors again: python -m tests.vectors.generate.__main__."""

import json
import shutil
from pathlib import Path
from typing import Any

from tests.vectors.generate.bad import bad
from tests.vectors.generate.good import CALLS, good
from tests.vectors.generate.second_signer import ACTIVE, PINNED, batch, call, export_line, usage

FOLDER = Path(__file__).parent / "vectors"


def written(document: Any) -> bytes:
    if isinstance(document, bytes):
        return document
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def walk() -> dict[str, bytes]:
    """Return what an auditor has: an export, its receipts, and another export of later."""
    one, first, rest = usage(61, call(8)), batch(62, CALLS[:4]), batch(63, CALLS[4:])
    receipts = [json.dumps(ACTIVE.seal(body)).encode() + b"\n" for body in (one, first, rest)]
    calls = [*CALLS, call(8)][::-1]
    changed = [call(5, model="gpt-4o") if each == CALLS[4] else each for each in calls]
    later = [call(9), *changed[:-1]]
    return {
        "calls.jsonl": "".join(map(export_line, calls)).encode(),
        "calls-later.jsonl": "".join(map(export_line, later)).encode(),
        "receipts.jsonl": b"".join(receipts),
    }


def files() -> dict[str, bytes]:
    """Return all of the vectors by their paths."""
    jwks = [
        {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", **_known(each)}
        for each in PINNED["keys"]
    ]
    return {
        **{f"good/{name}.json": written(document) for name, document in good().items()},
        **{f"bad/{name}.json": written(document) for name, (document, _) in bad().items()},
        "keys.json": written(PINNED),
        "jwks.json": written({"keys": jwks}),
        **walk(),
    }


def _known(key: dict[str, Any]) -> dict[str, Any]:
    return {"kid": key["kid"], "x": key["x"], "x-state": key["state"]}


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name, data in files().items():
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()
