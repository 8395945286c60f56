"""pgdbm.toml: the modules of a database, their schemas and their order, as pgdbm's tool reads them.

The keys are pgdbm's. What pgdbm ignores or reads in two ways is refused here: an unknown key, an
unknown module, a cycle, a folder that does not exist.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlencode

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from llmring_server.core.connection_string import parse
from llmring_server.core.suggestions import did_you_mean
from llmring_server.core.validation import errors_of
from llmring_server.db.migrations import FOLDER
from llmring_server.db.repository import SQL
from llmring_server.errors import InvalidRequest
from llmring_server.settings import Schema

# The `migrations_path` of the server's own module. pgdbm's tool finds no folder of this name and
# skips the module, which it would record under another name and in another schema.
OWN_PATH = "package:llmring_server"

Model = TypeVar("Model", bound=BaseModel)

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_SSL_OPTIONS = {
    "ssl_mode": "sslmode",
    "ssl_ca_file": "sslrootcert",
    "ssl_cert_file": "sslcert",
    "ssl_key_file": "sslkey",
}
_URL_KEYS = ("url", "connection_string")
_PART_KEYS = ("host", "port", "database", "user", "password")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Project(_Table):
    name: str
    default_env: str = "dev"


class _Database(_Table):
    migrations_table: Schema = "schema_migrations"


class _Environment(_Table):
    url: str | None = None
    connection_string: str | None = None
    host: str | None = None
    port: int = Field(5432, ge=1, le=65535)
    database: str | None = None
    user: str | None = None
    password: str | None = None
    schema_name: Schema = Field("public", alias="schema")
    ssl_enabled: bool = False
    ssl_mode: Literal["require", "verify-ca", "verify-full"] | None = None
    ssl_ca_file: str | None = None
    ssl_cert_file: str | None = None
    ssl_key_file: str | None = None

    @model_validator(mode="after")
    def _names_one_database(self) -> Self:
        given = self.model_fields_set
        urls = [key for key in _URL_KEYS if key in given]
        parts = [key for key in _PART_KEYS if key in given]
        if len(urls) > 1 or (urls and parts):
            raise ValueError(f"keep one of {' and '.join((*urls, *parts[:1]))}: both name a server")
        if not urls and not (self.host and self.database):
            raise ValueError("name a database: url, or host and database")
        ssl = [key for key in _SSL_OPTIONS if key in given]
        if ssl and not self.ssl_enabled:
            raise ValueError(f"{ssl[0]} has an effect only with ssl_enabled = true")
        return self


class _Module(_Table):
    migrations_path: str
    schema_name: Schema | None = Field(None, alias="schema")
    # How a library gets its database; migrations are the same in each mode.
    mode: Literal["standalone", "library", "dual"] = "dual"
    depends_on: list[str] = []
    # Only of the server's own module, and unknown to pgdbm.
    mcp_schema: Schema | None = None


class _SharedPool(_Table):
    min_connections: int = Field(10, ge=0)
    max_connections: int = Field(100, ge=1)
    modules: list[str] = []

    @model_validator(mode="after")
    def _sizes_are_in_order(self) -> Self:
        if self.min_connections > self.max_connections:
            raise ValueError("min_connections is larger than max_connections")
        return self


class _File(_Table):
    project: _Project | None = None
    database: _Database = _Database()
    # Checked when an environment is chosen: the variables of others need not be set.
    environments: dict[str, dict[str, Any]] = {}
    modules: dict[str, _Module]
    shared_pool: _SharedPool | None = None


class Module(NamedTuple):
    """A module: its name, its schema, and the folder of its migrations; None for our own."""

    name: str
    schema: str | None
    folder: Path | None
    mcp_schema: str | None = None

    @property
    def is_own(self) -> bool:
        return self.folder is None


class PgdbmConfig(NamedTuple):
    """The modules of a file in the order of their dependencies, for one of its environments."""

    # None: the file has no environments, and does not say where the database is.
    environment: str | None
    url: str | None
    # Of foreign modules that name none.
    default_schema: str
    migrations_table: str
    modules: tuple[Module, ...]


def read_pgdbm_config(
    path: Path, env: str | None, environ: Mapping[str, str] = os.environ
) -> PgdbmConfig:
    """Read a pgdbm.toml; `env` names one of its environments, by default its own default.

    InvalidRequest says what is wrong in the file. Values are never shown: they may be passwords.
    """
    document = _load(path)
    modules = document.get("modules")
    if isinstance(modules, dict):
        for name, module in modules.items():
            modules[name] = _expanded(module, f"{path}: modules.{name}", environ)
    file = _validated(_File, document, path, ())
    chosen, environment = _environment(file, path, env, environ)
    url = _url(environment, path.parent) if environment else None
    try:
        is_pooler = url is not None and parse(url).parameters.has_pooler
    except ValueError as exc:
        raise InvalidRequest(f"{path}: environments.{chosen}: {exc}") from exc
    if is_pooler:
        raise InvalidRequest(
            f"{path}: environments.{chosen}: the lock of migrations does not work through a pooler"
            " in transaction mode: name the database itself."
        )
    return PgdbmConfig(
        chosen,
        url,
        environment.schema_name if environment else "public",
        file.database.migrations_table,
        tuple(_module(path, name, file.modules[name]) for name in _order(file, path)),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise InvalidRequest(f"Cannot read {path}: {exc.strerror}.") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        # The text of a TOML error has a position, and at most one character of the file.
        reason = exc if isinstance(exc, tomllib.TOMLDecodeError) else "expected UTF-8"
        raise InvalidRequest(f"{path} is not valid TOML: {reason}.") from exc


def _expanded(value: Any, place: str, environ: Mapping[str, str]) -> Any:
    """Replace each ${VARIABLE} in the strings of a table."""
    if isinstance(value, dict):
        return {key: _expanded(each, f"{place}.{key}", environ) for key, each in value.items()}
    if isinstance(value, list):
        return [_expanded(each, place, environ) for each in value]
    if isinstance(value, str):
        value_of = partial(_value_of, place=place, environ=environ)
        if place.endswith((".url", ".connection_string")) and not _VARIABLE.fullmatch(value):
            # A part of a URL, such as the password, may have characters that end this part.
            return _VARIABLE.sub(lambda match: quote(value_of(match), safe=""), value)
        return _VARIABLE.sub(value_of, value)
    return value


def _value_of(match: re.Match[str], place: str, environ: Mapping[str, str]) -> str:
    if value := environ.get(match[1]):
        return value
    raise InvalidRequest(f"{place}: the environment variable {match[1]} is not set.")


def _validated(model: type[Model], values: Any, path: Path, place: tuple[str, ...]) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as exc:
        lines = [
            f"{path}: {'.'.join(map(str, (*place, *error['loc'])))}: {_text(error, model, place)}"
            for error in errors_of(exc)
        ]
        raise InvalidRequest("\n".join(lines)) from exc


def _text(error: dict[str, Any], model: type[BaseModel], place: tuple[str, ...]) -> str:
    if error["type"] == "string_pattern_mismatch":
        return "expected lower-case letters, digits and _, at most 63, not starting with a digit"
    if error["type"] != "extra_forbidden":
        return str(error["msg"])
    table = (*place, *map(str, error["loc"][:-1]))
    models: dict[str, type[BaseModel]] = {
        "project": _Project,
        "database": _Database,
        "modules": _Module,
        "shared_pool": _SharedPool,
    }
    known = models.get(table[0], model) if table else model
    names = frozenset(field.alias or name for name, field in known.model_fields.items())
    return f"unknown key.{did_you_mean(str(error['loc'][-1]), names)}"


def _environment(
    file: _File, path: Path, env: str | None, environ: Mapping[str, str]
) -> tuple[str | None, _Environment | None]:
    if not file.environments:
        return None, None
    name = env or environ.get("PGDBM_ENV") or (file.project.default_env if file.project else "dev")
    if name not in file.environments:
        raise InvalidRequest(
            f"{path} has no environment {name}. Choose one with --env:"
            f" {', '.join(file.environments)}."
        )
    values = _expanded(file.environments[name], f"{path}: environments.{name}", environ)
    return name, _validated(_Environment, values, path, ("environments", name))


def _url(environment: _Environment, folder: Path) -> str:
    """Return the URL of the database, with the TLS options of the environment."""
    url = environment.url or environment.connection_string
    if url is None:
        user = quote(environment.user or "", safe="")
        if environment.password:
            user += f":{quote(environment.password, safe='')}"
        host, database = environment.host or "", quote(environment.database or "", safe="")
        # The folder of a local socket cannot stand in the place of a host.
        is_socket = host.startswith("/")
        place = "" if is_socket else f"{host}:{environment.port}"
        url = f"postgresql://{user}{'@' if user else ''}{place}/{database}"
        if is_socket:
            url += f"?{urlencode({'host': host, 'port': environment.port})}"
    if not environment.ssl_enabled:
        return url
    options: dict[str, str] = {"sslmode": environment.ssl_mode or "verify-full"}
    for key in ("ssl_ca_file", "ssl_cert_file", "ssl_key_file"):
        if file := getattr(environment, key):
            options[_SSL_OPTIONS[key]] = str(folder / file)
    return f"{url}{'&' if '?' in url else '?'}{urlencode(options)}"


def _order(file: _File, path: Path) -> list[str]:
    """Return the names of the modules, each after those that it depends on."""
    _check_names(
        path, "shared_pool.modules", file.shared_pool.modules if file.shared_pool else [], file
    )
    for name, module in file.modules.items():
        _check_names(path, f"modules.{name}.depends_on", module.depends_on, file)
    ordered: list[str] = []

    def visit(name: str, dependents: tuple[str, ...]) -> None:
        if name in dependents:
            cycle = " -> ".join((*dependents[dependents.index(name) :], name))
            raise InvalidRequest(f"{path}: modules depend on one another in a circle: {cycle}.")
        if name not in ordered:
            for dependency in file.modules[name].depends_on:
                visit(dependency, (*dependents, name))
            ordered.append(name)

    for name in file.modules:
        visit(name, ())
    return ordered


def _check_names(path: Path, place: str, names: list[str], file: _File) -> None:
    for name in names:
        if name not in file.modules:
            suggestion = did_you_mean(name, frozenset(file.modules))
            raise InvalidRequest(f"{path}: {place}: there is no module {name}.{suggestion}")


def _module(path: Path, name: str, module: _Module) -> Module:
    folder = (path.parent / module.migrations_path).resolve()
    own = {(FOLDER / each).resolve(): each for each in ("llmring", "mcp_client")}
    if module.migrations_path == OWN_PATH or own.get(folder) == "llmring":
        return Module(name, module.schema_name, None, module.mcp_schema)
    if folder in own or folder.is_relative_to(SQL.resolve()):
        raise InvalidRequest(
            f"{path}: modules.{name}: the tables of MCP belong to the module of"
            f' migrations_path = "{OWN_PATH}", whose mcp_schema names their schema.'
        )
    if module.mcp_schema is not None:
        raise InvalidRequest(
            f"{path}: modules.{name}.mcp_schema: only a module with"
            f' migrations_path = "{OWN_PATH}" has it.'
        )
    if not folder.is_dir():
        raise InvalidRequest(
            f"{path}: modules.{name}.migrations_path: there is no folder {folder}."
        )
    return Module(name, module.schema_name, folder)
