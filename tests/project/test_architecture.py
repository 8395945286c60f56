"""Architecture: rules for imports, routes and statements that a reviewer would otherwise check."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import orjson
import pytest
from pgdbm import AsyncDatabaseManager

import llmring_server
from llmring_server import Ring, Settings
from llmring_server.core.variables import PREFIX
from llmring_server.db.partitions import Partitions
from llmring_server.db.repository import SQL, load
from llmring_server.routes import API, META
from llmring_server.web.openapi import openapi_document
from llmring_server.web.router import Route, RouteGroup

PACKAGE = Path(llmring_server.__file__).parent
ROOT = PACKAGE.parent
VERIFIER = ROOT / "llmring_verify"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *VERIFIER.rglob("*.py")])
STATEMENTS = [
    (file, name, sql)
    for path in sorted(SQL.glob("*/*.sql"))
    for file in [f"{path.parent.name}/{path.stem}"]
    for name, sql in load(file).items()
]

# Patterns of the only files that may import a library.
MAY_IMPORT = {
    "uvicorn": ("llmring_server/server/*.py", "llmring_server/cli/serve.py"),
    "starlette": (
        "llmring_server/web/*.py",
        "llmring_server/server/*.py",
        "llmring_server/*/api.py",
        "llmring_server/access/authentication.py",
        "llmring_server/asgi.py",
        "llmring_server/cli/serve.py",
        "llmring_server/testing.py",
    ),
    # Outgoing HTTP. Only the model registry is ever called; the client of tests calls their app.
    "httpx2": ("llmring_server/registry/client.py", "llmring_server/testing.py"),
    "httpx": (),
    "aiohttp": (),
    "http.client": (),
    "requests": (),
    "urllib.request": (),
    "urllib3": (),
    # These open their own sockets, or set their options.
    "socket": (
        "llmring_server/db/connect.py",
        "llmring_server/db/postgres_supervisor.py",
        "llmring_server/server/in_process.py",
        "llmring_server/cli/serve.py",
    ),
}


def functions(source: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def handler_of(route: Route) -> str:
    return f"{route.handler.__module__}.{route.handler.__name__}"


def test_the_openapi_document_describes_every_route() -> None:
    for route in API + META:
        check_description(route)


def check_description(route: Route) -> None:
    """Check that a route has a summary, its scopes, named responses, parameters and a body."""
    described = orjson.loads(openapi_document([RouteGroup("tag", "", route)], "keys", ""))
    [[operation]] = [methods.values() for methods in described["paths"].values()]
    assert operation["summary"], f"{route.path}: a handler's docstring says what it is for"
    scopes = [scope for scheme in operation["security"] for scope in scheme.values()]
    assert scopes == ([[*route.scopes]] * 2 if route.scopes else []), route.path
    # The schema of a response has a name, except for files and the document itself.
    for content in operation["responses"]["200"]["content"].values():
        schema = content["schema"].get("items", content["schema"])
        has_name = "$ref" in schema or schema == {"type": "string"}
        assert has_name or route.path == "/openapi.json", route.path
    for scope in route.scopes:
        assert f"`{scope}`" in operation["description"], route.path
    parameters = operation["parameters"]
    path_params = {param["name"] for param in parameters if param["in"] == "path"}
    assert path_params == route.path_params, route.path
    assert ("requestBody" in operation) == bool(route.max_body_bytes), route.path


def test_every_public_handler_in_api_modules_has_a_route() -> None:
    routed = {handler_of(route) for route in API + META}
    sources = [*PACKAGE.glob("*/api.py"), *PACKAGE.glob("web/*.py")]
    public = {
        ".".join((*source.relative_to(ROOT).with_suffix("").parts, function.name))
        for source in sources
        for function in ast.parse(source.read_text()).body
        if isinstance(function, ast.AsyncFunctionDef)
        and not function.name.startswith("_")
        and [ast.unparse(arg.annotation) for arg in function.args.args[:1] if arg.annotation]
        == ["Request"]
    }
    assert len(public) > 80
    assert public == routed


async def test_postgresql_can_prepare_every_statement(db: AsyncDatabaseManager, ring: Ring) -> None:
    async with db.acquire() as connection:
        for service in (*ring.services, Partitions(ring._database)):
            for statement in service._sql.values():
                prepared = await connection.prepare(statement.text)
                assert len(prepared.get_parameters()) == len(statement.params)


async def test_every_statement_filters_by_project_or_documents_why_not(
    db: AsyncDatabaseManager,
) -> None:
    rows = await db.fetch_all(
        "SELECT table_name FROM information_schema.columns"
        " WHERE table_schema IN ($1::text, $1::text || '_mcp') AND column_name = 'project_id'",
        db.schema,
    )
    owned = {row["table_name"] for row in rows}
    assert {"usage_logs", "servers"} < owned
    for file, name, sql in STATEMENTS:
        if owned & set(re.findall(r"<<(?:tables|mcp)\.(\w+)>>", sql)):
            # A comment says why a statement works across projects, or all statements of a file.
            comments = (SQL / f"{file}.sql").read_text().partition("-- name:")[0] + sql
            reason = re.search(r"^-- .*cross projects: \w+", comments, re.MULTILINE)
            assert "@project_id" in sql or reason, f"{file}: {name}"


def test_a_module_that_loads_a_statement_s_file_names_the_statement() -> None:
    modules = [source.read_text() for source in SOURCES]
    for file, name, _ in STATEMENTS:
        users = [text for text in modules if f'"{file}"' in text and f'"{name}"' in text]
        assert users, f"{file}: {name}"


@cache
def imported_modules(source: Path) -> tuple[str, ...]:
    """Return the modules that a file imports anywhere, also for the type checker only."""
    return tuple(_imported_modules(source))


def _imported_modules(source: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            # `from urllib import request` imports urllib.request.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("library", MAY_IMPORT)
def test_restricted_libraries_are_imported_only_in_allowed_modules(library: str) -> None:
    importers = {
        source.relative_to(ROOT)
        for source in SOURCES
        if any(f"{name}.".startswith(f"{library}.") for name in imported_modules(source))
    }
    for path in importers:
        assert any(path.match(pattern) for pattern in MAY_IMPORT[library]), path
    # A pattern that no importer needs is out of date.
    for pattern in MAY_IMPORT[library]:
        assert any(path.match(pattern) for path in importers), pattern


def test_every_setting_is_documented() -> None:
    configuration = (ROOT / "docs/configuration.md").read_text()
    for field in Settings.model_fields:
        assert f"| `{PREFIX}{field.upper()}` |" in configuration
