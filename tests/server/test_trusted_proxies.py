"""The client's address behind proxies: X-Forwarded-For, if a trusted proxy sends it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import LIBRARY, Ring, Server, Settings
from llmring_server.access.keys import KeyOptions
from llmring_server.errors import InvalidSettings
from tests.support.served import serve

# Tests connect from 127.0.0.1.
TRUSTED = "127.0.0.1, 10.0.0.0/8, 2001:db8:1::/48"

# X-Forwarded-For, line by line, and the network of the client that it means.
FORWARDED = {
    "one client": (["192.0.2.7"], "192.0.2.0/24"),
    "a client that pretends to be forwarded": (["198.51.100.1, 192.0.2.7"], "192.0.2.0/24"),
    "behind two proxies": (["192.0.2.7, 10.1.2.3"], "192.0.2.0/24"),
    "behind two proxies, pretending": (["198.51.100.1, 192.0.2.7, 10.1.2.3"], "192.0.2.0/24"),
    "in two headers": (["198.51.100.1", "192.0.2.7, 10.1.2.3"], "192.0.2.0/24"),
    "in two headers, the proxies apart": (["192.0.2.7", "10.1.2.3"], "192.0.2.0/24"),
    "with a port": (["192.0.2.7:4711"], "192.0.2.0/24"),
    "of IPv4, written as IPv6": (["::ffff:192.0.2.7"], "192.0.2.0/24"),
    "of IPv6": (["2001:db8:2::1, 2001:db8:1::1"], "2001:db8:2::/48"),
    "of IPv6 with a port": (["[2001:db8:2::1]:4711"], "2001:db8:2::/48"),
    "no address": (["198.51.100.1, nobody"], "unknown"),
    "empty": ([""], "127.0.0.0/24"),
    "absent": ([], "127.0.0.0/24"),
}


def client_of(server: Server, key: str, lines: list[str]) -> httpx.AsyncClient:
    headers = [("X-API-Key", key), *[("X-Forwarded-For", line) for line in lines]]
    return httpx.AsyncClient(base_url=server.url, headers=headers)


async def audited_address(ring: Ring, lines: list[str]) -> str | None:
    """Issue a key over HTTP with these headers; return the address in the audit log."""
    admin = await ring.keys.issue(
        f"project {uuid4()}", KeyOptions(scopes=["admin", "read"]), actor=LIBRARY
    )
    async with Server(ring, port=0) as server, client_of(server, admin.secret, lines) as client:
        response = await client.post("/api/v1/keys", json={"scopes": ["read"]})
        assert response.status_code == 200
    newest, *_ = await ring.audit.events(datetime.now(UTC) - timedelta(hours=1), admin.project_id)
    return newest.remote


@pytest.mark.parametrize("name", FORWARDED)
async def test_a_trusted_proxy_names_the_client(db: AsyncDatabaseManager, name: str) -> None:
    lines, expected = FORWARDED[name]
    ring = Ring(db, Settings.from_env({"LLMRING_TRUSTED_PROXIES": TRUSTED}))
    assert await audited_address(ring, lines) == expected


@pytest.mark.parametrize("trusted", ["", "192.0.2.7, 10.0.0.0/8", "127.0.0.2"])
@pytest.mark.parametrize("name", FORWARDED)
async def test_the_header_of_anyone_else_is_ignored(
    db: AsyncDatabaseManager, monkeypatch: pytest.MonkeyPatch, name: str, trusted: str
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # uvicorn's own setting is ignored
    ring = Ring(db, Settings.from_env({"LLMRING_TRUSTED_PROXIES": trusted}))
    assert await audited_address(ring, FORWARDED[name][0]) == "127.0.0.0/24"


async def statuses_of_failures(url: httpx.URL, *forwarded: str) -> list[int]:
    async with httpx.AsyncClient(base_url=url) as client:
        return [
            (
                await client.get(
                    "/api/v1/logs", headers={"X-API-Key": uuid4().hex, "X-Forwarded-For": each}
                )
            ).status_code
            for each in forwarded
        ]


FAILURES = ("192.0.2.1", "192.0.2.1", "198.51.100.1", "192.0.2.9, 198.51.100.1")


@pytest.mark.parametrize(
    ("trusted", "expected"), [(TRUSTED, [401, 429, 401, 429]), ("", [401, 429, 429, 429])]
)
async def test_failed_logins_are_counted_for_the_client(
    db: AsyncDatabaseManager, trusted: str, expected: list[int]
) -> None:
    environ = {"LLMRING_TRUSTED_PROXIES": trusted, "LLMRING_FAILED_AUTH_LIMIT": "1"}
    async with Server(Ring(db, Settings.from_env(environ)), port=0) as server:
        assert await statuses_of_failures(httpx.URL(server.url), *FAILURES) == expected


@pytest.mark.parametrize(
    ("trusted", "expected"), [(TRUSTED, [401, 429, 401, 429]), ("", [401, 429, 429, 429])]
)
async def test_serve_counts_failed_logins_for_the_client(
    db: AsyncDatabaseManager, url: str, tmp_path: Path, trusted: str, expected: list[int]
) -> None:
    server_settings = {"trusted_proxies": trusted, "failed_auth_limit": "1"}
    server_settings |= {"database_url": url, "database_schema": db.schema or ""}
    async with serve(server_settings, tmp_path / "output") as served:
        base = httpx.URL(f"http://127.0.0.1:{served.port}")
        assert await statuses_of_failures(base, *FAILURES) == expected


@pytest.mark.parametrize(
    "value", ["*", "0.0.0.0/0", "::/0", "10.0.0.1/8", "proxy.example", "10.0.0", "unix:/run/x"]
)
def test_only_addresses_and_networks_are_trusted(value: str) -> None:
    with pytest.raises(InvalidSettings, match="write addresses or networks"):
        Settings.from_env({"LLMRING_TRUSTED_PROXIES": value})
