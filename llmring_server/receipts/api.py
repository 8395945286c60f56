"""HTTP API of receipts and of the public keys that verify them."""

import json
from typing import Annotated, Any, Literal, NotRequired
from uuid import UUID

from pydantic import BaseModel, Field
from starlette.responses import Response
from typing_extensions import TypedDict

from llmring_server.core.strict_json import JsonObject
from llmring_server.errors import BadRequest, Conflict, NotFound
from llmring_server.receipts.models import (
    InclusionProof,
    IssuedBatchReceipt,
    IssueRequest,
    OffsetPage,
    Receipt,
    ReceiptCallPage,
    ReceiptCalls,
    ReceiptList,
    ReceiptPage,
    ReceiptPreview,
    ReceiptRequest,
)
from llmring_server.receipts.signing_keys import Keyring, SigningKey
from llmring_server.receipts.verification import VerificationResult, invalid_result
from llmring_server.usage.api import jsonl_response
from llmring_server.usage.export import JSONL_MEDIA_TYPE
from llmring_server.usage.models import ExportedCall
from llmring_server.web.request import IdOf, RawBody, Request, link, render
from llmring_server.web.request_limits import JSON
from llmring_verify.canonical_json import NotVerified, parse
from llmring_verify.keys import KeyState

# A new key is published for a day before it signs, so an hour-old copy has it.
PUBLIC_KEY_HEADERS = {"Cache-Control": "public, max-age=3600"}
TEXT = "text/plain; charset=utf-8"
PEM = "application/x-pem-file"

# `rcpt_` and 32 digits, the UUID of the envelope, or whatever another server chose.
ReceiptId = Annotated[str, Field(pattern=r"^[^\x00]+$"), IdOf("Receipt")]
CallId = Annotated[UUID, IdOf("Call")]


class ReceiptToStore(BaseModel):
    """A receipt to store, as `GET /api/v1/receipts/{id}` returns it."""

    receipt: JsonObject


class StoredReceiptResponse(TypedDict):
    """A receipt that was verified and stored."""

    receipt_id: str
    status: Literal["verified"]


async def list_receipts(request: Request, query: ReceiptPage) -> Annotated[ReceiptList, "Link"]:
    """List receipts, newest first. A page has fewer than `limit` receipts if they are large."""
    page = await request.ring.receipts.with_unparsed_json().list(request.project_id, query)
    if page["next"]:
        request.response_headers = link(query, page["next"])
    return page


async def get_receipt(request: Request, id: ReceiptId) -> Receipt:
    """Get a receipt, with the envelope that proves it."""
    return await request.ring.receipts.get(request.project_id, id)


async def list_receipt_calls(request: Request, id: ReceiptId, query: OffsetPage) -> ReceiptCalls:
    """List the calls that a receipt certifies, newest first."""
    with request.long_running_slot():
        return await request.ring.receipts.calls(request.project_id, id, query)


async def get_receipt_proof(request: Request, id: ReceiptId, log_id: CallId) -> InclusionProof:
    """Get the proof that a batch receipt certifies a call."""
    with request.long_running_slot():
        return await request.ring.receipts.proof(request.project_id, id, log_id)


async def list_uncertified_calls(request: Request, query: OffsetPage) -> ReceiptCallPage:
    """List the calls that no receipt certifies, newest first."""
    with request.long_running_slot():
        return await request.ring.receipts.uncertified(request.project_id, query)


async def generate_receipt(
    request: Request, body: ReceiptRequest
) -> Annotated[IssuedBatchReceipt, Conflict]:
    """Issue a receipt for uncertified calls, or for calls by conversation, period or id."""
    with request.long_running_slot():
        return await request.ring.receipts.generate(request.project_id, body)


async def preview_receipt(request: Request, body: ReceiptRequest) -> ReceiptPreview:
    """Preview what a receipt would certify. Nothing is signed or stored."""
    with request.long_running_slot():
        return await request.ring.receipts.preview(request.project_id, body)


async def issue_receipt(
    request: Request, body: IssueRequest
) -> Annotated[Receipt, NotFound, Conflict]:
    """Issue the receipt of one stored call, or return the existing one."""
    with request.long_running_slot():
        return await request.ring.receipts.issue(request.project_id, body.log_id)


async def import_receipt(
    request: Request, body: ReceiptToStore
) -> Annotated[StoredReceiptResponse, Conflict]:
    """Store a receipt that was signed with a key of this server, here or elsewhere."""
    receipt_id = await request.ring.receipts.store(request.project_id, body.receipt)
    return {"receipt_id": receipt_id, "status": "verified"}


async def verify_receipt(
    request: Request, body: Annotated[RawBody, {JSON: dict[str, Any]}]
) -> VerificationResult:
    """Verify a receipt or its envelope with the keys of this server."""
    try:
        document = parse(body.data)
    except NotVerified as exc:
        # Ambiguous JSON, such as a duplicate name, proves nothing. It is a result, not an error.
        _require_json(body.data)
        return invalid_result(str(exc))
    return request.ring.receipts.verify(document)


