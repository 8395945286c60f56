"""Connection strings: the URL of a database, as providers and other programs write it.

Every parameter of PostgreSQL's own library (libpq) is known here, and those that other programs
add to it: what this server cannot use must not keep it from connecting.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

FORM = (
    "write postgresql://user:password@host:port/name,"
    " with the special characters of user and password percent-encoded"
)

# Of libpq, Django and other programs; SQLAlchemy adds a driver: postgresql+asyncpg.
SCHEMES = {"postgresql", "postgres", "pgsql", "psql", "postgis"}

# The parameters of libpq that have an effect here.
LIBPQ = {
    "host", "hostaddr", "port", "dbname", "user", "password", "passfile", "service", "servicefile",
    "sslmode", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl", "sslnegotiation",
    "ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "krbsrvname",
    "gsslib", "connect_timeout", "application_name", "fallback_application_name", "options",
    "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
}  # fmt: skip

# Parameters of sessions, which are passed on to PostgreSQL.
SESSION = {
    "bytea_output", "client_min_messages", "default_transaction_deferrable",
    "default_transaction_isolation", "default_transaction_read_only", "extra_float_digits",
    "idle_session_timeout", "log_min_duration_statement", "log_statement", "maintenance_work_mem",
    "role", "synchronous_commit", "temp_buffers", "work_mem",
}  # fmt: skip

# What other programs call these parameters. Names are compared in lower case.
ALIASES = {
    "database": "dbname",
    "username": "user",
    "unix_sock": "host",
    "ssl": "sslmode",
    "applicationname": "application_name",
    "connecttimeout": "connect_timeout",
    "logintimeout": "connect_timeout",
    "tcpkeepalive": "keepalives",
    "targetservertype": "target_session_attrs",
    "channelbinding": "channel_binding",
    "prepared_statement_cache_size": "statement_cache_size",
    "preparethreshold": "statement_cache_size",
}

# What turns the cache of prepared statements off, as poolers need it.
POOLER = {"pgbouncer", "statement_cache_size", "prepared_statements", "prepare"}

# The parameters of libpq that have none.
LIBPQ_IGNORED = {
    "channel_binding", "client_encoding", "gssdelegation", "gssencmode", "load_balance_hosts",
    "max_protocol_version", "min_protocol_version", "oauth_client_id", "oauth_client_secret",
    "oauth_issuer", "oauth_scope", "replication", "require_auth", "requirepeer", "requiressl",
    "scram_client_key", "scram_server_key", "sslcertmode", "sslcompression", "sslcrldir",
    "sslkeylogfile", "sslsni",
}  # fmt: skip

# Parameters without an effect here, and the setting to use instead, if there is one.
IGNORED: dict[str, str] = {
    **dict.fromkeys(LIBPQ_IGNORED, ""),
    # What the server sets for each of its sessions.
    "statement_timeout": "LLMRING_STATEMENT_TIMEOUT",
    "lock_timeout": "LLMRING_LOCK_TIMEOUT",
    "idle_in_transaction_session_timeout": "LLMRING_IDLE_IN_TRANSACTION_TIMEOUT",
    **dict.fromkeys(("jit", "timezone", "datestyle", "intervalstyle"), ""),
    # The schema of another program's tables need not be that of ours.
    **dict.fromkeys(
        ("schema", "currentschema", "schema_search_path", "search_path"), "LLMRING_DATABASE_SCHEMA"
    ),
    # Pools of Prisma, SQLAlchemy, Rails, Go and JavaScript.
    **dict.fromkeys(
        (
            "connection_limit", "max", "max_overflow", "max_size", "min_size", "pool",
            "pool_max_conns", "pool_min_conns", "pool_size",
        ),
        "LLMRING_DATABASE_POOL_SIZE",
    ),
    **dict.fromkeys(("pool_timeout", "checkout_timeout"), "LLMRING_ACQUIRE_TIMEOUT"),
    "pool_mode": "LLMRING_DATABASE_POOLER",
    **dict.fromkeys(("sslaccept", "sslidentity"), "LLMRING_DATABASE_TLS"),
    **dict.fromkeys(
        (
            "pool_health_check_period", "pool_max_conn_idle_time", "pool_max_conn_lifetime",
            "pool_pre_ping", "pool_recycle", "idle_timeout", "max_lifetime", "reaping_frequency",
            # Prisma, Supabase, Vercel.
            "max_connection_lifetime", "max_idle_connection_lifetime", "single_use_connections",
            "socket_timeout", "supa", "workaround",
            # SQLAlchemy and its drivers.
            "async_fallback", "command_timeout", "echo", "executemany_mode",
            "prepared_statement_name_func", "timeout",
            # Django, with dj-database-url.
            "assume_role", "atomic_requests", "conn_health_checks", "conn_max_age",
            "disable_server_side_cursors", "isolation_level", "server_side_binding",
            # Rails.
            "adapter", "advisory_locks", "encoding", "min_messages", "reconnect",
            # JavaScript and Go.
            "binary_parameters", "default_query_exec_mode", "description_cache_capacity",
            "keepalive", "query_timeout", "statement_cache_capacity", "statement_cache_mode",
            "uselibpqcompat",
            # JDBC.
            "assumeminserverversion", "autosave", "binarytransfer", "cancelsignaltimeout",
            "defaultrowfetchsize", "loadbalancehosts", "loggerlevel", "preferquerymode",
            "preparedstatementcachequeries", "preparedstatementcachesizemib", "readonly",
            "rewritebatchedinserts", "sockettimeout", "sslfactory", "stringtype",
        ),
        "",
    ),
}  # fmt: skip

# Values that ask for what happens anyway, so that ignoring the parameter changes nothing.
ALREADY_SO = {
    "channel_binding": {"disable", "prefer"},
    "client_encoding": {"utf8", "utf-8", "unicode"},
    "gssdelegation": {"0"},
    "gssencmode": {"disable", "prefer"},
    "load_balance_hosts": {"disable"},
    "pgbouncer": {"false"},
    "replication": {"0", "false", "no", "off"},
    "requiressl": {"0"},
    "sslcertmode": {"allow"},
    "sslcompression": {"0"},
    "sslsni": {"1"},
    "timezone": {"utc"},
}

KNOWN = LIBPQ | SESSION | POOLER | IGNORED.keys() | ALIASES.keys()

MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# What other programs write for a mode.
MODE_ALIASES = {
    **dict.fromkeys(("", "1", "true", "on", "yes", "no-verify"), "require"),
    **dict.fromkeys(("0", "false", "off", "no"), "disable"),
}
ROLES = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
# What JDBC writes for a role, in lower case.
ROLE_ALIASES = {
    "master": "primary",
    "slave": "standby",
    "secondary": "standby",
    "preferslave": "prefer-standby",
    "prefersecondary": "prefer-standby",
}
TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
CHOICES = {
    "sslmode": MODES,
    "target_session_attrs": ROLES,
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": TLS_VERSIONS,
    "ssl_max_protocol_version": TLS_VERSIONS,
    "gsslib": ("gssapi", "sspi"),
}
NUMBERS = {
    "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count",
    "tcp_user_timeout",
}  # fmt: skip
SWITCHES = {"true": "1", "yes": "1", "on": "1", "false": "0", "no": "0", "off": "0"}


@dataclass
class Parameters:
    """The parameters of a URL by what they are for, with the names that libpq gives them."""

    # Those of libpq that have an effect here, and those that have none.
    used: dict[str, str] = field(default_factory=dict, repr=False)
    unused: dict[str, str] = field(default_factory=dict, repr=False)
    # Those of sessions.
    session: dict[str, str] = field(default_factory=dict, repr=False)
    # Whether a pooler in transaction mode is between the server and PostgreSQL.
    has_pooler: bool = False
    # Those without an effect, as they are written, with the setting to use instead.
    ignored: dict[str, str] = field(default_factory=dict)

    def add(self, written: str, value: str) -> None:
        name = ALIASES.get(written.lower(), written.lower())
        is_alias = name != written.lower()
        if name in SESSION:
            self.session[name] = value
        elif name in POOLER:
            self.has_pooler = self.has_pooler or _asks_for_pooler(name, value)
        elif name in IGNORED:
            if name in LIBPQ_IGNORED:
                self.unused[name] = value
            if value.lower() not in ALREADY_SO.get(name, ()):
                self.ignored[written] = IGNORED[name]
        elif not (is_alias and name in self.used):
            self.used[name] = _checked(name, value)

    def settle(self, *, has_host: bool) -> None:
        """Apply the rules about several parameters."""
        if self.unused.get("gssencmode") == "require":
            raise ValueError("gssencmode=require is not supported: use sslmode=require")
        if self.unused.get("requiressl") == "1":
            self.used.setdefault("sslmode", "require")
            self.ignored.pop("requiressl", None)
        if "hostaddr" in self.used and (has_host or "host" in self.used):
            self.unused["hostaddr"] = self.used.pop("hostaddr")
            self.ignored["hostaddr"] = ""
        # As in libpq, where weaker modes would trust everyone's certificates.
        is_system = self.used.get("sslrootcert") == "system"
        if is_system and self.used.setdefault("sslmode", "verify-full") != "verify-full":
            raise ValueError("sslrootcert=system needs sslmode=verify-full")


@dataclass(frozen=True)
class ConnectionString:
    """The parts of a database's URL."""

    scheme: str
    # User and password, percent-encoded.
    credentials: str = field(repr=False)
    # The hosts with their ports, separated by commas.
    hosts: str
    path: str
    parameters: Parameters

    @property
    def host(self) -> str:
        """The hosts, to be shown; empty for a local socket."""
        host = (
            self.hosts
            or self.parameters.used.get("host")
            or self.parameters.used.get("hostaddr", "")
        )
        names = [re.sub(r":\d*$", "", unquote(name)).strip("[]") for name in host.split(",")]
        return "" if names[0].startswith("/") else ",".join(names)

    @property
    def user(self) -> str | None:
        user = unquote(self.credentials.partition(":")[0])
        return user or self.parameters.used.get("user")

    @property
    def database(self) -> str | None:
        """The name of the database; None if it is that of the user."""
        return unquote(self.path.removeprefix("/")) or self.parameters.used.get("dbname")

    @property
    def has_password(self) -> bool:
        return bool(self.credentials.partition(":")[2] or self.parameters.used.get("password"))

    def each_host(self) -> "list[ConnectionString]":
        """Return one connection string for each host, in order."""
        if self.hosts:
            return [replace(self, hosts=host) for host in self.hosts.split(",")]
        used = self.parameters.used
        hosts, ports = (used.get(name, "").split(",") for name in ("host", "port"))
        if len(ports) == 1:
            ports *= len(hosts)
        if len(hosts) == 1 or len(ports) != len(hosts):
            return [self]
        return [
            replace(
                self, parameters=replace(self.parameters, used={**used, "host": host, "port": port})
            )
            for host, port in zip(hosts, ports, strict=True)
        ]

    @property
    def place(self) -> str:
        """The host and its port, to be shown."""
        used = self.parameters.used
        host = self.hosts or used.get("host", "")
        port = used.get("port")
        return f"{host}:{port}" if port and not self.hosts else host

    def libpq_url(self) -> str:
        """Return the URL that libpq, and so psql, understands."""
        return self.url_with({**self.parameters.used, **self.parameters.unused})

    def url_with(self, parameters: Mapping[str, str]) -> str:
        """Return the URL with these parameters in place of its own."""
        server = f"{self.credentials}@{self.hosts}" if self.credentials else self.hosts
        query = urlencode(parameters, safe="/,:", quote_via=quote)
        # An empty name would not be replaced with that of a service.
        path = "" if self.path == "/" else self.path
        return f"{self.scheme}://{server}{path}{'?' if query else ''}{query}"


