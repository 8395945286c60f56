"""Configuration: `LLMRING_<FIELD>` in the environment, or keyword arguments in code."""

import os
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlencode, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, model_validator

PREFIX = "LLMRING_"

# A registry that nobody asks.
NOWHERE = "none"

# Of PostgreSQL's names.
_LONGEST_SCHEMA = 63

_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")


def _readable(url: str) -> str:
    """Check what may be split wrongly, before anyone quotes half a password in an error."""
    try:
        parts = urlsplit(url)
        for host in parts.netloc.rpartition("@")[2].split(","):
            _ = urlsplit(f"//{host}").port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in {"postgresql", "postgres"}:
        raise ValueError(
            "write postgresql://user:password@host:port/name,"
            " with the special characters of user and password percent-encoded"
        )
    return url


def _trusted(url: str) -> str:
    """Check that what comes from `url` comes from whom it names."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    plain = parts.scheme == "http" and _LOOPBACK.fullmatch(parts.hostname or "")
    trusted = plain or (parts.scheme == "https" and parts.hostname)
    if url != NOWHERE and (not trusted or parts.query or parts.fragment):
        raise ValueError("write https://host/path, http://localhost:port/path, or none")
    return url.rstrip("/")


def _a_key(key: SecretStr) -> SecretStr:
    if not re.fullmatch("[0-9a-f]{64}", key.get_secret_value()):
        raise ValueError("write 64 hex digits, as `openssl rand -hex 32` does")
    return key


def _network(value: str) -> str:
    """Check an address or a network of proxies."""
    try:
        network = ip_network(value)
    except ValueError:
        network = None
    # Trust in everyone would let each client choose its own address.
    if network is None or network.prefixlen == 0:
        raise ValueError("write addresses or networks, such as 10.0.0.1 or 10.0.0.0/8")
    return value


def _words(value: object) -> object:
    return value.replace(",", " ").split() if isinstance(value, str) else value


Url = Annotated[str, AfterValidator(_readable)]
RegistryUrl = Annotated[str, AfterValidator(_trusted)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
Names = Annotated[tuple[str, ...], BeforeValidator(_words)]
Secrets = Annotated[
    tuple[Annotated[SecretStr, Field(min_length=32)], ...],
    BeforeValidator(_words),
    Field(max_length=2),
]
SealingKeys = Annotated[
    tuple[Annotated[SecretStr, AfterValidator(_a_key)], ...], BeforeValidator(_words)
]
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], BeforeValidator(_words)]
Schema = Annotated[str, Field(pattern="^[a-z_][a-z0-9_]{0,62}$")]
Provider = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,49}$")]
Providers = Annotated[tuple[Provider, ...], BeforeValidator(_words), Field(min_length=1)]


class Settings(BaseModel, frozen=True, extra="forbid", hide_input_in_errors=True):
    """How this server behaves; README says what each field is for."""

    database_url: Url | None = Field(None, repr=False)
    database_schema: Schema = "llmring"
    mcp_schema: Schema | None = None
    database_pool_size: int = Field(20, ge=1)
    database_pool_overflow: int = Field(10, ge=0)
    database_pooler: bool = False
    database_tls: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] | None = None
    database_tls_ca: Path | None = None
    acquire_timeout: Seconds = 2
    statement_timeout: Seconds = 10
    lock_timeout: Seconds = 2
    idle_in_transaction_timeout: Seconds = 10
    migrate_on_start: bool = True
    auth: Literal["keys", "open", "proxy", "parent"] = "keys"
    proxy_secrets: Secrets = Field((), repr=False)
    rate_limit: float | None = Field(None, gt=0)
    rate_burst: int = Field(300, ge=1)
    failed_auth_limit: int = Field(20, ge=0)
    trusted_proxies: Networks = ()
    cors_origins: Names = ()
    registry_url: RegistryUrl = Field("https://llmring.github.io/registry", repr=False)
    registry_ttl: float = Field(3600, gt=0, le=86_400)
    registry_providers: Providers = ("openai", "anthropic", "google")
    mcp_urls: Literal["any", "public"] = "any"
    sealing_keys: SealingKeys = Field((), repr=False)
    conversation_content: Literal["none", "metadata", "full"] = "metadata"
    receipt_issuer: str = Field("llmring-server", min_length=1, max_length=255)
    receipt_key_file: Path | None = None
    receipt_keys: SecretStr | None = Field(None, repr=False)
    receipts_private_key_b64: SecretStr | None = Field(None, repr=False)
    receipts_public_key_b64: str | None = None
    log_batch_size: int = Field(500, ge=1, le=10_000)
    log_concurrent_commits: int = Field(2, ge=1, le=64)
    log_max_pending: int = Field(5000, ge=1)

    @model_validator(mode="after")
    def _can_tell_who_calls(self) -> Self:
        if (self.auth == "proxy") != bool(self.proxy_secrets):
            raise ValueError("auth=proxy and proxy_secrets belong together")
        return self

    @model_validator(mode="after")
    def _has_one_source_of_keys(self) -> Self:
        sources = self.receipt_key_file, self.receipt_keys, self.receipts_private_key_b64
        if sum(each is not None for each in sources) > 1:
            raise ValueError(
                "give one of receipt_key_file, receipt_keys and receipts_private_key_b64"
            )
        return self

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read the fields that `environ` names; platforms that set `DATABASE_URL` are heard too."""
        if url := environ.get("DATABASE_URL"):
            environ = {PREFIX + "DATABASE_URL": url, **environ}
        fields = {name: PREFIX + name.upper() for name in cls.model_fields}
        return cls(**{name: environ[key] for name, key in fields.items() if environ.get(key)})

    def mcp_schema_beside(self, schema: str) -> str:
        """Name the schema of the MCP tables that belong to those in `schema`."""
        # Two of us in one database must not meet in one `mcp_client`.
        usual = "mcp_client" if schema == "llmring" else f"{schema[: _LONGEST_SCHEMA - 4]}_mcp"
        return self.mcp_schema or usual

    def dsn(self) -> str | None:
        """Return the database's URL with the TLS that these settings ask for."""
        tls = {"sslmode": self.database_tls, "sslrootcert": self.database_tls_ca}
        given = urlencode({name: value for name, value in tls.items() if value})
        if not self.database_url or not given:
            return self.database_url
        return f"{self.database_url}{'&' if '?' in self.database_url else '?'}{given}"
