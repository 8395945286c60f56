"""Connection strings as people get them, from libpq's documentation, providers and frameworks."""

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from llmring_server import Ring, Settings
from llmring_server.core.connection_string import parse
from llmring_server.db import admin
from llmring_server.errors import Unavailable

# Parameters that have an effect, or ask for what happens anyway.
HONOURED = [
    "application_name=shop",
    "fallback_application_name=shop",
    "connect_timeout=15",
    "connect_timeout=0",
    "keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=5",
    "keepalives=0",
    "tcp_user_timeout=30000",
    "options=-c%20work_mem%3D8MB",
    "options=-c+work_mem%3D8MB",
    "target_session_attrs=read-write",
    "target_session_attrs=primary",
    "target_session_attrs=any",
    "target_session_attrs=prefer-standby",
    "targetServerType=master",
    "gssencmode=disable",
    "gssencmode=prefer",
    "channel_binding=disable",
    "channel_binding=prefer",
    "client_encoding=utf8",
    "client_encoding=UTF-8",
    "replication=false",
    "sslcompression=0",
    "sslsni=1",
    "sslcertmode=allow",
    "gssdelegation=0",
    "load_balance_hosts=disable",
    "requiressl=1",
    "requiressl=0",
    "sslmode=disable",
    "sslmode=allow",
    "sslmode=prefer",
    "sslmode=require",
    "sslmode=no-verify",
    "sslrootcert=system",
    "sslmode=verify-full&sslrootcert=system",
    "ssl",
    "ssl=true",
    "ssl=false",
    "ssl=require",
    "ssl=1",
    "sslmode=",
    "sslnegotiation=postgres",
    "sslmode=require&ssl_min_protocol_version=TLSv1.2&ssl_max_protocol_version=TLSv1.3",
    "krbsrvname=postgres",
    "gsslib=gssapi",
    "passfile=/nowhere/pgpass",
    "servicefile=/nowhere/services",
    "pgbouncer=true",
    "pgbouncer=false",
    "statement_cache_size=0",
    "prepared_statement_cache_size=0",
    "prepareThreshold=0",
    "prepared_statements=false",
    "work_mem=8MB",
    "default_transaction_isolation=read%20committed",
    "timezone=UTC",
    "tcpKeepAlive=true",
    "ApplicationName=shop",
    "connectTimeout=5",
    "loginTimeout=5",
    "password=unused",
    "user=llmring",
    "username=llmring",
]

