"""The rules of the house, checked: a rule nobody checks is a wish."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import orjson
from pgdbm import AsyncDatabaseManager
from starlette.routing import Route

import llmring_server
from llmring_server import Ring, Settings
from llmring_server.db.repository import SQL, Repository, load
from llmring_server.routes import API, META
from llmring_server.settings import PREFIX
from llmring_server.web.endpoint import Endpoint
from llmring_server.web.openapi import openapi_document

PACKAGE = Path(llmring_server.__file__).parent
ROOT = PACKAGE.parent
VERIFIER = ROOT / "llmring_verify"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *VERIFIER.rglob("*.py")])
TESTS = sorted(Path(__file__).parents[1].rglob("*.py"))
STATEMENTS = [
    (noun, name, sql)
    for file in sorted(SQL.glob("*/*.sql"))
    for noun in [f"{file.parent.name}/{file.stem}"]
    for name, sql in load(noun).items()
]

DIALLERS = {"aiohttp", "http.client", "httpx", "requests", "socket", "urllib.request", "urllib3"}
# One calls the registry; the others open sockets of our own.
LISTENERS = {
    "llmring_server/registry/client.py": {"httpx"},
    "llmring_server/db/postgres_supervisor.py": {"socket"},
    "llmring_server/server/in_process.py": {"socket"},
    "llmring_server/cli/serve.py": {"socket"},
}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(source: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def handler_of(route: object) -> str:
    handler = route.endpoint.handler  # type: ignore[attr-defined]
    return f"{handler.__module__.rpartition('.')[2]}.{handler.__name__}"


def test_every_route_has_a_test() -> None:
    tests = [function.name for test in TESTS for function in functions(test)]
    for route in API + META:
        _, name = handler_of(route).split(".")
        assert any(test.startswith(f"test_{name}") for test in tests), name


def test_every_route_is_described() -> None:
    for route in API + META:
        check_description(route)


def check_description(route: Route) -> None:
    endpoint = route.app
    assert isinstance(endpoint, Endpoint)
    described = orjson.loads(openapi_document([route], "keys", ""))
    [[operation]] = [each.values() for each in described["paths"].values()]
    assert operation["summary"], f"{route.path}: a handler's docstring says what it is for"
    needs = [scope for way in operation["security"] for scope in way.values()]
    assert needs == ([[endpoint.needs]] * 2 if endpoint.needs else []), route.path
    # What is answered has a name, but for files, and the description of all.
    for content in operation["responses"]["200"]["content"].values():
        schema = content["schema"].get("items", content["schema"])
        named = "$ref" in schema or schema == {"type": "string"} or route.path == "/openapi.json"
        assert named, route.path
    told = endpoint.needs is None or f"`{endpoint.needs}`" in operation["description"]
    assert told, route.path
    taken = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
    assert taken == route.param_convertors.keys(), route.path
    assert ("requestBody" in operation) == bool(endpoint.cap), route.path


def test_every_public_handler_has_a_route() -> None:
    routed = {handler_of(route) for route in API + META}
    for source in sorted((PACKAGE / "web").glob("*.py")):
        for function in functions(source):
            if not function.name.startswith("_") and any(
                arg.annotation and ast.unparse(arg.annotation) == "Call"
                for arg in function.args.args
            ):
                assert f"{source.stem}.{function.name}" in routed


async def test_every_statement_fits_the_schema(db: AsyncDatabaseManager, ring: Ring) -> None:
    async with db.acquire() as connection:
        for part in (*vars(ring).values(), *ring.mcp, *vars(ring.receipts).values()):
            for statement in part._sql.values() if isinstance(part, Repository) else ():
                prepared = await connection.prepare(statement.text)
                assert len(prepared.get_parameters()) == len(statement.params)


async def test_every_statement_on_project_data_names_its_project(db: AsyncDatabaseManager) -> None:
    rows = await db.fetch_all(
        "SELECT table_name FROM information_schema.columns"
        " WHERE table_schema IN ($1::text, $1::text || '_mcp') AND column_name = 'project_id'",
        db.schema,
    )
    owned = {row["table_name"] for row in rows}
    assert {"usage_logs", "servers"} < owned
    for noun, name, sql in STATEMENTS:
        if owned & set(re.findall(r"<<(?:tables|mcp)\.(\w+)>>", sql)):
            # A statement that must look across projects says so, and why, or its whole file does.
            said = (SQL / f"{noun}.sql").read_text().partition("-- name:")[0] + sql
            assert "@project_id" in sql or re.search(
                r"^-- .*cross projects: \w+", said, re.MULTILINE
            ), f"{noun}.{name}"


def test_every_statement_is_used() -> None:
    users = [source.read_text() for source in SOURCES]
    for noun, name, _ in STATEMENTS:
        used = any(f'"{name}"' in text and f'"{noun}"' in text for text in users)
        assert used, f"{noun}.{name}"


def test_only_upstream_calls_anyone() -> None:
    for source in SOURCES:
        nodes = list(ast.walk(ast.parse(source.read_text())))
        names = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
        names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
        found = {name for name in names if name.split(".")[0] in DIALLERS or name in DIALLERS}
        assert found <= LISTENERS.get(relative(source), set()), source


def test_every_setting_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for field in Settings.model_fields:
        assert f"`{PREFIX}{field.upper()}`" in readme
