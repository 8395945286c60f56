"""Settings: `LLMRING_<FIELD>` in the environment, a file of settings, or arguments in code."""

import json
import logging
import os
import re
from collections.abc import Collection, Mapping
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlencode, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from llmring_server.core.connection_string import parse
from llmring_server.core.settings_file import is_readable_by_everyone, read_settings_file
from llmring_server.core.validation import errors_of
from llmring_server.core.variables import (
    CONFIG,
    dotenv_variables,
    former_settings,
    require_content_asked_for,
    variable_of,
    variable_warnings,
)
from llmring_server.errors import InvalidSettings

logger = logging.getLogger(__name__)

# What `Ring.reload` changes while the server runs; all others take effect at a restart.
RELOADABLE = frozenset({
    "proxy_secrets", "rate_limit", "rate_burst", "failed_auth_limit", "cors_origins",
    "registry_ttl", "max_keys", "max_aliases", "max_templates", "max_template_versions",
    "max_mcp_servers", "mcp_urls", "max_mcp_capabilities", "max_mcp_definition_bytes",
    "max_messages_bytes", "max_unauthenticated_body_bytes", "max_project_body_bytes",
    "conversation_content", "strict_fields",
})  # fmt: skip

# Paths in a file are relative to the folder of the file.
_PATHS = ("database_tls_ca", "receipt_key_file")
_SECRETS = ("proxy_secrets", "sealing_keys", "receipt_keys", "receipts_private_key_b64")

_NOTHING: Mapping[str, Any] = MappingProxyType({})

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
    """Split text at commas and spaces, or read a JSON array, as llmring-server 0.1 did."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("write a list separated by commas, or a JSON array") from None
    return value.replace(",", " ").split()


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
    database_read_url: Url | None = Field(None, repr=False)
    max_replica_lag: Seconds = 10
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
    def from_env(
        cls,
        environ: Mapping[str, str] = os.environ,
        *,
        defaults: Mapping[str, Any] = _NOTHING,
        **values: Any,
    ) -> Self:
        """Read the settings from environment variables; `values` take precedence.

        Variables take precedence over the file that LLMRING_CONFIG names, and the file over
        `defaults`. `DATABASE_URL` is used if nothing else names a database. Raise InvalidSettings,
        which says where an invalid setting comes from.
        """
        settings = cls._read(environ.get(CONFIG), environ, defaults, values)
        require_content_asked_for(environ, dotenv_variables(), settings.conversation_content)
        return settings

    @classmethod
    def from_file(
        cls, path: str | Path, environ: Mapping[str, str] = _NOTHING, **values: Any
    ) -> Self:
        """Read the settings from a TOML file; `environ`, then `values` take precedence.

        Raise InvalidSettings, which says where an invalid setting comes from.
        """
        settings = cls._read(path, environ, {}, values)
        require_content_asked_for(environ, {}, settings.conversation_content)
        return settings

    @classmethod
    def _read(
        cls,
        config: str | Path | None,
        environ: Mapping[str, str],
        defaults: Mapping[str, Any],
        values: Mapping[str, Any],
    ) -> Self:
        file = _file_settings(Path(config), cls.model_fields) if config else {}
        variables = {
            name: (variable_of(name), value)
            for name in cls.model_fields
            if (value := environ.get(variable_of(name)))
        }
        former = former_settings(environ)
        url = environ.get("DATABASE_URL")
        fallback = {"database_url": ("DATABASE_URL", url)} if url else {}
        # Where each setting comes from, and its value; what comes later takes precedence.
        found: dict[str, tuple[str, Any]] = {**fallback, **file, **variables}
        _require_agreement(found, former)
        found = {name: each for name, each in (found | former).items() if name not in values}
        settings = {name: value for name, (_, value) in found.items()}
        sources = {name: source for name, (source, _) in found.items()}
        try:
            read = cls(**{**defaults, **settings, **values})
        except ValidationError as exc:
            raise InvalidSettings(_lines(exc, sources)) from None
        if config:
            read._warn_if_readable(Path(config), sources)
        return read

    def _warn_if_readable(self, path: Path, sources: Mapping[str, str]) -> None:
        """Log a warning if secrets of the file can be read by every user of the machine."""
        secrets = {*_SECRETS}
        urls = {"database_url": self.database_url, "database_read_url": self.database_read_url}
        secrets |= {name for name, url in urls.items() if url and parse(url).has_password}
        own = sorted(name for name in secrets if sources.get(name) == f"{path}: {name}")
        if own and is_readable_by_everyone(path):
            _warn_of_readable_secrets(path, ", ".join(own))

    def replace(self, **values: Any) -> Self:
        """Return these settings with other values, validated as all of them are."""
        current = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**current | values)

    def reloaded(self, new: Self) -> Self:
        """Return these settings with those of `new` that may change while the server runs.

        Raise InvalidSettings if they do not go with those that stay.
        """
        try:
            return self.replace(**{name: getattr(new, name) for name in RELOADABLE})
        except ValidationError as exc:
            raise InvalidSettings(f"{_lines(exc, {})} This needs a restart.") from None

    def differences(self, other: Self) -> list[str]:
        """Return the names of the settings that are different in `other`."""
        return [
            name for name in type(self).model_fields if getattr(self, name) != getattr(other, name)
        ]

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


def _file_settings(path: Path, names: Collection[str]) -> dict[str, tuple[str, Any]]:
    """Return where each setting of a file is, and its value."""
    found = {}
    for name, value in read_settings_file(path, names).items():
        is_path = name in _PATHS and isinstance(value, str) and value != "system"
        found[name] = f"{path}: {name}", path.parent / value if is_path else value
    return found


def _require_agreement(
    found: Mapping[str, tuple[str, Any]], former: Mapping[str, tuple[str, str]]
) -> None:
    """Raise InvalidSettings if a setting and its former variable have different values."""
    for name, (variable, value) in former.items():
        if name in found and str(found[name][1]) != value:
            raise InvalidSettings(
                f"{variable} and {found[name][0]} differ: remove {variable}, the former name."
            )


def _lines(exc: ValidationError, sources: Mapping[str, str]) -> str:
    """Return a line for each error, with the place where the setting is set."""
    lines = []
    for error in errors_of(exc):
        # An error about several settings has no location, and its text names them.
        names = [f"{sources.get(str(name), name)}: " for name in error["loc"][:1]]
        lines.append("".join((*names, error["msg"])))
    return "\n".join(lines)


@cache
def _warn_of_readable_secrets(path: Path, names: str) -> None:
    # Once: commands read their settings several times.
    logger.warning(
        "Every user of this machine can read the secrets in %s (%s): run `chmod 640 %s`.",
        path,
        names,
        path,
    )


def environment_warnings(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return a sentence for each variable that looks like a setting and has no effect."""
    return variable_warnings(environ, Settings.model_fields)