# Parameters that are ignored with a line in the log, and the name in it.
IGNORED = [
    # libpq: what the driver cannot do.
    ("channel_binding=require", "channel_binding"),
    ("channelBinding=require", "channelBinding"),
    ("require_auth=scram-sha-256", "require_auth"),
    ("requirepeer=postgres", "requirepeer"),
    ("client_encoding=latin1", "client_encoding"),
    ("hostaddr=127.0.0.1", "hostaddr"),
    ("load_balance_hosts=random", "load_balance_hosts"),
    ("min_protocol_version=3.0", "min_protocol_version"),
    ("max_protocol_version=latest", "max_protocol_version"),
    ("oauth_issuer=https://example.com", "oauth_issuer"),
    ("oauth_client_id=canary", "oauth_client_id"),
    ("oauth_client_secret=canary", "oauth_client_secret"),
    ("oauth_scope=canary", "oauth_scope"),
    ("scram_client_key=canary", "scram_client_key"),
    ("scram_server_key=canary", "scram_server_key"),
    ("gssdelegation=1", "gssdelegation"),
    ("replication=database", "replication"),
    ("sslcertmode=require", "sslcertmode"),
    ("sslcompression=1", "sslcompression"),
    ("sslcrldir=/nowhere", "sslcrldir"),
    ("sslkeylogfile=/nowhere", "sslkeylogfile"),
    ("sslsni=0", "sslsni"),
    # Prisma, Supabase, Neon, Vercel.
    ("connection_limit=1", "connection_limit (see LLMRING_DATABASE_POOL_SIZE)"),
    ("pool_timeout=15", "pool_timeout (see LLMRING_ACQUIRE_TIMEOUT)"),
    ("pool_mode=transaction", "pool_mode (see LLMRING_DATABASE_POOLER)"),
    ("schema=public", "schema (see LLMRING_DATABASE_SCHEMA)"),
    ("sslaccept=strict", "sslaccept (see LLMRING_DATABASE_TLS)"),
    ("sslidentity=canary", "sslidentity (see LLMRING_DATABASE_TLS)"),
    ("socket_timeout=5", "socket_timeout"),
    ("supa=base-pooler.x", "supa"),
    ("workaround=supabase-pooler.vercel", "workaround"),
    # SQLAlchemy.
    ("pool_size=5", "pool_size (see LLMRING_DATABASE_POOL_SIZE)"),
    ("max_overflow=5", "max_overflow (see LLMRING_DATABASE_POOL_SIZE)"),
    ("pool_pre_ping=true", "pool_pre_ping"),
    ("command_timeout=60", "command_timeout"),
    # Django, with dj-database-url.
    ("conn_max_age=600", "conn_max_age"),
    ("conn_health_checks=true", "conn_health_checks"),
    ("disable_server_side_cursors=true", "disable_server_side_cursors"),
    # Rails, JDBC, Go, JavaScript.
    ("pool=5", "pool (see LLMRING_DATABASE_POOL_SIZE)"),
    ("currentSchema=shop", "currentSchema (see LLMRING_DATABASE_SCHEMA)"),
    ("search_path=shop", "search_path (see LLMRING_DATABASE_SCHEMA)"),
    ("statement_timeout=5000", "statement_timeout (see LLMRING_STATEMENT_TIMEOUT)"),
    ("socketTimeout=30", "socketTimeout"),
    ("reWriteBatchedInserts=true", "reWriteBatchedInserts"),
    ("pool_max_conns=10", "pool_max_conns (see LLMRING_DATABASE_POOL_SIZE)"),
    ("default_query_exec_mode=exec", "default_query_exec_mode"),
    ("uselibpqcompat=true", "uselibpqcompat"),
]

# Parameters that are refused, and what the error says.
REFUSED = [
    ("sslmod=require", "the parameter sslmod is unknown: did you mean sslmode?"),
    ("conect_timeout=5", "the parameter conect_timeout is unknown: did you mean connect_timeout?"),
    ("frobnicate=1", "the parameter frobnicate is unknown: remove it"),
    ("sslmode=canary", "sslmode: write disable, allow, prefer, require, verify-ca, verify-full"),
    ("ssl=canary", "sslmode: write disable"),
    ("target_session_attrs=canary", "target_session_attrs: write any, read-write"),
    ("sslnegotiation=canary", "sslnegotiation: write postgres, direct"),
    ("ssl_min_protocol_version=canary", "ssl_min_protocol_version: write TLSv1"),
    ("gsslib=canary", "gsslib: write gssapi, sspi"),
    ("connect_timeout=canary", "connect_timeout: write a whole number"),
    ("keepalives_idle=canary", "keepalives_idle: write a whole number"),
    ("gssencmode=require", "gssencmode=require is not supported"),
    ("sslrootcert=system&sslmode=require", "sslrootcert=system needs sslmode=verify-full"),
]

