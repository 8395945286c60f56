"""Connecting: what a connection string and the settings say, in the terms of the driver."""

import asyncio
import errno
import logging
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar, cast

import asyncpg

from llmring_server.core.connection_string import ConnectionString, parse
from llmring_server.core.retry import retry_for
from llmring_server.db.connection_cache import Connection
from llmring_server.errors import DatabaseAccessDenied, Unavailable

Opened = TypeVar("Opened")

logger = logging.getLogger(__name__)

# A PostgreSQL that is starting or recovering accepts connections after a while.
START_TIMEOUT_SECONDS = 5.0
START_RETRY_PAUSE_SECONDS = 0.1
_STARTING = (
    ConnectionError,
    FileNotFoundError,
    asyncpg.CannotConnectNowError,
    asyncpg.ConnectionDoesNotExistError,
)

APPLICATION_NAME = "llmring-server"
# The driver's own time limit.
CONNECT_TIMEOUT_SECONDS = 60.0

# What the driver reads from a URL itself.
_DRIVERS = {
    "host", "port", "user", "password", "dbname", "sslmode", "sslcert", "sslkey", "sslpassword",
    "sslrootcert", "sslcrl", "sslnegotiation", "ssl_min_protocol_version",
    "ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib", "service",
}  # fmt: skip
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
# The modes in which the driver reads these files.
_MODES_WITH_CERTIFICATES = ("require", "verify-ca", "verify-full")

# Options of a socket, and what they are called in a URL. Not every system has all of them.
_SOCKET_OPTIONS = (
    ("keepalives_idle", socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPIDLE", None)),
    ("keepalives_interval", socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPINTVL", None)),
    ("keepalives_count", socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPCNT", None)),
    ("tcp_user_timeout", socket.IPPROTO_TCP, getattr(socket, "TCP_USER_TIMEOUT", None)),
)


# What refuses a role raises one of these: a wrong password or role, no line in pg_hba.conf, or a
# database without the privilege CONNECT.
_REFUSALS = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InsufficientPrivilegeError,
)
CHECK_ROLE = (
    "Check the user and the password in the URL, and that the role may connect to this database."
)

# How much later the next host of a URL is tried, if one has neither answered nor failed.
HEAD_START_SECONDS = 0.25
# After these errors of one host, another one may do. As in libpq, a wrong password is not one.
_NEXT_HOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TargetServerAttributeNotMatched,
)


class NoUsableHost(ConnectionError):
    """None of the hosts of a URL answers and has the role that the URL asks for."""

    def __init__(self, failures: list[tuple[str, Exception]]) -> None:
        super().__init__("no host is usable")
        self.failures = failures


# What cannot be connected to raises one of these.
_FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)

# The attribute of such an error that says why a pool of ours could not connect.
_REASON = "llmring_reason"

# What asyncio says of each address of a host, in one text.
_REFUSED = re.compile(rf"\[Errno {errno.ECONNREFUSED}\] Connect call failed \('([^']+)', (\d+)")


@contextmanager
def connecting_to(target: str, url: str) -> Iterator[None]:
    """Raise Unavailable with the reason if `target`, which `url` names, cannot be reached.

    It is DatabaseAccessDenied if the target was reached and refuses the role.
    """
    try:
        yield
    except _REFUSALS as exc:
        raise DatabaseAccessDenied(
            f"Cannot connect to {target}: {_reason(exc, url)}. {CHECK_ROLE}"
        ) from exc
    except _FAILURES as exc:
        raise Unavailable(f"Cannot connect to {target}: {_reason(exc, url)}") from exc


def _reason(exc: Exception, url: str) -> str:  # noqa: C901, PLR0911, a table
    # These messages of the driver name a host, a user or a database, and never a password.
    if isinstance(exc, NoUsableHost):
        reasons = [
            f"{place}: {_reason(failure, url).rstrip('.')}" for place, failure in exc.failures
        ]
        return f"{'; '.join(reasons)}."
    if isinstance(exc, asyncpg.TargetServerAttributeNotMatched):
        role = parse(url).parameters.used.get("target_session_attrs")
        return f"it is not {role}, as target_session_attrs asks."
    reason = str(exc) or type(exc).__name__
    if isinstance(exc, TimeoutError):
        return "there was no answer in time."
    if isinstance(exc, socket.gaierror):
        return f"host {parse(url).host} not found."
    if isinstance(exc, FileNotFoundError):
        reason = "there is no PostgreSQL socket at the path in the URL."
    if addresses := _REFUSED.findall(reason):
        places = [
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses
        ]
        return f"nothing listens on {' or '.join(places)}."
    # uvloop does not say which address it was.
    if isinstance(exc, ConnectionRefusedError) and (hosts := parse(url).hosts):
        return f"nothing listens on {hosts.replace(',', ' or ')}."
    if isinstance(exc, asyncpg.InvalidCatalogNameError):
        return f"{reason}. Create it with `llmring-server db create`."
    if isinstance(exc, asyncpg.ProtocolViolationError) and reason.endswith("does not exist"):
        return f"{reason}. PgBouncer does not create databases: use a direct connection for that."
    if "unsupported startup parameter" in reason:
        return f"{reason}. Behind PgBouncer, set LLMRING_DATABASE_POOLER=true."
    return reason


