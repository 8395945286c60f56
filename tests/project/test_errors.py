"""Error codes and messages: public, complete, and independent of class names and docstrings."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

# All modules that define errors.
from llmring_server.db import embedded_postgres
from llmring_server.errors import Code, RingError
from llmring_server.receipts import signing_keys

CODES = {
    "BadRequest": (400, "bad_request"),
    "BodyTooLarge": (413, "body_too_large"),
    "CannotListen": (500, "cannot_listen"),
    "Conflict": (409, "conflict"),
    "DatabaseAccessDenied": (503, "database_access_denied"),
    "DecryptionFailed": (503, "decryption_failed"),
    "Forbidden": (403, "forbidden"),
    "HeadersTooLarge": (431, "headers_too_large"),
    "HttpVersionNotSupported": (505, "http_version_not_supported"),
    "InvalidRequest": (422, "validation_error"),
    "InvalidSettings": (500, "invalid_settings"),
    "ListenNotPermitted": (500, "listen_not_permitted"),
    "LockTimeout": (503, "lock_timeout"),
    "MethodNotAllowed": (405, "method_not_allowed"),
    "MissingPrivilege": (503, "missing_privilege"),
    "NotFound": (404, "not_found"),
    "NotMigrated": (503, "not_migrated"),
    "Overloaded": (503, "overloaded"),
    "PortInUse": (500, "port_in_use"),
    "PostgresNotFound": (500, "postgres_not_found"),
    "PostgresStartFailed": (500, "postgres_start_failed"),
    "QuotaExceeded": (409, "quota_exceeded"),
    "RateLimited": (429, "rate_limited"),
    "ReceiptsNotConfigured": (409, "receipts_not_configured"),
    "RegistryStale": (503, "registry_stale"),
    "RequestInProgress": (409, "request_in_progress"),
    "RequestTimeout": (408, "request_timeout"),
    "RingError": (500, "internal_error"),
    "SigningKeyError": (503, "signing_key_error"),
    "Unauthenticated": (401, "unauthenticated"),
    "Unavailable": (503, "unavailable"),
    "UnsafeDatabase": (503, "unsafe_database"),
    "UnsupportedMediaType": (415, "unsupported_media_type"),
    "UriTooLong": (414, "uri_too_long"),
}
# Codes of single cases of an error.
SPECIFIC = {
    "idempotency_key_reused",
    "invalid_template",
    "missing_arguments",
    "missing_variables",
    "result_too_long",
    "secrets_not_configured",
}


def classes(base: type[RingError] = RingError) -> Iterator[type[RingError]]:
    if base.__module__.startswith("llmring_server"):
        yield base
    for each in base.__subclasses__():
        yield from classes(each)


def test_error_codes_are_unique() -> None:
    assert embedded_postgres.PostgresNotFound.code != signing_keys.SigningKeyError.code
    found = {class_.__name__: (class_.status, class_.code) for class_ in classes()}
    assert found == CODES
    codes = [code for _, code in CODES.values()]
    assert len(set(codes)) == len(codes)
    assert {*codes, *SPECIFIC} == set(get_args(Code))


@pytest.mark.parametrize("error", list(classes()), ids=lambda error: error.__name__)
def test_every_error_class_defines_code_and_detail(error: type[RingError]) -> None:
    own = vars(error)
    assert own["code"] == error.code
    assert own["detail"].endswith(".")


def test_the_operations_page_explains_every_code() -> None:
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    assert [code for code in get_args(Code) if f"`{code}`" not in page] == []


def test_details_do_not_depend_on_docstrings() -> None:
    program = (
        "from llmring_server.errors import NotFound, RingError; import sys;"
        "print(NotFound.__doc__, NotFound(), RingError())"
    )
    done = subprocess.run(
        (sys.executable, "-OO", "-c", program), check=True, capture_output=True, text=True
    )
    assert done.stdout == "None Not found. Internal server error.\n"