def _require_json(data: bytes) -> None:
    try:
        json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise BadRequest("The body is not JSON.") from exc


async def export_receipt(
    request: Request, id: ReceiptId
) -> Annotated[Response, {JSONL_MEDIA_TYPE: ExportedCall}]:
    """Export the calls that a receipt certifies, newest first, as JSON lines."""
    calls = request.ring.receipts.with_unparsed_json().export(request.project_id, id)
    return await jsonl_response(calls, "receipt.jsonl", request)


# Public keys.


class Jwk(TypedDict):
    """A public key as a JWK (RFC 8037)."""

    kid: str
    kty: str
    crv: str
    x: str


JwksKey = TypedDict(
    "JwksKey",
    {
        "kid": str,
        "kty": str,
        "crv": str,
        "x": str,
        "use": str,
        "alg": str,
        "nbf": NotRequired[int],
        "x-retired-at": str | None,
    },
)
JwksKey.__doc__ = """A public key of a JWKS (RFC 7517, RFC 8037).

`x-retired-at` is not from a standard: when the key was retired, or null.
"""


class Jwks(TypedDict):
    """The trusted public keys as a JWKS (RFC 7517)."""

    keys: list[JwksKey]


class PublicKey(Jwk):
    """A public key and its state."""

    alg: str
    state: KeyState
    not_before: str | None
    retired_at: str | None
    compromised_at: str | None


class PublicKeyCompat(PublicKey):
    """A public key, with the additional names that older clients read."""

    key_id: str
    public_key: str
    algorithm: str
    format: str


class PublicKeyDocument(TypedDict):
    """All public keys and their states; `llmring-verify --keys` reads this document."""

    issuer: str
    keys: list[PublicKeyCompat]
    current_key_id: str


async def get_public_key_pem(request: Request) -> Annotated[Response, {TEXT: str}, NotFound]:
    """Get the active public key in PEM."""
    return Response(_keyring(request).active.pem, headers=PUBLIC_KEY_HEADERS, media_type=TEXT)


async def get_public_key_pem_compat(request: Request) -> Annotated[Response, {PEM: str}, NotFound]:
    """Get the active public key in PEM, with the media type that older clients expect."""
    return Response(_keyring(request).active.pem, headers=PUBLIC_KEY_HEADERS, media_type=PEM)


async def get_public_key_jwk(request: Request) -> Annotated[Response, {JSON: Jwk}, NotFound]:
    """Get the active public key as a JWK."""
    return _cacheable(_keyring(request).active.jwk)


async def list_public_keys(
    request: Request,
) -> Annotated[Response, {JSON: list[PublicKey]}, NotFound]:
    """List all public keys and their states."""
    return _cacheable([_public_key(key) for key in _keyring(request).keys.values()])


async def get_public_key_document(
    request: Request,
) -> Annotated[Response, {JSON: PublicKeyDocument}, NotFound]:
    """Get all public keys as a document to save and to verify with."""
    keyring = _keyring(request)
    document = {
        "issuer": request.ring.settings.receipt_issuer,
        "keys": [_public_key_compat(key) for key in keyring.keys.values()],
        "current_key_id": keyring.active.kid,
    }
    return _cacheable(document)


async def get_jwks(request: Request) -> Annotated[Response, {JSON: Jwks}, NotFound]:
    """Get the public keys as a JWKS, without compromised keys: a JWKS has no state for them."""
    keyring = _keyring(request)
    return _cacheable({"keys": [_jwks_key(keyring.keys[kid]) for kid in keyring.trusted]})


def _keyring(request: Request) -> Keyring:
    keyring = request.ring.receipts.keyring
    if keyring is None:
        raise NotFound("Public key not configured")
    return keyring


def _cacheable(document: Any) -> Response:
    return Response(render(document), headers=PUBLIC_KEY_HEADERS, media_type=JSON)


def _public_key(key: SigningKey) -> dict[str, Any]:
    return {**key.jwk, "alg": "Ed25519", "state": key.state, **key.timestamps}


def _public_key_compat(key: SigningKey) -> dict[str, Any]:
    return {
        **_public_key(key),
        "key_id": key.kid,
        "public_key": key.jwk["x"],
        "algorithm": "Ed25519",
        "format": "base64url",
    }


def _jwks_key(key: SigningKey) -> dict[str, Any]:
    jwks_key: dict[str, Any] = {**key.jwk, "use": "sig", "alg": "EdDSA"}
    if key.not_before:
        jwks_key["nbf"] = int(key.not_before.timestamp())
    jwks_key["x-retired-at"] = key.timestamps["retired_at"]
    return jwks_key
