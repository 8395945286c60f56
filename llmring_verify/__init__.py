"""Verify llmring receipts offline, with public keys that you trust.

A program reads the trusted keys with `read_keys` and documents with `parse`, and calls
`verify_receipt`, `verify_proof` or `check_export`. All raise `NotVerified` if a document is not
genuine, and `CannotVerify` if it cannot be checked. The command is `llmring-verify`.
"""

from llmring_verify.canonical_json import CannotVerify, NotVerified, parse
from llmring_verify.export_check import check_export
from llmring_verify.keys import read_keys
from llmring_verify.verify import verify_proof, verify_receipt

__all__ = [
    "CannotVerify",
    "NotVerified",
    "check_export",
    "parse",
    "read_keys",
    "verify_proof",
    "verify_receipt",
]
