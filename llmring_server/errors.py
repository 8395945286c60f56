"""What can go wrong, in the caller's words: the class is the status, the docstring the default."""

import re
import traceback
from collections.abc import Sequence
from http import HTTPStatus


def trace(exc: BaseException) -> str:
    """Tell what was raised, and where, but not its text: that may hold a caller's values."""
    return f"{type(exc).__name__}\n{''.join(traceback.format_tb(exc.__traceback__))}"


class RingError(Exception):
    """Something went wrong in llmring-server."""

    status = 500
    retry_after: int | None = None

    def __init__(self, detail: str | None = None, code: str | None = None) -> None:
        super().__init__(detail or self.__doc__)
        self.code: str = code or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def blames_caller(self) -> bool:
        return self.status < HTTPStatus.INTERNAL_SERVER_ERROR


class BadRequest(RingError):
    """The request cannot be read."""

    status = 400


class Unauthenticated(RingError):
    """Send an API key: `X-API-Key: ...`, or `Authorization: Bearer ...`."""

    status = 401


class Forbidden(RingError):
    """This key may not do that."""

    status = 403


class NotFound(RingError):
    """No such thing, or not yours."""

    status = 404


class RequestTimeout(RingError):
    """The request was too long in coming."""

    status = 408


class Conflict(RingError):
    """Something with that name already exists."""

    status = 409


class NotConfigured(Conflict):
    """Receipts are off: no key is configured to sign them; see docs/receipts.md."""

    def __init__(self) -> None:
        super().__init__(code="receipts_not_configured")


class InProgress(Conflict):
    """A request with this Idempotency-Key is still running; try again in a second."""

    retry_after = 1


class TooLarge(RingError):
    """The body is larger than this route takes."""

    status = 413


class TargetTooLong(RingError):
    """The URL is longer than 8 KiB."""

    status = 414


class UnsupportedMedia(RingError):
    """Send the body as UTF-8 JSON, uncompressed, with `Content-Type: application/json`."""

    status = 415


class Invalid(RingError):
    """The request does not make sense."""

    status = 422

    def __init__(
        self, detail: str | None = None, code: str | None = None, errors: Sequence[object] = ()
    ) -> None:
        super().__init__(detail, code)
        self.errors = errors


class TooMany(RingError):
    """Too often; try again later."""

    status = 429

    def __init__(self, detail: str, limit: int, retry_after: int) -> None:
        super().__init__(detail)
        self.limit = limit
        self.retry_after = retry_after


class HeadTooLarge(RingError):
    """Send up to 100 header fields, of up to 16 KiB together."""

    status = 431


class Unavailable(RingError):
    """The database cannot be reached right now; try again soon."""

    status = 503
    retry_after = 1


class Sealed(RingError):
    """What sealed this secret is not among LLMRING_SEALING_KEYS, or it was sealed elsewhere."""

    status = 503


class Stale(RingError):
    """The registry has not answered well for more than 7 days: too old to be told as its word."""

    status = 503
    retry_after = 15


class Overloaded(RingError):
    """Too much is waiting already; try again soon."""

    status = 503
    retry_after = 1


class Locked(Overloaded):
    """Someone else holds what this would change; try again soon."""


class NotMigrated(RingError):
    """Our tables are missing or old: `llmring-server db migrate`, or `await migrate(db)`."""

    status = 503