def parse(url: str) -> ConnectionString:
    """Take a URL apart. A ValueError says what is wrong with it, without its values."""
    try:
        parts = urlsplit(url.strip().removeprefix("jdbc:"))
        # The last @: hosts have none, and a password may have one that was not encoded.
        credentials, _, hosts = parts.netloc.rpartition("@")
        for host in hosts.split(","):
            _ = urlsplit(f"//{host}").port
    except ValueError:
        raise ValueError(FORM) from None
    scheme = parts.scheme.partition("+")[0]
    if scheme not in SCHEMES and parts.netloc:
        raise ValueError(f"not a PostgreSQL URL: {FORM}")
    # After a #, ? or / in a password, a part of it could be taken for something else, and shown.
    if scheme not in SCHEMES or parts.fragment or "@" in parts.path:
        raise ValueError(FORM)
    return ConnectionString(
        scheme if scheme == "postgres" else "postgresql",
        credentials.replace("@", "%40"),
        hosts,
        parts.path,
        _parameters(parts.query, has_host=bool(hosts)),
    )


def _parameters(query: str, *, has_host: bool) -> Parameters:
    parameters = Parameters()
    for written, value in parse_qsl(query, keep_blank_values=True):
        if written.lower() not in KNOWN:
            raise ValueError(_unknown(written, query))
        # An empty value is the default, but `?ssl` says yes.
        if value or written.lower() == "ssl":
            parameters.add(written, value)
    parameters.settle(has_host=has_host)
    return parameters


