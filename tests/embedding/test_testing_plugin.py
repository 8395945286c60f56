"""`llmring_server.testing`: a project of somebody else tests its application with our fixtures."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import httpx2
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Settings, create_app
from llmring_server.db.admin import throwaway_databases
from llmring_server.db.postgres_supervisor import DataDirectory
from tests.project.test_documentation import blocks
from tests.support.postgres import wait_until_stopped

PYTEST_INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""

CONFTEST = '''
import pytest_asyncio
from llmring_server import Settings, build, migrate

pytest_plugins = ["llmring_server.testing", "pgdbm.fixtures.conftest"]


@pytest_asyncio.fixture
async def old_app(test_db_factory):
    """As applications of llmring-server 0.1 make one: pgdbm creates the database."""
    db = await test_db_factory.create_db(suffix="llmring", schema="llmring_test")
    await migrate(db)
    app = build(db, Settings(auth="open"))
    yield app
    await app.state.ring.aclose()
'''

TESTS = """
import pytest

from llmring_server import project_of_key
from llmring_server.testing import API_KEY, MODES, SCHEMA

CALL = {"provider": "openai", "model": "gpt-4o-mini", "input_tokens": 1200, "output_tokens": 300}


@pytest.mark.parametrize("llmring_mode", MODES)
async def test_each_test_has_a_database_of_its_own(llmring_client, llmring_mode):
    response = await llmring_client.post("/api/v1/log", json=CALL)
    assert response.status_code == 200, response.text
    assert len((await llmring_client.get("/api/v1/logs")).json()) == 1
    path = "/llmring/" if llmring_mode == "mounted" else "/"
    assert llmring_client.base_url.path == path


async def test_the_app_and_the_client_share_a_ring(llmring_app, llmring_client):
    await llmring_client.post("/api/v1/log", json=CALL)
    [call] = await llmring_app.state.ring.usage.logs(project_of_key(API_KEY))
    assert call.model == "gpt-4o-mini"
    assert (llmring_app.state.mode, llmring_app.state.schema) == ("library", SCHEMA)


class TestWithOtherSettings:
    @pytest.fixture
    def llmring_settings(self, llmring_settings):
        return llmring_settings.model_copy(update={"auth": "keys"})

    async def test_a_key_is_needed(self, llmring_client):
        assert (await llmring_client.get("/api/v1/logs")).status_code == 401
"""

OLD_TESTS = """
import httpx2


async def test_a_database_of_pgdbm(old_app):
    transport = httpx2.ASGITransport(app=old_app)
    headers = {"X-API-Key": "k"}
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://test", headers=headers
    ) as client:
        assert (await client.get("/api/v1/logs")).json() == []
"""

PLUGINS = ("-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin")


def variables(server_url: str) -> dict[str, str]:
    """Return the TEST_DB_* variables that name a server."""
    parts = urlsplit(server_url)
    query = parse_qs(parts.query)
    # pgdbm writes the host into a URL as it is.
    host = parts.hostname or quote(query["host"][0], safe="")
    return {
        "TEST_DB_HOST": host,
        "TEST_DB_PORT": str(parts.port or query["port"][0]),
        "TEST_DB_USER": parts.username or "postgres",
        "TEST_DB_PASSWORD": parts.password or "postgres",
    }


def run_pytest(folder: Path, *options: str, **environ: str) -> str:
    """Run the tests of a project in a process, which must succeed; return its output."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TEST_DB_", "PYTEST_", "LLMRING_", "DATABASE_URL"))
    }
    done = subprocess.run(
        (sys.executable, "-m", "pytest", "-q", *PLUGINS, *options),
        cwd=folder,
        # Plugins that a foreign project need not have take seconds to load.
        env=inherited | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_project(folder: Path, **tests: str) -> None:
    (folder / "pytest.ini").write_text(PYTEST_INI)
    (folder / "conftest.py").write_text(CONFTEST)
    for name, code in tests.items():
        (folder / f"test_{name}.py").write_text(code)


async def test_a_foreign_project_uses_the_fixtures(tmp_path: Path, server_url: str) -> None:
    before = await throwaway_databases(server_url)
    [documented] = [
        block.code
        for block in blocks("python")
        if block[:2] == ("docs/embedding.md", "Test an application that embeds the server")
    ]
    write_project(tmp_path, documented=documented, new=TESTS, old=OLD_TESTS)
    output = run_pytest(tmp_path, **variables(server_url))
    assert "7 passed" in output
    # Other tests run beside this one.
    left = {*await throwaway_databases(server_url)} - {*before}
    assert not [name for name in left if name.startswith("test_") and "llmring" in name]


async def test_a_database_is_injected_into_an_app(db: AsyncDatabaseManager, key: str) -> None:
    app = create_app(settings=Settings(auth="open"))
    app.state.db = db
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app),
        base_url="http://test",
        headers={"X-API-Key": key},
    ) as client:
        response = await client.get("/api/v1/logs")
        assert (response.status_code, response.json()) == (200, [])
    await app.state.ring.aclose()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder for an embedded PostgreSQL, whose user cannot enter pytest's folders."""
    folder = Path(tempfile.mkdtemp(prefix="llmring-"))
    folder.chmod(0o711)
    yield folder
    wait_until_stopped(DataDirectory(folder))
    shutil.rmtree(folder)


@pytest.mark.full
def test_without_variables_the_embedded_postgresql_is_used(tmp_path: Path, data_dir: Path) -> None:
    write_project(tmp_path, new=TESTS)
    with (tmp_path / "conftest.py").open("w") as file:
        file.write(f"""
from pathlib import Path
import pytest

pytest_plugins = ["llmring_server.testing"]


@pytest.fixture(scope="session")
def llmring_data_dir():
    return Path({str(data_dir)!r})
""")
    assert "4 passed" in run_pytest(tmp_path)
    # Workers of pytest-xdist join one server.
    assert "4 passed" in run_pytest(tmp_path, "-p", "xdist", "-n", "2")


def test_without_its_plugin_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pytest_asyncio", None)
    monkeypatch.delitem(sys.modules, "llmring_server.testing", raising=False)
    with pytest.raises(ImportError, match="needs pytest and pytest-asyncio: `pip install pytest"):
        import_module("llmring_server.testing")