# How providers and programs write a URL: what it means.
FORMS = [
    # Neon.
    (
        ("postgresql://ada:canary@ep-cool.eu-central-1.aws.neon.tech/shop?sslmode=require"
        "&channel_binding=require"),
        ("ep-cool.eu-central-1.aws.neon.tech", "ada", "shop"),
    ),
    # Supabase, behind its pooler.
    (
        ("postgres://postgres.ref:canary@aws-0-eu.pooler.supabase.com:6543/postgres"
        "?pgbouncer=true&connection_limit=1"),
        ("aws-0-eu.pooler.supabase.com", "postgres.ref", "postgres"),
    ),
    # Heroku, Render.
    ("postgres://ada:canary@ec2-1.compute.amazonaws.com:5432/d1?ssl=true",
     ("ec2-1.compute.amazonaws.com", "ada", "d1")),
    ("postgresql://ada:canary@dpg-1-a.frankfurt-postgres.render.com/shop",
     ("dpg-1-a.frankfurt-postgres.render.com", "ada", "shop")),
    # Amazon RDS.
    (("postgresql://ada:canary@db.rds.amazonaws.com:5432/shop?sslmode=verify-full"
     "&sslrootcert=/certs/global-bundle.pem"), ("db.rds.amazonaws.com", "ada", "shop")),
    # Azure: the user contains the server, with an @ that people leave as it is.
    ("postgres://ada%40server:canary@server.postgres.database.azure.com/shop?sslmode=require",
     ("server.postgres.database.azure.com", "ada@server", "shop")),
    ("postgres://ada@server:canary@server.postgres.database.azure.com/shop",
     ("server.postgres.database.azure.com", "ada@server", "shop")),
    # Google Cloud SQL.
    ("postgresql://ada:canary@/shop?host=/cloudsql/project:region:instance", ("", "ada", "shop")),
    # Prisma, SQLAlchemy, Django, JDBC.
    ("postgresql://ada:canary@db:5432/shop?schema=public", ("db", "ada", "shop")),
    ("postgresql+asyncpg://ada:canary@db/shop", ("db", "ada", "shop")),
    ("postgresql+psycopg2://ada:canary@db/shop", ("db", "ada", "shop")),
    ("postgres+psycopg://ada:canary@db/shop", ("db", "ada", "shop")),
    ("pgsql://ada:canary@db/shop", ("db", "ada", "shop")),
    ("psql://ada:canary@db/shop", ("db", "ada", "shop")),
    ("postgis://ada:canary@db/shop", ("db", "ada", "shop")),
    ("jdbc:postgresql://db:5432/shop?user=ada&password=canary", ("db", "ada", "shop")),
    # Several hosts, addresses, a line feed of a file, a database in the query.
    ("postgresql://ada@h1:5432,h2:5433/shop", ("h1,h2", "ada", "shop")),
    ("postgresql://ada@[::1]:5432/shop", ("::1", "ada", "shop")),
    ("postgresql://ada@db/shop\n", ("db", "ada", "shop")),
    ("postgresql://ada@?host=db&dbname=shop", ("db", "ada", "shop")),
    ("postgresql://db", ("db", None, None)),
]  # fmt: skip

HIDDEN = [
    "canary@h?x/y",
    "u:12?canary@h/x",
    "u:12?canary=d@h/x",
    "u:12/canary@h/x",
    "u:1@2/canary@h/x",
    "h/x#canary",
]


@pytest.fixture
def ours(server_url: str, template: str) -> str:
    """The URL of a migrated database, ending with a parameter."""
    return admin.with_database_name(server_url, template)


async def ask(settings: Settings | str, query: str) -> object:
    if isinstance(settings, str):
        settings = Settings(database_url=settings)
    settings = settings.model_copy(
        update={"database_pool_size": 1, "database_pool_overflow": 0, "migrate_on_start": False}
    )
    async with Ring.open(settings) as ring:
        return await ring.db.fetch_value(query)


def ignored(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and "are ignored" in record.getMessage()
    ]


