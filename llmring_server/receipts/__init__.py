"""Receipts: signed statements of which calls were recorded, what they used and what they cost.

`Receipts` issues receipts for stored calls, stores, lists, exports, proves and verifies them. A
`ReceiptRequest` selects the calls, and a `Keyring` of `SigningKey`s signs. The format of receipts,
and their verification without this server, is in the package `llmring_verify`.
"""

from llmring_server.receipts.models import OffsetPage, Receipt, ReceiptPage, ReceiptRequest
from llmring_server.receipts.service import Receipts
from llmring_server.receipts.signing_keys import (
    Keyring,
    KeyringSource,
    SigningKey,
    SigningKeyError,
    keyring_source,
)
from llmring_server.receipts.verification import VerificationResult

__all__ = [
    "Keyring",
    "KeyringSource",
    "OffsetPage",
    "Receipt",
    "ReceiptPage",
    "ReceiptRequest",
    "Receipts",
    "SigningKey",
    "SigningKeyError",
    "VerificationResult",
    "keyring_source",
]
