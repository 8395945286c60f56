"""Reloading: settings that change while a server runs, and those that need a restart."""

import logging
import re
from pathlib import Path

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Server, Settings
from llmring_server.core.identity import Actor, ProjectId
from llmring_server.errors import InvalidSettings, QuotaExceeded
from llmring_server.settings import RELOADABLE

ORIGIN = "https://a.example"
PREFLIGHT = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}


async def test_a_reload_changes_what_a_running_server_does(
    db: AsyncDatabaseManager, settings: Settings, key: str
) -> None:
    ring = Ring(db, settings)
    content = {"messages": [{"role": "user", "content": "secret"}], "response": {"content": "x"}}
    content |= {"metadata": {"provider": "openai", "model": "gpt-4o-mini"}}
    async with (
        Server(ring, port=0) as server,
        Server(ring, port=0) as other,
        httpx.AsyncClient(headers={"X-API-Key": key}, timeout=60) as client,
    ):

        async def allowed_origins() -> list[str | None]:
            answers = [
                await client.options(f"{each.url}/api/v1/stats", headers=PREFLIGHT)
                for each in (server, other)
            ]
            return [answer.headers.get("access-control-allow-origin") for answer in answers]

        assert await allowed_origins() == [None, None]
        new = settings.model_copy(
            update={
                "cors_origins": (ORIGIN,),
                "conversation_content": "none",
                "strict_fields": True,
                "max_aliases": 1,
                "rate_limit": 0.001,
                "rate_burst": 4,
                "max_messages_bytes": 1024**2,
            }
        )
        assert set(server.reload(new).changed) == {
            "cors_origins", "conversation_content", "strict_fields", "max_aliases", "rate_limit",
            "rate_burst", "max_messages_bytes",
        }  # fmt: skip
        assert await allowed_origins() == [ORIGIN, ORIGIN]
        path = f"{server.url}/api/v1/conversations/log"
        assert (await client.post(path, json=content)).json()["content_kept"] is False
        large = content | {"filler": "x" * 1024**2}
        assert (await client.post(path, json=large)).status_code == 413
        aliases = f"{server.url}/api/v1/aliases/bind"
        bound = [
            await client.post(aliases, json={"alias": alias, "model": "openai:x"})
            for alias in ("a", "b")
        ]
        assert [answer.status_code for answer in bound] == [200, 409]
        assert (await client.get(f"{server.url}/api/v1/stats")).status_code == 429
        server.reload(settings)
        assert await allowed_origins() == [None, None]
        assert (await client.get(f"{server.url}/api/v1/stats")).status_code == 200
    await ring.aclose()


async def test_a_reload_keeps_what_has_been_counted(
    db: AsyncDatabaseManager, settings: Settings, key: str
) -> None:
    limited = settings.model_copy(update={"rate_limit": 0.001, "rate_burst": 1})
    ring = Ring(db, limited)
    async with (
        Server(ring, port=0) as server,
        httpx.AsyncClient(base_url=server.url, headers={"X-API-Key": key}) as client,
    ):
        assert (await client.get("/api/v1/stats")).status_code == 200
        server.reload(limited.model_copy(update={"max_keys": 5}))
        assert (await client.get("/api/v1/stats")).status_code == 429
    await ring.aclose()


def test_settings_that_need_a_restart_stay_and_are_named(
    ring: Ring, caplog: pytest.LogCaptureFixture
) -> None:
    current = ring.settings
    new = Settings(database_url="postgresql://u:canary@h/x", auth="open", max_keys=7)
    with caplog.at_level(logging.INFO, "llmring_server"):
        reloaded = ring.reload(new)
    assert reloaded.changed == ("max_keys",)
    assert reloaded.needs_restart == ("database_url", "auth")
    assert ring.settings == current.model_copy(update={"max_keys": 7})
    assert caplog.messages == [
        "Settings changed: max_keys.",
        "These settings differ and take effect at a restart: database_url, auth.",
    ]


def test_settings_that_do_not_go_with_those_that_stay_change_nothing(
    db: AsyncDatabaseManager,
) -> None:
    secret = "0123456789abcdef" * 2
    ring = Ring(db, Settings(auth="proxy", proxy_secrets=(secret,)))
    current = ring.settings
    with pytest.raises(InvalidSettings, match="needs LLMRING_PROXY_SECRETS") as raised:
        ring.reload(Settings(max_keys=7))
    assert "restart" in str(raised.value)
    assert ring.settings is current


async def test_quotas_of_a_ring_change(ring: Ring, project_id: ProjectId) -> None:
    actor = Actor("test")
    await ring.keys.issue(str(project_id), actor=actor)
    ring.reload(Settings(max_keys=1))
    with pytest.raises(QuotaExceeded):
        await ring.keys.issue(str(project_id), actor=actor)


def test_the_documentation_lists_what_can_be_reloaded() -> None:
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    section = text.partition("## Change settings while the server runs")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    listed = {name.lower() for row in rows for name in re.findall(r"`LLMRING_(\w+)`", row)}
    assert listed == RELOADABLE
    assert set(Settings.model_fields) >= RELOADABLE
