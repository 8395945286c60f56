"""The wheel, installed in a new environment outside of this checkout."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from zipfile import ZipFile

import asyncpg
import httpx
import pytest

import llmring_server
from llmring_server.db import admin
from tests.conftest import CALL

pytestmark = pytest.mark.slow

ROOT = Path(llmring_server.__file__).parents[1]
VECTORS = ROOT / "tests/vectors"
# Without the variables of the checkout or of whoever runs the tests.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("PYTHON", "LLMRING_", "DATABASE_URL"))
} | {"LLMRING_REGISTRY_URL": "none"}
OBJECTS = """
    SELECT relnamespace::regnamespace::text AS place FROM pg_class WHERE oid >= 16384 UNION
    SELECT pronamespace::regnamespace::text FROM pg_proc WHERE oid >= 16384 UNION
    SELECT extname FROM pg_extension WHERE oid >= 16384
"""
# Prints what importing the package imports, and which environment variables it reads.
IMPORT = """
import os, sys
read = []
find = os._Environ.__getitem__
os._Environ.__getitem__ = lambda self, name: read.append(name) or find(self, name)
import asyncpg, orjson, pgdbm, pydantic, uuid_utils
read.clear()
import llmring_server
llmring_server.Ring, llmring_server.Settings, llmring_server.migrate
print(*{name for name in read if not name.startswith("PYDANTIC_")})
print(*{"starlette", "uvicorn", "click"} & set(sys.modules))
llmring_server.app
print(*{"LLMRING_DATABASE_URL"} & set(read))
"""

Run = Callable[..., str]


def python(*arguments: str | Path) -> None:
    subprocess.run((sys.executable, *arguments), env=ENVIRONMENT, check=True, timeout=120)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    python("-m", "build", "--wheel", "--outdir", folder, ROOT)
    [wheel] = folder.iterdir()
    return wheel


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs of a new environment are, with the wheel installed in it."""
    venv = tmp_path_factory.mktemp("venv")
    python("-m", "venv", "--without-pip", venv)
    python("-m", "pip", "--python", venv / "bin/python", "install", "--quiet", wheel)
    return venv / "bin"


@pytest.fixture
async def database(url: str) -> AsyncIterator[str]:
    """A database with nothing in it."""
    await admin.create_database(made := admin.throwaway_url(url), throwaway=True)
    yield made
    await admin.drop_database(made)


@pytest.fixture
def environ(database: str) -> dict[str, str]:
    ours = {"LLMRING_DATABASE_URL": database, "LLMRING_DATABASE_SCHEMA": "ours"}
    return ENVIRONMENT | ours


@pytest.fixture
def run(programs: Path, environ: dict[str, str], tmp_path: Path) -> Run:
    """Run a program of the environment in an empty folder; return what it prints."""

    def run(program: str, *arguments: str) -> str:
        command = (str(programs / program), *arguments)
        done = subprocess.run(
            command, env=environ, cwd=tmp_path, check=True, stdout=subprocess.PIPE, timeout=60
        )
        return done.stdout.decode()

    return run


@asynccontextmanager
async def uvicorn(programs: Path, environ: dict[str, str], folder: Path) -> AsyncIterator[str]:
    """Serve the app by plain uvicorn on a free port; yield the URL."""
    process = await asyncio.create_subprocess_exec(
        *(programs / "uvicorn", "llmring_server:app", "--port", "0", "--no-access-log"),
        env=environ, cwd=folder, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr
    try:
        output = await asyncio.wait_for(process.stderr.readuntil(b"(Press"), 30)
        yield re.findall(r"running on (\S+)", output.decode())[0]
    finally:
        process.terminate()
        await asyncio.wait_for(process.communicate(), 30)


def test_wheel_contains_only_the_packages_and_their_sql(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    for file in (ROOT / "sql").rglob("*.sql"):
        assert f"llmring_server/{file.relative_to(ROOT)}" in names
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {
        "llmring_server",
        "llmring_verify",
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.fixture(scope="module")
def verifier(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The verifier in an environment with the wheel and the verifier's two dependencies only."""
    venv = tmp_path_factory.mktemp("verifier")
    python("-m", "venv", "--without-pip", venv)
    install = ("-m", "pip", "--python", venv / "bin/python", "install", "--quiet")
    python(*install, "--no-deps", wheel)
    python(*install, "cryptography", "rfc8785")
    return venv / "bin/llmring-verify"


def test_verifier_works_without_the_server(verifier: Path) -> None:
    interpreter = verifier.parent / "python"
    for module in ("asyncpg", "httpx", "pydantic", "starlette"):
        assert subprocess.run((interpreter, "-c", f"import {module}"), check=False).returncode == 1
    for code, *arguments in (
        (0, "good/usage.json", "good/answer-batch.json", "good/old.json"),
        (0, "proof", "good/proof-in-the-middle.json"),
        (0, "export", "calls.jsonl", "receipts.jsonl"),
        (1, "export", "calls-later.jsonl", "receipts.jsonl"),
        (1, "bad/altered-amount.json"),
        (2, "bad/key-unknown.json"),
    ):
        command = [str(each) for each in (verifier, *arguments, "--keys", "keys.json")]
        done = subprocess.run(command, check=False, cwd=VECTORS, env=ENVIRONMENT, timeout=60)
        assert done.returncode == code, arguments


def test_importing_the_package_is_free_of_side_effects(run: Run) -> None:
    assert run("python", "-c", IMPORT) == "\n\nLLMRING_DATABASE_URL\n"


async def test_the_wheel_migrates_issues_a_key_and_serves(
    run: Run, programs: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    assert "001_usage.sql" in run("llmring-server", "db", "migrate", "--env", "prod")
    assert "up to date" in run("llmring-server", "db", "migrate", "--env", "prod")
    key = run("llmring-server", "keys", "issue", "--env", "prod").strip()
    async with uvicorn(programs, environ, tmp_path) as url, httpx.AsyncClient(timeout=60) as client:
        stranger = await client.post(f"{url}/api/v1/log", json=CALL, headers={"X-API-Key": "me"})
        assert stranger.status_code == 401
        client.headers["X-API-Key"] = key
        assert (await client.post(f"{url}/api/v1/log", json=CALL)).status_code == 200
        assert len((await client.get(f"{url}/api/v1/logs")).json()) == 1


async def test_wheel_creates_objects_only_in_its_schemas(run: Run, database: str) -> None:
    run("llmring-server", "db", "migrate", "--env", "prod")
    connection = await asyncpg.connect(database)
    places = {row["place"] for row in await connection.fetch(OBJECTS)}
    await connection.close()
    assert places == {"ours", "ours_mcp", "pg_toast"}
