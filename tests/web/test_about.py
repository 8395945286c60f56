"""About page: JSON for programs, a page that loads and runs nothing for browsers."""

import re
from base64 import b64encode
from hashlib import sha256
from html import unescape
from importlib.metadata import version
from typing import Any

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Settings, build
from llmring_server.routes import API, META
from llmring_server.web.about import prefers_html

CHROMIUM = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,"
    "*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"
)
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


async def test_a_program_gets_the_version_as_json(client_of_each_kind: httpx.AsyncClient) -> None:
    for accept in ("*/*", "application/json", "application/json, text/html", ""):
        response = await client_of_each_kind.get("/", headers={"X-API-Key": "", "Accept": accept})
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["Vary"] == "Accept"
        root = response.url.path.rstrip("/")
        assert response.json() == {
            "name": "LLMRing Server",
            "version": version("llmring-server"),
            "docs": f"{root}/docs",
            "registry": f"{root}/registry",
        }
        for member in ("docs", "registry"):
            found = await client_of_each_kind.get(response.url.join(response.json()[member]))
            assert found.status_code == 200


async def test_browsers_get_a_page_with_valid_links(client_of_each_kind: httpx.AsyncClient) -> None:
    response = await client_of_each_kind.get("/", headers={"X-API-Key": "", "Accept": CHROMIUM})
    assert (response.status_code, response.headers["Vary"]) == (200, "Accept")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert f"LLMRing Server <small>{version('llmring-server')}</small>" in response.text
    links = re.findall(r'<a href="([^"]+)"', response.text)
    assert {"docs", "openapi.json", "health"} < {*links}
    for link in links:
        assert (await client_of_each_kind.get(response.url.join(link))).status_code == 200


@pytest.mark.parametrize("path", ["docs", "redoc"])
async def test_the_api_page_lists_every_endpoint(
    client_of_each_kind: httpx.AsyncClient, path: str
) -> None:
    response = await client_of_each_kind.get(path, headers={"X-API-Key": ""})
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    root = response.url.path.removesuffix(f"/{path}")
    for route in API + META:
        assert f"<code>{route.method} {root}{route.path_format}</code>" in response.text
    assert "script" not in response.headers["Content-Security-Policy"]
    assert "<script" not in response.text


@pytest.mark.parametrize(
    ("host", "path", "auth", "key"),
    [
        ("127.0.0.1:8000", "", "open", "my-app"),
        ("localhost", "", "keys", "llmr_k1_..."),
        ("[::1]:8000", "/llmring", "open", "my-app"),
    ],
)
async def test_on_its_own_machine_a_browser_is_shown_a_first_call(
    db: AsyncDatabaseManager, host: str, path: str, auth: Any, key: str
) -> None:
    transport = httpx.ASGITransport(build(db, Settings(auth=auth)), root_path=path)
    headers = {"Accept": CHROMIUM, "Host": host}
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        page = (await client.get(f"{path}/", headers=headers)).text
    [command] = re.findall("<pre>(.*?)</pre>", page, re.DOTALL)
    assert unescape(command).startswith(
        f"curl http://{host}{path}/api/v1/log -H 'X-API-Key: {key}'"
    )


@pytest.mark.parametrize("host", ["example.org", "localhost.example.org", "127.0.0.1:8000<b>", ""])
async def test_elsewhere_a_browser_is_shown_no_address(
    client: httpx.AsyncClient, host: str
) -> None:
    page = (await client.get("/", headers={"Accept": CHROMIUM, "Host": host})).text
    assert "curl" not in page
    assert "<b>" not in page


async def test_the_page_may_use_its_own_style_and_nothing_else(client: httpx.AsyncClient) -> None:
    response = await client.get("/", headers={"Accept": FIREFOX})
    [style] = re.findall(r"<style>(.*?)</style>", response.text, re.DOTALL)
    digest = b64encode(sha256(style.encode()).digest()).decode()
    assert response.headers["Content-Security-Policy"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    for forbidden in ("<script", "style=", "onclick", "http:", "https:", "//", "url("):
        assert forbidden not in response.text


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (CHROMIUM, True),
        (FIREFOX, True),
        ("text/html", True),
        ("TEXT/HTML", True),
        ("text/*", True),
        ("text/html;level=1;q=0.9, application/json;q=0.8", True),
        ("application/json;q=0.9, text/html;q=0.8", False),
        ("text/html;q=0", False),
        ("text/html;q=high", False),
        ("*/*", False),
        ("", False),
        (";,;q=", False),
        ("\xff", False),
    ],
)
def test_html_is_for_clients_that_rank_it_above_json(accept: str, *, expected: bool) -> None:
    assert prefers_html(accept.encode("latin-1")) is expected
