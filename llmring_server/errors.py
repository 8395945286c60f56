"""Errors: each class has an HTTP status, a `code` for programs and a default `detail` for people.

Codes are public and stay the same when a class is renamed. `detail` is written out, because
`python -OO` removes docstrings.
"""

import traceback
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Literal, Self

Code = Literal[
    "internal_error",
    "bad_request",
    "unauthenticated",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "request_timeout",
    "conflict",
    "quota_exceeded",
    "receipts_not_configured",
    "request_in_progress",
    "body_too_large",
    "uri_too_long",
    "unsupported_media_type",
    "validation_error",
    "idempotency_key_reused",
    "invalid_template",
    "missing_arguments",
    "missing_variables",
    "result_too_long",
    "secrets_not_configured",
    "rate_limited",
    "headers_too_large",
    "unavailable",
    "decryption_failed",
    "registry_stale",
    "signing_key_error",
    "overloaded",
    "lock_timeout",
    "not_migrated",
    "unsafe_database",
    "http_version_not_supported",
    "postgres_not_found",
    "postgres_start_failed",
    "invalid_settings",
    "cannot_listen",
    "port_in_use",
    "listen_not_permitted",
    "database_access_denied",
    "missing_privilege",
]


def traceback_without_values(exc: BaseException) -> str:
    """Return the type and the traceback of an exception, without its text.

    The text may contain a caller's values, which must not be logged.
    """
    return f"{type(exc).__name__}\n{''.join(traceback.format_tb(exc.__traceback__))}"


class RingError(Exception):
    """An error of llmring-server."""

    status = 500
    code: Code = "internal_error"
    detail = "Internal server error."
    retry_after: int | None = None

    def __init__(self, detail: str | None = None, code: Code | None = None) -> None:
        super().__init__(detail or self.detail)
        if code:
            self.code = code

    @property
    def blames_caller(self) -> bool:
        return self.status < HTTPStatus.INTERNAL_SERVER_ERROR


class BadRequest(RingError):
    """The request is malformed."""

    status = 400
    code: Code = "bad_request"
    detail = "The request is malformed."


class Unauthenticated(RingError):
    """The request has no valid credentials."""

    status = 401
    code: Code = "unauthenticated"
    detail = "An API key is required: send `X-API-Key: ...` or `Authorization: Bearer ...`."


class Forbidden(RingError):
    """The caller lacks a permission."""

    status = 403
    code: Code = "forbidden"
    detail = "Your key does not allow this."


class NotFound(RingError):
    """The resource does not exist, or belongs to another project."""

    status = 404
    code: Code = "not_found"
    detail = "Not found."

    @classmethod
    def of(cls, kind: str) -> Self:
        """Return the error for a missing thing of this kind, worded as by older servers."""
        return cls(f"{kind} not found")


class MethodNotAllowed(RingError):
    """The path does not support the request method."""

    status = 405
    code: Code = "method_not_allowed"
    detail = "This path does not support the request method; see the Allow header."

    def __init__(self, allowed: Iterable[str]) -> None:
        super().__init__()
        self.allowed = sorted(allowed)


class RequestTimeout(RingError):
    """The request did not arrive in time."""

    status = 408
    code: Code = "request_timeout"
    detail = "The request took too long to arrive (limit: 10 s plus 1 s per 16 KiB)."


class Conflict(RingError):
    """The request conflicts with the current state of a resource."""

    status = 409
    code: Code = "conflict"
    detail = "A resource with this name already exists."


class QuotaExceeded(Conflict):
    """The project has as many things of a kind as its quota allows."""

    code: Code = "quota_exceeded"
    detail = "The project has as many of these as its quota allows: delete some first."


class ReceiptsNotConfigured(Conflict):
    """No key is configured to sign receipts."""

    code: Code = "receipts_not_configured"
    detail = (
        "Receipts are disabled because no signing key is configured;"
        " see docs/receipts/operators.md."
    )


class RequestInProgress(Conflict):
    """The first request with this Idempotency-Key has not finished."""

    code: Code = "request_in_progress"
    detail = "A request with this Idempotency-Key is still running; retry in a second."
    retry_after = 1


class BodyTooLarge(RingError):
    """The request body exceeds the limit of its route."""

    status = 413
    code: Code = "body_too_large"
    detail = "The request body exceeds the limit of this endpoint."