def _checked(name: str, value: str) -> str:
    """Return the value as libpq writes it."""
    if name == "sslmode":
        value = MODE_ALIASES.get(value.lower(), value)
    elif name == "target_session_attrs":
        value = ROLE_ALIASES.get(value.lower(), value)
    elif name == "keepalives":
        value = SWITCHES.get(value.lower(), value)
    if value not in CHOICES.get(name, (value,)):
        alike = get_close_matches(value.lower(), CHOICES[name], 1)
        hint = f"; did you mean {alike[0]}?" if alike else ""
        raise ValueError(f"{name}: write {', '.join(CHOICES[name])}{hint}")
    if name in NUMBERS and not re.fullmatch(r"-?\d{1,9}", value):
        raise ValueError(f"{name}: write a whole number")
    return value


def _asks_for_pooler(name: str, value: str) -> bool:
    """Tell whether a parameter says that statements cannot be kept prepared."""
    is_on = SWITCHES.get(value.lower(), value) not in {"0", ""}
    return is_on if name == "pgbouncer" else not is_on


def _unknown(name: str, query: str) -> str:
    # It may be a part of a password with a ? that was not encoded.
    if "@" in query or not re.fullmatch(r"\w+", name):
        return FORM
    alike = get_close_matches(name.lower(), sorted(KNOWN), 1)
    hint = f"did you mean {alike[0]}?" if alike else "remove it, or see docs/configuration.md"
    return f"the parameter {name} is unknown: {hint}"
