"""What a key cannot do: give more than it has, last longer, or finish what it may no longer do."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import orjson
import pytest

from llmring_server import Ring
from llmring_server.caller import LIBRARY
from llmring_server.keys import Issued, Wanted
from tests.conftest import CALL
from tests.test_keys import admin, of

__all__ = ["admin"]


async def test_rotate_key_gives_no_more_than_its_caller_has_nor_for_longer(
    guarded: httpx.AsyncClient, ring: Ring, admin: Issued
) -> None:
    weak = await ring.keys.issue_for(admin.tenant, Wanted(scopes=["admin"]), actor=LIBRARY)
    path = f"/api/v1/keys/{admin.id}/rotate"
    assert (await guarded.post(path, json={}, headers=of(weak))).status_code == 403
    soon = datetime.now(UTC) + timedelta(hours=1)
    brief = await ring.keys.issue_for(admin.tenant, Wanted(expires_at=soon), actor=LIBRARY)
    new = await ring.keys.get((await ring.keys.rotate(brief.id, timedelta(0), actor=LIBRARY)).id)
    assert new.expires_at
    assert abs(new.expires_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)


async def test_who_is_shut_out_while_their_body_comes_is_refused(
    guarded: httpx.AsyncClient, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.web.endpoint.BELIEVED", 0)
    issued = await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)

    async def body() -> AsyncIterator[bytes]:
        yield orjson.dumps(CALL)[:20]
        await ring.keys.revoke(issued.id, actor=LIBRARY)
        guarded._transport.app.state.ring.keys._known.clear()  # type: ignore[attr-defined]
        yield orjson.dumps(CALL)[20:]

    headers = of(issued) | {"Content-Type": "application/json"}
    answer = await guarded.post("/api/v1/log", content=body(), headers=headers)
    assert (answer.status_code, await ring.usage.logs(issued.tenant)) == (401, [])