class UriTooLong(RingError):
    """The request target exceeds the limit."""

    status = 414
    code: Code = "uri_too_long"
    detail = "The URL exceeds the limit of 8 KiB."


class UnsupportedMediaType(RingError):
    """The media type or the encoding of the body is not supported."""

    status = 415
    code: Code = "unsupported_media_type"
    detail = "Send the body as uncompressed UTF-8 JSON with `Content-Type: application/json`."


class InvalidRequest(RingError):
    """The request is well-formed but invalid; `errors` lists the invalid fields."""

    status = 422
    code: Code = "validation_error"
    detail = "The request is invalid."

    def __init__(
        self,
        detail: str | None = None,
        code: Code | None = None,
        errors: Sequence[object] = (),
    ) -> None:
        super().__init__(detail, code)
        self.errors = errors


class RateLimited(RingError):
    """The caller exceeds a rate limit."""

    status = 429
    code: Code = "rate_limited"
    detail = "Too many requests; retry later."

    def __init__(self, detail: str, limit: int, retry_after: int) -> None:
        super().__init__(detail)
        self.limit = limit
        self.retry_after = retry_after


class HeadersTooLarge(RingError):
    """The header fields exceed the limit."""

    status = 431
    code: Code = "headers_too_large"
    detail = "The header fields exceed the limit of 100 fields and 16 KiB in total."


class Unavailable(RingError):
    """The database, or another server, cannot be reached."""

    status = 503
    code: Code = "unavailable"
    detail = "The database cannot be reached; retry later."
    retry_after = 1


class DatabaseAccessDenied(Unavailable):
    """The database does not let the role in."""

    code: Code = "database_access_denied"
    detail = (
        "The database refuses the role of LLMRING_DATABASE_URL: check its name and password, and"
        " that it may connect to the database."
    )


class DecryptionFailed(RingError):
    """A stored secret cannot be decrypted with the configured keys."""

    status = 503
    code: Code = "decryption_failed"
    detail = (
        "The secret cannot be decrypted: its key is missing from LLMRING_SEALING_KEYS. If it was"
        " stored by a development server, its key is in the file sealing.key of that server's data"
        " directory: add it as the last key of LLMRING_SEALING_KEYS."
    )


class RegistryStale(RingError):
    """The copy of the model registry is too old."""

    status = 503
    code: Code = "registry_stale"
    detail = "The model registry has not been reachable for 7 days; its data is too old to serve."
    retry_after = 15


class Overloaded(RingError):
    """Too many requests are waiting for the database."""

    status = 503
    code: Code = "overloaded"
    detail = "Too many requests are waiting; retry later."
    retry_after = 1


class LockTimeout(Overloaded):
    """A lock was not granted in time."""

    code: Code = "lock_timeout"
    detail = "The resource is locked by another request; retry later."


class HttpVersionNotSupported(RingError):
    """The request is in a version of HTTP that this server does not speak."""

    status = 505
    code: Code = "http_version_not_supported"
    detail = "Send the request as HTTP/1.1."


class NotMigrated(RingError):
    """The tables are missing or outdated."""

    status = 503
    code: Code = "not_migrated"
    detail = (
        "The database tables are missing or outdated: run `llmring-server db migrate`,"
        " or call `await migrate(db)`."
    )


class MissingPrivilege(NotMigrated):
    """The role of the database lacks a privilege."""

    code: Code = "missing_privilege"
    detail = (
        "The role of the database lacks a privilege: use the owner of the tables, or repeat the"
        " grants in docs/deployment.md."
    )


class UnsafeDatabase(RingError):
    """The database may lose what it acknowledges, and LLMRING_UNSAFE_DATABASE refuses that."""

    status = 503
    code: Code = "unsafe_database"
    detail = "The database is not safe to use."


class InvalidSettings(RingError, ValueError):
    """A setting is invalid. The error names where it is set, and never its value."""

    code: Code = "invalid_settings"
    detail = "The settings are invalid; see docs/configuration.md."


class CannotListen(RingError, OSError):
    """The server cannot listen on its address."""

    code: Code = "cannot_listen"
    detail = "The server cannot listen on this address: choose an address of this machine."


class PortInUse(CannotListen):
    """Another program listens on the port."""

    code: Code = "port_in_use"
    detail = "The port is in use: choose another one, or 0 for any free one."


class ListenNotPermitted(CannotListen):
    """The program may not listen on the port."""

    code: Code = "listen_not_permitted"
    detail = "Permission denied for this port: choose one above 1023."
