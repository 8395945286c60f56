"""TLS: a host's pool, or the server's own, verifies the certificate of PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path

import pgdbm
import pytest
from pgdbm import AsyncDatabaseManager, DatabaseConfig

from llmring_server import Ring, Settings, migrate
from llmring_server.core.identity import ProjectId
from llmring_server.errors import Unavailable
from llmring_server.usage.models import NewCall
from tests.conftest import CALL
from tests.support.tls import USER_WITH_CERTIFICATE, TlsServer, certificate, tls_server

ENTRY = NewCall(**CALL, cost=Decimal(1))
HAS_TLS = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


def config(url: str, **options: str | Path) -> DatabaseConfig:
    files = {name: str(value) for name, value in options.items()}
    return DatabaseConfig.model_validate(
        {
            "connection_string": url,
            "min_connections": 1,
            "retry_attempts": 1,
            "ssl_enabled": True,
            "ssl_mode": "verify-full",
        }
        | files
    )


@pytest.fixture
async def plain_server() -> AsyncIterator[str]:
    """The address of a server that says, as PostgreSQL does, that it has no TLS."""

    async def decline(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"N")
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(decline, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_verify_full_refuses_a_server_without_tls(plain_server: str, tmp_path: Path) -> None:
    authority = certificate(tmp_path, "authority").path
    url = f"postgresql://ada@{plain_server}/x?sslrootcert={authority}"
    with pytest.raises(pgdbm.ConnectionError, match="rejected SSL"):
        await AsyncDatabaseManager.create_shared_pool(config(url))
    with pytest.raises(Unavailable, match="rejected SSL"):
        async with Ring.open(Settings(database_url=url, database_tls="verify-full")):
            pass


@pytest.fixture(scope="module")
def tls() -> Iterator[TlsServer]:
    with tls_server() as server:
        yield server


@pytest.mark.full
async def test_a_host_verifies_the_certificate(tls: TlsServer, project_id: ProjectId) -> None:
    pool = await AsyncDatabaseManager.create_shared_pool(
        config(tls.url(), ssl_ca_file=tls.authority.path)
    )
    db = AsyncDatabaseManager(pool=pool, schema="llmring")
    await migrate(db)
    ring = Ring(db)
    await ring.usage.log(project_id, ENTRY)
    assert (await ring.usage.stats(project_id)).summary.total_requests == 1
    assert await db.fetch_value(HAS_TLS)
    await ring.aclose()
    await pool.close()


@pytest.mark.full
async def test_a_host_identifies_itself_with_a_certificate(tls: TlsServer) -> None:
    own = certificate(tls.folder, USER_WITH_CERTIFICATE, tls.authority)
    ca = tls.authority.path
    pool = await AsyncDatabaseManager.create_shared_pool(config(tls.url(), ssl_ca_file=ca))
    await pool.execute(f"CREATE ROLE {USER_WITH_CERTIFICATE} LOGIN SUPERUSER")
    await pool.close()
    url = tls.url(USER_WITH_CERTIFICATE)
    with pytest.raises(pgdbm.ConnectionError, match="certificate"):
        await AsyncDatabaseManager.create_shared_pool(config(url, ssl_ca_file=ca))
    pool = await AsyncDatabaseManager.create_shared_pool(
        config(url, ssl_ca_file=ca, ssl_cert_file=own.path, ssl_key_file=own.key_path)
    )
    assert await pool.fetchval("SELECT current_user") == USER_WITH_CERTIFICATE
    await pool.close()
    files = {"sslrootcert": str(ca), "sslcert": str(own.path), "sslkey": str(own.key_path)}
    url = tls.url(USER_WITH_CERTIFICATE, sslmode="verify-full", **files)
    async with Ring.open(Settings(database_url=url, database_schema="by_certificate")) as ring:
        await ring.ready()


@pytest.mark.full
async def test_the_server_verifies_the_certificate_with_its_own_pool(tls: TlsServer) -> None:
    for settings in (
        Settings(database_url=tls.url(sslmode="verify-full", sslrootcert=tls.authority.path)),
        Settings(database_url=tls.url(sslrootcert=tls.authority.path), database_tls="verify-full"),
    ):
        async with Ring.open(settings) as ring:
            await ring.ready()
            assert await ring.db.fetch_value(HAS_TLS)


@pytest.mark.full
async def test_another_authority_or_another_host_is_refused(tls: TlsServer) -> None:
    other = certificate(tls.folder, "other")
    cases = {
        tls.url(sslmode="verify-full", sslrootcert=other.path): "certificate verify failed",
        tls.url(
            host="127.0.0.1", sslmode="verify-full", sslrootcert=tls.authority.path
        ): "127.0.0.1",
        tls.url(sslmode="disable"): "no encryption",
    }
    for url, problem in cases.items():
        with pytest.raises(Unavailable, match=problem):
            async with Ring.open(url):
                pass
    for url, authority in ((tls.url(), other), (tls.url(host="127.0.0.1"), tls.authority)):
        with pytest.raises(pgdbm.ConnectionError, match="certificate verify failed"):
            await AsyncDatabaseManager.create_shared_pool(config(url, ssl_ca_file=authority.path))
    # verify-ca does not compare the name of the host.
    url = tls.url(host="127.0.0.1", sslmode="verify-ca", sslrootcert=tls.authority.path)
    async with Ring.open(url) as ring:
        await ring.ready()
