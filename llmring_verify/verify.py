"""Verify receipts and proofs: each function returns what is proved.

Each function raises NotVerified if the document is not genuine, or CannotVerify if the document
cannot be checked with the trusted keys.
"""

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any

import rfc8785

from llmring_verify import legacy
from llmring_verify.canonical_json import CannotVerify, NotVerified
from llmring_verify.keys import TrustedKey, is_valid_signature
from llmring_verify.merkle import is_included, leaf_hash
from llmring_verify.receipt import leaf_entry, open_envelope, validate_call
from llmring_verify.schema import is_count, is_object, is_sha256, validate

TrustedKeys = Mapping[str, TrustedKey]
Body = dict[str, Any]

# The `kind` of a legacy receipt, beside "usage" and "batch".
LEGACY = "legacy"
# A tree of 2^53 leaves is 53 levels high.
_MAX_PATH_LENGTH = 64


def _is_path(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) <= _MAX_PATH_LENGTH
        and all(is_sha256(item) for item in value)
    )


_PROOF_SCHEMA = {
    "envelope": is_object,
    "call": is_object,
    "leaf_index": is_count,
    "tree_size": is_count,
    "path": _is_path,
}


def verify_envelope(document: Any, keys: TrustedKeys) -> Body:
    """Return the receipt in an envelope."""
    kid, data, signature = open_envelope(document)
    if kid not in keys:
        raise CannotVerify(f"signed by key {kid}, which is not among your trusted keys")
    _reject_compromised(keys[kid])
    if not is_valid_signature(keys[kid].public, data, signature):
        raise NotVerified(
            f"invalid signature: the receipt was altered, or key {kid} did not sign it"
        )
    receipt: Body = document["receipt"]
    return receipt


def _reject_compromised(key: TrustedKey) -> None:
    if key.state == "compromised":
        raise NotVerified(
            f"key {key.kid} is compromised: its holder can sign anything with any date,"
            " so none of its signatures is trusted"
        )


def verify_receipt(document: Any, keys: TrustedKeys) -> Body:
    """Return the receipt in an envelope, in a server's response, or in the legacy format."""
    if type(document) is dict and "certified_count" in document:
        document = document.get("receipt")
    if type(document) is not dict:
        raise NotVerified("not a receipt")
    if "path" in document:
        raise NotVerified("this is a proof, not a receipt; use `llmring-verify proof`")
    if document.get("envelope") is not None:
        return _verify_response(document, keys)
    if "receipt" in document:
        return verify_envelope(document, keys)
    return _verify_legacy(document, keys)


def _verify_legacy(document: Body, keys: TrustedKeys) -> Body:
    # A legacy receipt has no key id, so any trusted key may have signed it.
    signers = [key for key in keys.values() if legacy.is_signed_by(document, key.public)]
    if not signers:
        raise NotVerified("none of your trusted keys signed this receipt, or it was altered")
    if legacy.envelope_id(document["receipt_id"]):
        # Without the envelope, 13 fields are signed and the others can be forged.
        raise NotVerified("the envelope of this receipt is missing")
    _reject_compromised(signers[0])
    receipt = {name: document[name] for name in legacy.FIELDS}
    return receipt | {"kind": LEGACY, "kid": signers[0].kid}


def _verify_response(document: Body, keys: TrustedKeys) -> Body:
    """Return the receipt in a server's response, if its flat fields agree with its envelope.

    Clients of the first servers read the flat fields and not the envelope.
    """
    receipt = verify_envelope(document["envelope"], keys)
    if not legacy.is_signed_by(document, keys[receipt["kid"]].public):
        raise NotVerified("invalid signature of the fields beside the envelope")
    if _response_fields(document) != _receipt_fields(receipt):
        raise NotVerified("the fields beside the envelope differ from the receipt in it")
    return receipt


def _receipt_fields(receipt: Body) -> Body:
    return {
        "receipt_id": receipt["receipt_id"],
        "description": receipt["description"],
        "tags": receipt["tags"],
        "type": "batch" if receipt["kind"] == "batch" else "single",
        "issued_at": datetime.fromisoformat(receipt["issued_at"]),
        "summary_sha256": receipt.get("summary_sha256"),
    }


def _response_fields(document: Body) -> Body:
    summary = document.get("batch_summary")
    try:
        digest = None if summary is None else sha256(rfc8785.dumps(summary)).hexdigest()
        issued_at = datetime.fromisoformat(document["timestamp"])
    except (ValueError, RecursionError):
        raise NotVerified("invalid values in the fields beside the envelope") from None
    return {
        "receipt_id": legacy.envelope_id(document.get("receipt_id")),
        "description": document.get("description"),
        "tags": document.get("tags"),
        "type": document.get("receipt_type"),
        "issued_at": issued_at,
        "summary_sha256": digest,
    }


def verify_proof(document: Any, keys: TrustedKeys) -> tuple[Body, Body]:
    """Return the receipt of a batch, and the call that the proof shows to be in the batch."""
    validate(document, _PROOF_SCHEMA, "proof")
    receipt, call = verify_envelope(document["envelope"], keys), document["call"]
    if receipt["kind"] != "batch":
        raise NotVerified("the receipt is not a batch receipt")
    if document["tree_size"] != receipt["count"]:
        raise NotVerified("the proof and the receipt state different numbers of calls")
    validate_call(call)
    leaf = leaf_hash(leaf_entry(call))
    path = [bytes.fromhex(node) for node in document["path"]]
    root = bytes.fromhex(receipt["leaves_root"])
    if not is_included(leaf, document["leaf_index"], document["tree_size"], path, root):
        raise NotVerified("the call is not in the batch: the call or the proof was altered")
    if not receipt["from"] <= call["logged_at"] <= receipt["to"]:
        raise NotVerified("the call is outside the time range of the receipt")
    return receipt, call
