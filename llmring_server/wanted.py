"""Which calls to certify, and which receipts to show."""

from datetime import UTC, date, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StrictBool

from llmring_server.bounded import check
from llmring_server.entry import OLDEST
from llmring_server.errors import BadRequest
from llmring_server.ids import moment_of
from llmring_server.pages import Paged, Place
from llmring_server.tenant import Tenant
from llmring_server.window import Instant, Span

NO_MODE = "Must specify one of: conversation_id, date range, log_ids, or since_last_receipt"

_EVER = datetime(1971, 1, 1, tzinfo=UTC), datetime(9998, 1, 1, tzinfo=UTC)
_FROM_A_CLOCK = 7


def _written(value: object) -> object:
    if value is not None and not isinstance(value, str | date):
        raise ValueError("must be a date or a time")
    return value


When = Annotated[Instant, BeforeValidator(_written)]
Tag = Annotated[str, Field(max_length=100), AfterValidator(check)]


class Wanted(Span):
    """Which calls to certify, in one of four ways; of several, the first in this order.

    `conversation_id`: those of a conversation. `start_date` and `end_date`: those of a span, both
    included. `log_ids`: those. `since_last_receipt`: those that no receipt has certified, the
    oldest first, up to 250,000.
    """

    conversation_id: UUID | None = None
    start_date: When | None = None
    end_date: When | None = None
    log_ids: Annotated[list[UUID], Field(max_length=10_000)] | None = None
    since_last_receipt: StrictBool = False
    description: Annotated[str, Field(max_length=1000), AfterValidator(check)] | None = None
    tags: Annotated[list[Tag], Field(max_length=50)] | None = None

    def where(self) -> dict[str, Any]:
        """Return the parameters of the statement that finds them."""
        of, (since, until) = self.conversation_id, _EVER
        if of:
            since = moment_of(of) + OLDEST if of.version == _FROM_A_CLOCK else since
        elif self.start_date and self.end_date:
            since, until = self.bounds()
        else:
            raise BadRequest(NO_MODE)
        return {"since": since, "until": until, "conversation_id": of and str(of)}

    @property
    def rest(self) -> bool:
        """Tell whether those are wanted that no receipt has certified."""
        dates = self.start_date and self.end_date
        return self.since_last_receipt and not (self.conversation_id or dates or self.log_ids)

    def named(self) -> list[UUID]:
        """Return the ids of the calls that are wanted, if that is the way."""
        if self.conversation_id or (self.start_date and self.end_date):
            return []
        return sorted(set(self.log_ids or ()))


class Asked(BaseModel, strict=True):
    """One call, by its id."""

    log_id: Annotated[UUID, Field(strict=False)]


class Listing(Paged):
    """A page of receipts, the newest first."""

    limit: int = Field(100, ge=1, le=10_000)

    def next(self, tenant: Tenant, last: UUID) -> str:
        return self.following(tenant, Place(moment_of(last), last))


class Stretch(BaseModel):
    """A stretch of a list of calls."""

    limit: int = Field(100, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=1_000_000)
