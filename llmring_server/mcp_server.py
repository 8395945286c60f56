"""What an MCP server is, and what is asked of one."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import asyncpg
import orjson
from pydantic import AfterValidator, BaseModel, Field

from llmring_server.bounded import Json, check
from llmring_server.pages import Paged, Place
from llmring_server.reach import host_of
from llmring_server.tenant import Tenant

Transport = Literal["stdio", "http", "websocket"]

# No user or password: those belong to `auth_config`, which is sealed.
_URL = (
    r"^((https?|wss?)://[^\s\x00-\x20\x7f@\\/?#]+([/?#][^\s\x00-\x20\x7f]*)?"
    r"|stdio://[^\x00-\x1f\x7f]*[^\s\x00-\x20\x7f][^\x00-\x1f\x7f]*)$"
)


def _leads_somewhere(url: str) -> str:
    named = url.startswith("stdio:") or host_of(url)
    if not named or not re.fullmatch(_URL.strip("^$"), url):
        raise ValueError(
            "write http://host, https://host, ws://host or wss://host, with a port and a path if"
            " you like but no user, or stdio://command"
        )
    return url


Label = Annotated[str, Field(max_length=255, pattern=r"\S"), AfterValidator(check)]
# The pattern is for the description; in words, the complaint can be read.
Url = Annotated[
    str,
    Field(max_length=1000, json_schema_extra={"pattern": _URL}),
    AfterValidator(_leads_somewhere),
]

CLEARABLE = {"auth_config", "capabilities"}
CONFIGURED = {"configured": True}


class NewServer(BaseModel, strict=True):
    """A server to register; `auth_config` is what a client must show to it, and kept sealed."""

    name: Label
    url: Url
    transport_type: Transport
    auth_config: Json | None = None
    capabilities: Json | None = None


class ServerChange(BaseModel, strict=True):
    """What is to be different; null is as good as absent, unless it is to clear a field."""

    name: Label | None = None
    url: Url | None = None
    transport_type: Transport | None = None
    auth_config: Json | None = None
    capabilities: Json | None = None
    is_active: bool | None = None

    def given(self, *, clears: bool) -> list[str]:
        """Name what is to be different."""
        return [
            name
            for name in sorted(self.model_fields_set)
            if getattr(self, name) is not None or (clears and name in CLEARABLE)
            # A client that sends back what it was told has not seen the secret.
            if name != "auth_config" or self.auth_config != CONFIGURED
        ]


class Wanted(Paged):
    """Which of them: those that are active, those that are not, or `all`."""

    limit: int = Field(1000, ge=1, le=1000)
    is_active: bool = True
    all: bool = False


class Servers(Wanted):
    """A page of servers, the newest first."""

    def next(self, tenant: Tenant, last: "Server") -> str:
        return self.following(tenant, Place(last.created_at, last.id), b"servers")


class Configured(BaseModel):
    """That there is a secret: it is read at `/secret`, and nowhere else."""

    configured: Literal[True] = True


@dataclass(slots=True)
class Server:
    """An MCP server that clients talk to; we never do."""

    id: UUID
    name: str
    url: str
    transport_type: Transport
    auth_config: Configured | None
    capabilities: dict[str, Any] | None
    is_active: bool
    created_at: datetime
    updated_at: datetime
    refreshed_at: datetime | None
    project_id: Tenant
    api_key_id: None = None

    @classmethod
    def of(cls, tenant: Tenant, row: asyncpg.Record) -> Self:
        found = dict(row)
        found["auth_config"] = Configured() if found.pop("has_secret") else None
        found["capabilities"] = found["capabilities"] and orjson.loads(found["capabilities"])
        return cls(**found, project_id=tenant)
