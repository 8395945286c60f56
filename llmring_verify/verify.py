"""What is proved by a document: each function returns it, or raises Refused or Unchecked."""

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any

import rfc8785

from llmring_verify import call, legacy, merkle
from llmring_verify.keys import Key, signed
from llmring_verify.receipt import opened
from llmring_verify.schema import check, count, digest, uuid
from llmring_verify.canonical_json import Refused, Unchecked

Keys = Mapping[str, Key]
Body = dict[str, Any]

OLD = "old"
# No tree is higher.
_HIGHEST = 64
_PROOF = {
    "envelope": lambda value: type(value) is dict,
    "call": lambda value: type(value) is dict,
    "leaf_index": count,
    "tree_size": count,
    "path": lambda value: (
        type(value) is list and len(value) <= _HIGHEST and all(map(digest, value))
    ),
}


def _trusted(key: Key) -> Key:
    if key.state == "compromised":
        raise Refused(
            f"key {key.kid} is compromised: whoever has it can sign anything, with any date,"
            " so nothing that it signed is trusted"
        )
    return key


def envelope(told: Any, keys: Keys) -> Body:
    """Return the receipt in an envelope."""
    kid, data, signature = opened(told)
    if kid not in keys:
        raise Unchecked(f"it is signed by key {kid}, which is not among the keys that you trust")
    if not signed(_trusted(keys[kid]).public, data, signature):
        raise Refused(f"the signature does not fit: it was altered, or key {kid} never signed it")
    body: Body = told["receipt"]
    return body


def receipt(told: Any, keys: Keys) -> Body:
    """Return the receipt in an envelope, in a server's answer around one, or of the old kind."""
    if type(told) is dict and "certified_count" in told:
        told = told.get("receipt")
    if type(told) is not dict:
        raise Refused("it is not a receipt")
    if "path" in told:
        raise Refused("it is a proof of a call; `llmring-verify proof` reads those")
    if told.get("envelope") is not None:
        return _answer(told, keys)
    return envelope(told, keys) if "receipt" in told else _old(told, keys)


def _old(told: Body, keys: Keys) -> Body:
    """An old receipt names no key: any that is trusted may have signed it."""
    found = [key for key in keys.values() if legacy.check(told, key.public)]
    if not found:
        raise Refused("no key that you trust has signed this, or it was altered")
    if uuid(told["receipt_id"]):
        # Only answers around an envelope have such ids, and no client may be told less than all.
        raise Refused("it has lost the envelope that it came with")
    body = {name: told[name] for name in legacy.FIELDS}
    return body | {"kind": OLD, "kid": _trusted(found[0]).kid}


def _answer(told: Body, keys: Keys) -> Body:
    """Whoever reads the flat fields of an answer must not be told other than its envelope says."""
    body = envelope(told["envelope"], keys)
    if not legacy.check(told, keys[body["kid"]].public):
        raise Refused("the signature of the fields beside the envelope does not fit")
    if _beside(told) != _inside(body):
        raise Refused("the fields beside the envelope differ from the receipt in it")
    return body


def _inside(body: Body) -> list[Any]:
    issued_at = datetime.fromisoformat(body["issued_at"])
    told = [body[name] for name in ("receipt_id", "description", "tags")]
    kind = "batch" if body["kind"] == "batch" else "single"
    return [*told, kind, issued_at, body.get("summary_sha256")]


def _beside(told: Body) -> list[Any]:
    summary = told.get("batch_summary")
    try:
        found = None if summary is None else sha256(rfc8785.dumps(summary)).hexdigest()
        at = datetime.fromisoformat(told["timestamp"])
    except (ValueError, RecursionError):
        raise Refused("the fields beside the envelope are not of their form") from None
    names = ("receipt_id", "description", "tags", "receipt_type")
    return [*(told.get(name) for name in names), at, found]


def proof(told: Any, keys: Keys) -> tuple[Body, Body]:
    """Return the receipt of a batch, and the one call that the proof shows to be part of it."""
    check(told, _PROOF, "proof")
    body, one = envelope(told["envelope"], keys), told["call"]
    if body["kind"] != "batch":
        raise Refused("the receipt is not that of a batch")
    if told["tree_size"] != body["count"]:
        raise Refused("the proof is for another number of calls than the receipt tells of")
    call.check(one)
    path, root = [bytes.fromhex(each) for each in told["path"]], bytes.fromhex(body["leaves_root"])
    leaf = merkle.leaf(call.entry(one))
    if not merkle.included(leaf, told["leaf_index"], told["tree_size"], path, root):
        raise Refused("this call is not in the batch: the call or its proof was altered")
    if not body["from"] <= one["logged_at"] <= body["to"]:
        raise Refused("the call lies outside the time that the receipt tells of")
    return body, one
