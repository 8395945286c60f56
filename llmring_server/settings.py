"""Settings: `LLMRING_<FIELD>` in the environment, or keyword arguments in code."""

import os
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlencode, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, model_validator

from llmring_server.core.connection_string import parse

PREFIX = "LLMRING_"

# The registry URL that turns fetching off.
NO_REGISTRY = "none"

# Larger quotas would be slow to count; 0 turns one off.
MAX_QUOTA = 1_000_000

# PostgreSQL truncates longer names.
MAX_SCHEMA_LENGTH = 63

_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")


def _database_url(url: str) -> str:
    """Reject a URL that could be split wrongly: a driver's error might quote half a password."""
    parse(url)
    return url.strip()


def _registry_url(url: str) -> str:
    """Reject a URL whose content someone on the network could change."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    is_local = parts.scheme == "http" and _LOOPBACK.fullmatch(parts.hostname or "")
    is_trusted = is_local or (parts.scheme == "https" and parts.hostname)
    if url != NO_REGISTRY and (not is_trusted or parts.query or parts.fragment):
        raise ValueError("write https://host/path, http://localhost:port/path, or none")
    return url.rstrip("/")


def _sealing_key(key: SecretStr) -> SecretStr:
    if not re.fullmatch("[0-9a-f]{64}", key.get_secret_value()):
        raise ValueError("write 64 hex digits, as printed by `openssl rand -hex 32`")
    return key


def _network(value: str) -> str:
    """Reject what is not an address or a network."""
    try:
        network = ip_network(value)
    except ValueError:
        network = None
    # If every address were trusted, each client could choose its own.
    if network is None or network.prefixlen == 0:
        raise ValueError("write addresses or networks, such as 10.0.0.1 or 10.0.0.0/8")
    return value


def _split(value: object) -> object:
    """Split text at commas and spaces."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


Url = Annotated[str, AfterValidator(_database_url)]
RegistryUrl = Annotated[str, AfterValidator(_registry_url)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
Secrets = Annotated[
    tuple[Annotated[SecretStr, Field(min_length=32)], ...],
    BeforeValidator(_split),
    Field(max_length=2),
]
SealingKeys = Annotated[
    tuple[Annotated[SecretStr, AfterValidator(_sealing_key)], ...], BeforeValidator(_split)
]
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], BeforeValidator(_split)]
Schema = Annotated[str, Field(pattern="^[a-z_][a-z0-9_]{0,62}$")]
Provider = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,49}$")]
Providers = Annotated[tuple[Provider, ...], BeforeValidator(_split), Field(min_length=1)]