def arguments(
    url: str, *, has_pooler: bool = False, session: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return what asyncpg.connect and asyncpg.create_pool need to connect to a URL.

    `session` are the server's own parameters of a session, which take precedence.
    """
    connection = parse(url)
    _check_files(connection)
    if connection.parameters.ignored:
        _log_ignored(url)
    parameters = dict(connection.parameters.used)
    if host := parameters.pop("hostaddr", None) or parameters.get("host"):
        parameters["host"] = ",".join(map(_bracketed, host.split(",")))
    name = parameters.get("application_name") or parameters.get("fallback_application_name")
    settings = {**connection.parameters.session, **(session or {})}
    settings["application_name"] = name or APPLICATION_NAME
    if "options" in parameters:
        settings["options"] = parameters["options"]
    arguments: dict[str, Any] = {"server_settings": settings, "timeout": _timeout(connection)}
    if has_pooler or connection.parameters.has_pooler:
        arguments["statement_cache_size"] = 0
    # The driver reads these from the URL in a way that fails, or not at all.
    if "passfile" in parameters:
        arguments["passfile"] = Path(parameters["passfile"])
    if "servicefile" in parameters:
        arguments["servicefile"] = parameters["servicefile"]
    if parameters.get("sslrootcert") == "system":
        arguments["ssl"] = _context_of_system(parameters)
    kept = {name: value for name, value in parameters.items() if name in _DRIVERS}
    arguments["dsn"] = connection.url_with(kept)
    return arguments


async def when_started(work: Callable[[], Awaitable[Opened]]) -> Opened:
    """Repeat `work` while the server is starting, for a moment."""
    return await retry_for(work, _STARTING, START_TIMEOUT_SECONDS, pause=START_RETRY_PAUSE_SECONDS)


async def connect(url: str, **options: Any) -> Connection:
    """Open one connection to a URL."""

    async def open_connection() -> Connection:
        return await _connect_to_one_of_the_hosts(**arguments(url), **options)

    connection = await when_started(open_connection)
    await keep_alive(url, connection)
    return connection


async def connect_for_pool(dsn: str | None = None, **options: Any) -> Connection:
    """Connect as the driver's pool does, and note the reason of a failure for its log entry."""
    try:
        return await _connect_to_one_of_the_hosts(dsn or "", **options)
    except _FAILURES as exc:
        exc.__dict__[_REASON] = _reason(exc, dsn or "")
        raise


async def _connect_to_one_of_the_hosts(dsn: str, **options: Any) -> Connection:
    """Connect to the first host of a URL that answers and is what `target_session_attrs` wants.

    The driver would wait for a host that does not answer until its time limit, before it tries the
    next one, and it would not try the others if one is starting. Here, the next host is tried as
    soon as one has failed, and after a moment in any case.
    """
    connection = parse(dsn)
    used = connection.parameters.used
    role = used.get("target_session_attrs", "any")
    urls = [(host.place, host.url_with(host.parameters.used)) for host in connection.each_host()]
    if role != "prefer-standby":
        return await _race(urls, options)
    try:
        return await _race([(place, _with_role(url, "standby")) for place, url in urls], options)
    except NoUsableHost:
        return await _race([(place, _with_role(url, "any")) for place, url in urls], options)


def _with_role(url: str, role: str) -> str:
    connection = parse(url)
    return connection.url_with({**connection.parameters.used, "target_session_attrs": role})


async def _race(urls: Sequence[tuple[str, str]], options: Mapping[str, Any]) -> Connection:
    """Return the first connection. Each host has a head start before the next one is tried."""
    waiting = iter(urls)
    attempts: dict[asyncio.Task[Connection], str] = {}
    failures: dict[asyncio.Task[Connection], Exception] = {}
    chosen = None
    try:
        while chosen is None:
            is_last = not (url := next(waiting, None))
            if url:
                place, dsn = url
                attempts[asyncio.create_task(asyncpg.connect(dsn, **options))] = place
            running = attempts.keys() - failures
            if not running:
                raise _failure([(attempts[task], exc) for task, exc in failures.items()])
            done, _ = await asyncio.wait(
                running,
                timeout=None if is_last else HEAD_START_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                try:
                    chosen = task.result()
                except _NEXT_HOST as exc:
                    failures[task] = exc
                else:
                    del attempts[task]
                    break
    finally:
        for task in attempts:
            task.cancel()
            task.add_done_callback(_discard)
    return chosen


def _discard(task: asyncio.Task[Connection]) -> None:
    """Close a connection to another host."""
    if not task.cancelled() and task.exception() is None:
        task.result().terminate()


def _failure(failures: list[tuple[str, Exception]]) -> Exception:
    exc = failures[0][1]
    if len(failures) == 1 and not isinstance(exc, asyncpg.TargetServerAttributeNotMatched):
        return exc
    return NoUsableHost(failures)


class RetriesInOneLine(logging.Filter):
    """Shortens the driver's log entries about connections that a pool of ours cannot restore.

    The driver logs a traceback for each attempt, for as long as the database is unreachable.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        exc = record.exc_info and record.exc_info[1]
        # Failures of other pools, and of anything but connecting, keep their tracebacks.
        if exc and (reason := exc.__dict__.get(_REASON)):
            record.msg = "The pool cannot connect to the database: %s The server tries again."
            record.args = (reason if reason.endswith(".") else f"{reason}.",)
            record.exc_info = record.exc_text = None
        return True


async def keep_alive(url: str, connection: Connection) -> None:
    """Set the options of the connection's socket that the URL names."""
    parameters = parse(url).parameters.used
    stream = transport_of(connection).get_extra_info("socket")
    # A connection to a local socket needs none, and a pool's test may have no socket.
    if stream is None or stream.family == socket.AF_UNIX:
        return
    values = {name: int(value) for name, value in parameters.items() if "keepalives" in name}
    if values and values.get("keepalives") != 0:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, level, option in _SOCKET_OPTIONS:
        value = int(parameters.get(name, "0"))
        if value > 0 and option is not None:
            stream.setsockopt(level, option, value)


def transport_of(connection: Connection) -> asyncio.BaseTransport:
    transport: asyncio.BaseTransport = cast("Any", connection)._transport
    return transport


def crosses_public_network_unencrypted(transport: asyncio.BaseTransport) -> bool:
    """Tell whether the other end has a public address and the connection does not use TLS."""
    peer = transport.get_extra_info("peername")
    # The peer of a local socket is a path.
    if not isinstance(peer, tuple) or transport.get_extra_info("ssl_object"):
        return False
    return ip_address(peer[0]).is_global


def _bracketed(host: str) -> str:
    """Return a host as the driver reads it: an IPv6 address in brackets, as in a URL."""
    is_address = host.count(":") > 1 and not host.startswith(("/", "["))
    return f"[{host}]" if is_address else host


def _timeout(connection: ConnectionString) -> float | None:
    """Return the time limit of connecting to a host, in seconds; as in libpq, 0 means none."""
    seconds = connection.parameters.used.get("connect_timeout")
    if seconds is None:
        return CONNECT_TIMEOUT_SECONDS
    return int(seconds) if int(seconds) > 0 else None


def _check_files(connection: ConnectionString) -> None:
    """Say which parameter names a file that cannot be read: the driver would not."""
    if connection.parameters.used.get("sslmode") not in _MODES_WITH_CERTIFICATES:
        return
    for name in _FILES:
        path = connection.parameters.used.get(name)
        if path is None or (name, path) == ("sslrootcert", "system"):
            continue
        try:
            Path(path).open("rb").close()
        except OSError as exc:
            raise Unavailable(
                f"Cannot connect to the database: the file that {name} names cannot be read:"
                f" {exc.strerror}."
            ) from exc


def _context_of_system(parameters: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context that trusts the certificate authorities of the operating system."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["postgresql"])
    if certificate := parameters.get("sslcert"):
        password = parameters.get("sslpassword", "")
        context.load_cert_chain(certificate, parameters.get("sslkey"), lambda: password)
    if revoked := parameters.get("sslcrl"):
        context.load_verify_locations(revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    context.minimum_version = _tls_version(parameters.get("ssl_min_protocol_version", "TLSv1.2"))
    if maximum := parameters.get("ssl_max_protocol_version"):
        context.maximum_version = _tls_version(maximum)
    return context


def _tls_version(name: str) -> ssl.TLSVersion:
    return ssl.TLSVersion[name.replace(".", "_")]


@cache
def _log_ignored(url: str) -> None:
    """Name the parameters without an effect, once for each URL."""
    names = [
        f"{name} (see {setting})" if setting else name
        for name, setting in parse(url).parameters.ignored.items()
    ]
    logger.warning("Parameters of the database URL are ignored: %s.", ", ".join(names))