@pytest.mark.parametrize("parameter", HONOURED)
async def test_a_parameter_that_is_honoured_connects_without_a_warning(
    ours: str, parameter: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await ask(f"{ours}&{parameter}", "SELECT 42") == 42
    assert not ignored(caplog)


@pytest.mark.parametrize(("parameter", "named"), IGNORED)
async def test_a_parameter_without_an_effect_is_named_in_one_line_of_the_log(
    ours: str, parameter: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert await ask(f"{ours}&{parameter}", "SELECT 42") == 42
    assert ignored(caplog) == [f"Parameters of the database URL are ignored: {named}."]
    assert "canary" not in caplog.text


async def test_all_ignored_parameters_are_named_in_one_line(
    ours: str, caplog: pytest.LogCaptureFixture
) -> None:
    await ask(f"{ours}&" + "&".join(parameter for parameter, _ in IGNORED), "SELECT 42")
    [line] = ignored(caplog)
    assert all(named in line for _, named in IGNORED)


@pytest.mark.parametrize(("parameter", "error"), REFUSED)
def test_a_parameter_that_is_refused_is_named_without_its_value(parameter: str, error: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Settings(database_url=f"postgresql://ada@db/shop?{parameter}")
    assert error in str(raised.value)
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize(("url", "parts"), FORMS)
def test_the_url_of_a_provider_or_program_is_understood(
    url: str, parts: tuple[str, str | None, str | None]
) -> None:
    parsed = parse(Settings(database_url=url).dsn() or "")
    assert (parsed.host, parsed.user, parsed.database) == parts
    assert parsed.has_password == ("canary" in url)
    assert "canary" not in repr(parsed)
    assert "canary" not in admin.display_location(url)
    # What psql is given is understood here, too, and means the same.
    again = parse(parsed.libpq_url())
    assert (again.host, again.user, again.database) == parts


@pytest.mark.parametrize("rest", HIDDEN)
def test_what_may_be_a_part_of_a_password_is_not_quoted(rest: str) -> None:
    with pytest.raises(ValidationError, match="percent-encoded") as raised:
        Settings(database_url=f"postgresql://{rest}")
    assert "canary" not in str(raised.value)


@pytest.mark.direct("a pooler in transaction mode refuses parameters of sessions")
@pytest.mark.parametrize(
    ("parameter", "setting", "value"),
    [
        ("application_name=shop", "application_name", "shop"),
        ("fallback_application_name=shop", "application_name", "shop"),
        ("connect_timeout=5", "application_name", "llmring-server"),
        ("options=-c%20work_mem%3D8MB", "work_mem", "8MB"),
        ("work_mem=8MB", "work_mem", "8MB"),
        ("statement_timeout=5000", "statement_timeout", "10s"),
        # A pooler in transaction mode rejects parameters of a session.
        ("pgbouncer=true", "statement_timeout", "0"),
        ("prepareThreshold=0", "statement_timeout", "0"),
        ("pgbouncer=false", "statement_timeout", "10s"),
    ],
)
async def test_parameters_of_a_session_arrive(
    ours: str, parameter: str, setting: str, value: str
) -> None:
    assert await ask(f"{ours}&{parameter}", f"SHOW {setting}") == value


@pytest.mark.direct("a pooler in transaction mode refuses parameters of sessions")
@pytest.mark.parametrize(
    ("parameter", "is_cached"),
    [("pgbouncer=true", False), ("statement_cache_size=0", False), ("pgbouncer=false", True)],
)
async def test_behind_a_pooler_no_statement_is_kept_prepared(
    ours: str, parameter: str, *, is_cached: bool
) -> None:
    query = "SELECT count(*) FROM pg_prepared_statements WHERE name <> ''"
    assert bool(await ask(f"{ours}&{parameter}", query)) == is_cached


async def test_a_password_file_is_read(ours: str, tmp_path: Path) -> None:
    (passfile := tmp_path / "pgpass").write_text("*:*:*:*:secret\n")
    passfile.chmod(0o600)
    assert await ask(f"{ours}&passfile={quote(str(passfile))}", "SELECT 42") == 42


async def test_a_service_is_read(ours: str, tmp_path: Path) -> None:
    parsed = parse(ours)
    (services := tmp_path / "services").write_text(
        f"[shop]\nhost={parsed.parameters.used['host']}\nport=5432\n"
        f"user={parsed.user}\ndbname={parsed.database}\n"
    )
    url = f"postgresql:///?service=shop&servicefile={quote(str(services))}"
    assert await ask(url, "SELECT current_database()") == parsed.database


class Relay(NamedTuple):
    """A relay that accepts TCP, with TLS or without, and connects to the test server's socket.

    The embedded PostgreSQL is built without TLS.
    """

    server: asyncio.Server
    authority: Path
    database: str
    # Whether each connection used TLS.
    connections: list[bool]

    def url(self, parameters: str = "", host: str = "localhost") -> str:
        port = self.server.sockets[0].getsockname()[1]
        return f"postgresql://llmring@{host}:{port}/{self.database}?{parameters}"


SSL_REQUEST = struct.pack("!ii", 8, 80877103)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def write_certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "server.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "server.crt"


@pytest.fixture(scope="module")
async def tls(
    server_url: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Relay]:
    folder = tmp_path_factory.mktemp("tls")
    authority = write_certificate(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority, folder / "server.key")
    connections: list[bool] = []
    folder_of_socket = parse(server_url).parameters.used["host"]

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            start = await reader.readexactly(8)
            is_tls = start == SSL_REQUEST
            if is_tls:
                writer.write(b"S")
                await writer.start_tls(context)
                start = await reader.readexactly(8)
            connections.append(is_tls)
            theirs, to_them = await asyncio.open_unix_connection(
                f"{folder_of_socket}/.s.PGSQL.5432"
            )
            to_them.write(start)
            await asyncio.gather(pump(reader, to_them), pump(theirs, writer))

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        yield Relay(server, authority, template, connections)


async def uses_tls(relay: Relay, settings: Settings | str) -> bool:
    assert await ask(settings, "SELECT 42") == 42
    return relay.connections[-1]


@pytest.mark.parametrize(
    ("parameters", "is_tls"),
    [
        ("", True),
        ("sslmode=disable", False),
        ("ssl=false", False),
        ("ssl=true", True),
        ("ssl", True),
        ("ssl=require", True),
        ("sslmode=require&channel_binding=require", True),
        ("sslmode=no-verify", True),
        ("requiressl=1", True),
        ("sslmode=require&ssl_min_protocol_version=TLSv1.3", True),
    ],
)
async def test_tls_is_used_as_the_url_says(tls: Relay, parameters: str, *, is_tls: bool) -> None:
    assert await uses_tls(tls, tls.url(parameters)) is is_tls


async def test_a_certificate_is_verified_as_the_url_says(
    tls: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = f"sslmode=verify-full&sslrootcert={tls.authority}"
    assert await uses_tls(tls, tls.url(verified))
    with pytest.raises(Unavailable, match="certificate verify failed"):
        await ask(tls.url(verified, "127.0.0.1"), "SELECT 42")
    with pytest.raises(Unavailable, match="certificate verify failed"):
        await ask(tls.url("sslrootcert=system"), "SELECT 42")
    # OpenSSL takes the system's authorities from here.
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.authority))
    for parameters in ("sslrootcert=system", "sslmode=verify-full&sslrootcert=system"):
        assert await uses_tls(tls, tls.url(parameters))
    with pytest.raises(Unavailable, match="certificate verify failed"):
        await ask(tls.url("sslrootcert=system", "127.0.0.1"), "SELECT 42")
    as_settings = Settings(
        database_url=tls.url(), database_tls="verify-full", database_tls_ca=Path("system")
    )
    assert await uses_tls(tls, as_settings)


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslkey", "sslcrl"])
async def test_a_file_that_cannot_be_read_is_named_by_its_parameter(tls: Relay, name: str) -> None:
    with pytest.raises(Unavailable, match=f"the file that {name} names cannot be read: No such"):
        await ask(tls.url(f"sslmode=require&{name}=/nowhere/canary"), "SELECT 42")


async def socket_options(url: str) -> list[int]:
    settings = Settings(database_url=url, migrate_on_start=False)
    async with Ring.open(settings) as ring, ring.db.acquire() as connection:
        stream = cast("Any", connection)._transport.get_extra_info("socket")
        return [
            stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
            stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
            stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        ]


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="of Linux")
@pytest.mark.parametrize("mode", ["disable", "require"])
async def test_connections_are_kept_alive_as_the_url_says(tls: Relay, mode: str) -> None:
    keep = "keepalives=1&keepalives_idle=31&keepalives_interval=7&keepalives_count=3"
    url = tls.url(f"sslmode={mode}&{keep}&tcp_user_timeout=12345")
    assert await socket_options(url) == [1, 31, 7, 3, 12345]
    assert (await socket_options(tls.url(f"sslmode={mode}&keepalives=0")))[0] == 0