class Settings(BaseModel, frozen=True, extra="forbid", hide_input_in_errors=True):
    """The configuration of a server. docs/configuration.md describes each field."""

    database_url: Url | None = Field(None, repr=False)
    database_schema: Schema = "llmring"
    mcp_schema: Schema | None = None
    database_pool_size: int = Field(20, ge=1)
    database_pool_overflow: int = Field(10, ge=0)
    # 0: no limit.
    database_max_connection_age: float = Field(1800, ge=0, le=86_400)
    database_pooler: bool = False
    database_tls: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] | None = None
    database_tls_ca: Path | None = None
    acquire_timeout: Seconds = 2
    long_reads_share: float = Field(0.5, gt=0, le=1)
    long_reads_per_project: int = Field(2, ge=1)
    statement_timeout: Seconds = 10
    lock_timeout: Seconds = 2
    idle_in_transaction_timeout: Seconds = 10
    migrate_on_start: bool = True
    unsafe_database: Literal["warn", "refuse"] = "warn"
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
    # Quotas of a project; 0: no limit.
    max_keys: int = Field(1000, ge=0, le=MAX_QUOTA)
    max_aliases: int = Field(10_000, ge=0, le=MAX_QUOTA)
    max_templates: int = Field(10_000, ge=0, le=MAX_QUOTA)
    max_template_versions: int = Field(1000, ge=0, le=MAX_QUOTA)
    max_mcp_servers: int = Field(1000, ge=0, le=MAX_QUOTA)
    mcp_urls: Literal["any", "public"] = "any"
    # At the most, a complete list of one server's capabilities fits in a response of 8 MiB.
    max_mcp_capabilities: int = Field(1000, ge=1, le=1000)
    max_mcp_definition_bytes: int = Field(4 * 1024**2, ge=1024, le=4 * 1024**2)
    sealing_keys: SealingKeys = Field((), repr=False)
    # A body that is larger than what all bodies may occupy would never be read.
    max_messages_bytes: int = Field(32 * 1024**2, ge=1024**2, le=96 * 1024**2)
    # Of bodies that arrive in several parts: by network while unauthenticated, then by project.
    max_unauthenticated_body_bytes: int = Field(1024**2, ge=256 * 1024, le=16 * 1024**2)
    max_project_body_bytes: int = Field(32 * 1024**2, ge=1024**2, le=96 * 1024**2)
    conversation_content: Literal["none", "metadata", "full"] = "full"
    receipt_issuer: str = Field("llmring-server", min_length=1, max_length=255)
    receipt_key_file: Path | None = None
    receipt_keys: SecretStr | None = Field(None, repr=False)
    receipts_private_key_b64: SecretStr | None = Field(None, repr=False)
    receipts_public_key_b64: str | None = None
    log_batch_size: int = Field(500, ge=1, le=10_000)
    log_concurrent_commits: int = Field(2, ge=1, le=64)
    log_max_pending: int = Field(5000, ge=1)
    log_project_share: float = Field(0.25, gt=0, le=1)
    strict_fields: bool = False

    @model_validator(mode="after")
    def _has_a_url_that_goes_with_its_tls(self) -> Self:
        if url := self.dsn():
            parse(url)
        return self

    @model_validator(mode="after")
    def _has_proxy_secrets_in_mode_proxy(self) -> Self:
        if self.auth == "proxy" and not self.proxy_secrets:
            raise ValueError("LLMRING_AUTH=proxy needs LLMRING_PROXY_SECRETS")
        if self.proxy_secrets and self.auth != "proxy":
            raise ValueError("LLMRING_PROXY_SECRETS needs LLMRING_AUTH=proxy")
        return self

    @model_validator(mode="after")
    def _has_memory_for_the_largest_body(self) -> Self:
        if self.max_project_body_bytes < self.max_messages_bytes:
            raise ValueError(
                "LLMRING_MAX_PROJECT_BODY_BYTES must be at least LLMRING_MAX_MESSAGES_BYTES"
                f" ({self.max_messages_bytes})"
            )
        return self

    @model_validator(mode="after")
    def _has_one_source_of_signing_keys(self) -> Self:
        sources = (self.receipt_key_file, self.receipt_keys, self.receipts_private_key_b64)
        if sum(source is not None for source in sources) > 1:
            raise ValueError(
                "set only one of receipt_key_file, receipt_keys and receipts_private_key_b64"
            )
        return self

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read the settings from environment variables; `DATABASE_URL` is a fallback."""
        if (url := environ.get("DATABASE_URL")) and not environ.get(PREFIX + "DATABASE_URL"):
            environ = {**environ, PREFIX + "DATABASE_URL": url}
        fields = {name: PREFIX + name.upper() for name in cls.model_fields}
        return cls(**{name: environ[key] for name, key in fields.items() if environ.get(key)})

    def mcp_schema_beside(self, schema: str) -> str:
        """Return the schema of the MCP tables that belong to the tables in `schema`."""
        if self.mcp_schema:
            return self.mcp_schema
        if schema == "llmring":
            return "mcp_client"
        # Two instances in one database must not share one `mcp_client`.
        suffix = "_mcp"
        return schema[: MAX_SCHEMA_LENGTH - len(suffix)] + suffix

    def dsn(self) -> str | None:
        """Return the database's URL with the TLS options of these settings."""
        tls = {"sslmode": self.database_tls, "sslrootcert": self.database_tls_ca}
        query = urlencode({name: value for name, value in tls.items() if value})
        if not self.database_url or not query:
            return self.database_url
        separator = "&" if "?" in self.database_url else "?"
        return f"{self.database_url}{separator}{query}"

    @property
    def has_pooler(self) -> bool:
        """Whether a pooler in transaction mode is between the server and PostgreSQL."""
        return self.database_pooler or bool(
            self.database_url and parse(self.database_url).parameters.has_pooler
        )
