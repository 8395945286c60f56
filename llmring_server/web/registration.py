"""A first key for whoever asks, where any key will do."""

from secrets import token_hex
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from llmring_server.errors import Forbidden
from llmring_server.web.call import Call

Name = Annotated[str, Field(max_length=320)]

CLOSED = (
    "Keys are issued here by whoever runs this server: ask them for one, made with"
    " `llmring-server keys issue`."
)


class Applicant(BaseModel, strict=True):
    """Who asks for a key. Nothing of it is kept."""

    email: Annotated[Name, Field(min_length=1)]
    organization: Name | None = None
    project_name: Name | None = None
    accept_terms: Literal[True]


class Registered(TypedDict):
    """A key, which names a project of its own; `dashboard_url` is what clients print."""

    api_key: str
    api_key_active: bool
    dashboard_url: str


async def register(call: Call, body: Applicant) -> Annotated[Registered, Forbidden]:  # noqa: ARG001
    """Make up a key for mode `open`; in the others, keys are not to be had for the asking."""
    if call.ring.settings.auth != "open":
        raise Forbidden(CLOSED)
    return {
        "api_key": f"llmr_pk_{token_hex(16)}",
        "api_key_active": True,
        "dashboard_url": "this server has none",
    }
