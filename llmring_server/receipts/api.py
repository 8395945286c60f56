"""Receipts, over HTTP."""

import json
from typing import Annotated, Any, Literal, NotRequired
from uuid import UUID

from pydantic import BaseModel
from starlette.responses import Response
from typing_extensions import TypedDict

from llmring_server.core.strict_json import JsonObject
from llmring_server.errors import BadRequest, Conflict, NotFound
from llmring_server.receipts.models import (
    GenerateResult,
    InclusionProof,
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
from llmring_server.receipts.signing_keys import Keyring, SigningKey, State
from llmring_server.receipts.verification import VerificationResult, verification_result
from llmring_server.usage.api import jsonl_response
from llmring_server.usage.export import JSONL_MEDIA_TYPE
from llmring_server.usage.models import Call
from llmring_server.web.request import RawBody, Request, link, render
from llmring_server.web.request_limits import JSON
from llmring_verify.canonical_json import NotVerified, parse


class StoreReceipt(BaseModel):
    """A receipt that one of the published keys has signed, in the form that `get` shows."""

    receipt: JsonObject


class StoredReceiptResponse(TypedDict):
    """That a receipt is genuine, and kept."""

    receipt_id: str
    status: Literal["verified"]


async def list_receipts(request: Request, query: ReceiptPage) -> Annotated[ReceiptList, "Link"]:
    """List receipts, the newest first, a page at a time, fewer where they are large."""
    found = await request.ring.receipts.list(request.project_id, query)
    if found["next"]:
        request.response_headers = link(query, found["next"])
    return found


async def get_receipt(request: Request, id: str) -> Receipt:
    """Show a receipt, with the envelope that proves it."""
    return await request.ring.receipts.get(request.project_id, id)


async def list_receipt_calls(request: Request, id: str, query: OffsetPage) -> ReceiptCalls:
    """List the calls that a receipt certifies, newest first."""
    with request.long_running_slot():
        return await request.ring.receipts.logs(request.project_id, id, query)


async def get_receipt_proof(request: Request, id: str, log_id: UUID) -> InclusionProof:
    """Prove that a call is one of those that a receipt certifies."""
    with request.long_running_slot():
        return await request.ring.receipts.proof(request.project_id, id, log_id)


async def list_uncertified_calls(request: Request, query: OffsetPage) -> ReceiptCallPage:
    """List the calls that no receipt certifies, newest first."""
    with request.long_running_slot():
        return await request.ring.receipts.uncertified(request.project_id, query)


async def generate_receipt(
    request: Request, body: ReceiptRequest
) -> Annotated[GenerateResult, Conflict]:
    """Certify calls: of a conversation, a span of time, by their ids, or all that are not yet."""
    request.caller.require("read")
    with request.long_running_slot():
        return await request.ring.receipts.generate(request.project_id, body)


async def preview_receipt(request: Request, body: ReceiptRequest) -> ReceiptPreview:
    """Tell what such a receipt would say; nothing is signed, and nothing stored."""
    with request.long_running_slot():
        return await request.ring.receipts.preview(request.project_id, body)


async def issue_receipt(
    request: Request, body: IssueRequest
) -> Annotated[Receipt, NotFound, Conflict]:
    """Give the receipt of one stored call, which is signed now if it was not before."""
    request.caller.require("read")
    with request.long_running_slot():
        return await request.ring.receipts.issue(request.project_id, body.log_id)


async def store_receipt(
    request: Request, body: StoreReceipt
) -> Annotated[StoredReceiptResponse, Conflict]:
    """Keep a receipt that was signed with one of our keys, here or elsewhere."""
    return {
        "receipt_id": await request.ring.receipts.store(request.project_id, body.receipt),
        "status": "verified",
    }


async def verify_receipt(
    request: Request, body: Annotated[RawBody, {JSON: dict[str, Any]}]
) -> VerificationResult:
    """Say whether a receipt, or its envelope alone, is genuine."""
    try:
        document = parse(body.data)
    except NotVerified as exc:
        return _not_strict(body.data, str(exc))
    return request.ring.receipts.verify(document)


def _not_strict(data: bytes, reason: str) -> VerificationResult:
    """Tell what can be read in two ways, and so proves nothing, from what cannot be read."""
    try:
        json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise BadRequest("The body is not JSON.") from exc
    return verification_result(reason=reason)


async def export_receipt(
    request: Request, id: str
) -> Annotated[Response, {JSONL_MEDIA_TYPE: Call}]:
    """Stream the calls that a receipt certifies, newest first: a line of JSON for each."""
    logs = request.ring.receipts.export(request.project_id, id)
    return await jsonl_response(logs, "receipt.jsonl", request)


# A key is shown for a day before it signs.
KEPT = {"Cache-Control": "public, max-age=3600"}


TEXT, PEM = "text/plain; charset=utf-8", "application/x-pem-file"


# RFC 8037, and when a key was retired.
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


class Jwk(TypedDict):
    """A public key as RFC 8037 writes it."""

    kid: str
    kty: str
    crv: str
    x: str


class PublicKey(Jwk):
    """A public key, and for what it is good."""

    alg: str
    state: State
    not_before: str | None
    retired_at: str | None
    compromised_at: str | None


class PublicKeyCompat(PublicKey):
    """A public key, in the words of old clients too."""

    key_id: str
    public_key: str
    algorithm: str
    format: str


class PublicKeyDocument(TypedDict):
    """The keys that `llmring-verify` takes."""

    issuer: str
    keys: list[PublicKeyCompat]
    current_key_id: str


class Jwks(TypedDict):
    """A JWKS (RFC 7517)."""

    keys: list[JwksKey]


async def get_public_key_pem(request: Request) -> Annotated[Response, {TEXT: str}, NotFound]:
    """Give the public key that signs now, as openssl reads it."""
    return Response(_keyring(request).active.pem, headers=KEPT, media_type=TEXT)


async def get_public_key_pem_compat(request: Request) -> Annotated[Response, {PEM: str}, NotFound]:
    """Give the public key that signs now, as openssl reads it."""
    return Response(_keyring(request).active.pem, headers=KEPT, media_type=PEM)


async def get_public_key_jwk(request: Request) -> Annotated[Response, {JSON: Jwk}, NotFound]:
    """Give the public key that signs now as a JWK."""
    return _kept(_keyring(request).active.jwk)


async def list_public_keys(
    request: Request,
) -> Annotated[Response, {JSON: list[PublicKey]}, NotFound]:
    """List the public keys: those that signed, that sign, and that will."""
    return _kept([_published(key) for key in _keyring(request).keys.values()])


async def get_public_key_document(
    request: Request,
) -> Annotated[Response, {JSON: PublicKeyDocument}, NotFound]:
    """Give the public keys as a document to keep, and to verify with."""
    keyring = _keyring(request)
    document = {
        "issuer": request.ring.settings.receipt_issuer,
        "keys": [_told(key) for key in keyring.keys.values()],
        "current_key_id": keyring.active.kid,
    }
    return _kept(document)


async def get_jwks(request: Request) -> Annotated[Response, {JSON: Jwks}, NotFound]:
    """Give the public keys that are to be trusted as a JWKS, which has no word for others."""
    keyring = _keyring(request)
    return _kept({"keys": [_web_key(keyring.keys[kid]) for kid in keyring.trusted]})


def _keyring(request: Request) -> Keyring:
    keyring = request.ring.receipts.keys()
    if keyring is None:
        raise NotFound("Public key not configured")
    return keyring


def _kept(told: Any) -> Response:
    return Response(render(told), headers=KEPT, media_type=JSON)


def _published(key: SigningKey) -> dict[str, Any]:
    return {**key.jwk, "alg": "Ed25519", "state": key.state, **key.times}


def _told(key: SigningKey) -> dict[str, Any]:
    old = {"algorithm": "Ed25519", "format": "base64url"}
    return _published(key) | {"key_id": key.kid, "public_key": key.jwk["x"], **old}


def _web_key(key: SigningKey) -> dict[str, Any]:
    return {
        **key.jwk,
        "use": "sig",
        "alg": "EdDSA",
        **({"nbf": int(key.not_before.timestamp())} if key.not_before else {}),
        "x-retired-at": key.times["retired_at"],
    }
