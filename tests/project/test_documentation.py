"""The documentation: its programs run, its commands and links exist."""

import ast
import asyncio
import importlib
import importlib.util
import json
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import unquote

import click
import httpx
import pytest
from pgdbm import AsyncDatabaseManager

import llmring_server
from llmring_server import Ring, Server, Settings
from llmring_server.cli import main
from llmring_server.cli.transfer import ImportGroup
from llmring_server.usage.provider_usage import SHAPES
from tests.support.fake_provider import (
    CONTENT,
    INPUT_TOKENS,
    ONE_HOUR_CACHE_TOKENS,
    OUTPUT_TOKENS,
    WEB_SEARCHES,
    fake_provider,
)
from tests.support.llmemory import offline_tokenizer, require_vector
from tests.support.postgres import database

ROOT = Path(llmring_server.__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README, EMBEDDING = "README.md", "docs/embedding.md"
SERVER_URL = "http://127.0.0.1:8000"

SDK_PROGRAMS = {"OpenAI SDK", "Anthropic SDK", "llmring client"}
APPLICATIONS = {
    (README, "FastAPI"),
    (README, "Starlette"),
    (EMBEDDING, "Mount it in an application"),
    (EMBEDDING, "Two instances in one database"),
    (EMBEDDING, "Mount an app that opens its own database"),
}
SCRIPTS = {
    (EMBEDDING, "Lend a database to an app"): ["healthy"],
    (EMBEDDING, "Use it without HTTP"): ["1 0.00036"],
    (EMBEDDING, "In your own transaction"): ["0"],
    (EMBEDDING, "Receive events"): ["call.logged 0.00036"],
    (EMBEDDING, "Serve from a running program"): ["ready"],
    (EMBEDDING, "In a thread"): ["ready", "0.00036", "call.logged"],
    (EMBEDDING, "Reload settings"): ["('rate_limit',)"],
}
# tests/embedding/test_testing_plugin.py runs these.
TESTS = {(EMBEDDING, "Test an application that embeds the server")}

BESIDE_LLMEMORY = (EMBEDDING, "Beside llmemory")


class Block(NamedTuple):
    """A block of code in a document."""

    document: str
    heading: str
    language: str
    code: str


def blocks(language: str) -> Iterator[Block]:
    """Find the blocks of code in a language, in all documents."""
    for path in DOCUMENTS:
        heading = ""
        for title, tag, code in re.findall(
            r"^#+ ([^\n]+)$|^```(\w*)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL
        ):
            heading = title or heading
            if tag == language:
                yield Block(str(path.relative_to(ROOT)), heading, tag, code)


def program(document: str, heading: str) -> str:
    """Return the one Python program below a heading."""
    [found] = [block for block in blocks("python") if block[:2] == (document, heading)]
    return found.code


def load(code: str, folder: Path) -> ModuleType:
    """Save a program as app.py and import it."""
    path = folder / "app.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("app", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
async def empty_database(server_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """An empty database, which DATABASE_URL names."""
    async with database(server_url, "documentation") as url:
        monkeypatch.setenv("DATABASE_URL", url)
        yield url


@pytest.fixture
async def server(db: AsyncDatabaseManager) -> AsyncIterator[Server]:
    async with Server(Ring(db, Settings(auth="open")), port=0) as server:
        yield server


@asynccontextmanager
async def client_of(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Start an application as a server does, and send requests to it."""
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


def test_every_program_is_run() -> None:
    pages = {README, EMBEDDING, "docs/getting-started.md"}
    programs = [block[:2] for block in blocks("python") if block.document in pages]
    tested = {(README, heading) for heading in SDK_PROGRAMS} | APPLICATIONS | SCRIPTS.keys() | TESTS
    assert sorted(programs) == sorted(tested | {BESIDE_LLMEMORY})


@pytest.mark.slow
@pytest.mark.parametrize("heading", sorted(SDK_PROGRAMS))
async def test_a_program_with_a_client_library_logs_its_call(
    heading: str, server: Server, key: str, tmp_path: Path
) -> None:
    code = program(README, heading)
    assert SERVER_URL in code
    assert '"my-app"' in code
    path = tmp_path / "program.py"
    path.write_text(code.replace(SERVER_URL, server.url).replace('"my-app"', f'"{key}"'))
    with fake_provider() as provider:
        # Client libraries cannot reach any other host.
        environment = {"HOME": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9"} | provider
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, path),
            env={"PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1"} | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, errors.decode()
    async with httpx.AsyncClient(base_url=server.url, headers={"X-API-Key": key}) as client:
        [call] = (await client.get("/api/v1/logs")).json()
    assert (call["input_tokens"], call["output_tokens"]) == (INPUT_TOKENS, OUTPUT_TOKENS)
    assert call["cost"] > 0
    if heading == "Anthropic SDK":
        assert call["details"]["cache_creation_1h_input_tokens"] == ONE_HOUR_CACHE_TOKENS
        assert call["details"]["web_searches"] == WEB_SEARCHES
    printed = output.decode().splitlines()
    if heading == "llmring client":
        assert printed[0] == CONTENT
        assert ast.literal_eval(printed[1])["total_requests"] == 1
    else:
        assert float(printed[0]) == call["cost"]


@pytest.mark.usefixtures("empty_database")
async def test_the_fastapi_program_mounts_the_server(tmp_path: Path) -> None:
    async with client_of(load(program(README, "FastAPI"), tmp_path).app) as client:
        logged = (await client.post("/answers")).json()
        assert logged["cost"] > 0
        assert (await client.get("/llmring/api/v1/logs")).status_code == 401
        headers = {"Authorization": "Bearer change-me"}
        [call] = (await client.get("/llmring/api/v1/logs", headers=headers)).json()
        assert (call["id"], call["cost"]) == (logged["log_id"], logged["cost"])


@pytest.mark.usefixtures("empty_database")
async def test_the_starlette_program_logs_in_its_transaction(tmp_path: Path) -> None:
    module = load(program(README, "Starlette"), tmp_path)
    async with client_of(module.app) as client:
        logged = (await client.post("/answers")).json()
        costs = (await client.get("/costs")).json()
        assert costs["cost"] == logged["cost"] == "0.00036"
        # If the application's own write fails, the call is not logged either.
        await module.app.state.db.execute("DROP TABLE {{tables.answers}}")
        with pytest.raises(Exception, match="answers"):
            await client.post("/answers")
        assert (await client.get("/costs")).json() == costs


@pytest.mark.usefixtures("empty_database")
async def test_a_mounted_server_lets_its_parent_authenticate(tmp_path: Path) -> None:
    code = program(EMBEDDING, "Mount it in an application")
    async with client_of(load(code, tmp_path).app) as client:
        path = "/llmring/api/v1/conversations"
        assert (await client.get(path)).status_code == 401
        assert (await client.get(path, headers={"X-User": "ada"})).json() == []
        mcp = await client.get("/llmring/api/v1/mcp/servers", headers={"X-User": "ada"})
        assert mcp.status_code == 403


@pytest.mark.usefixtures("empty_database")
async def test_two_instances_have_separate_data(tmp_path: Path) -> None:
    code = program(EMBEDDING, "Two instances in one database")
    async with client_of(load(code, tmp_path).app) as client:
        client.headers["X-API-Key"] = "my-app"
        call = {"provider": "openai", "model": "gpt-4o-mini", "input_tokens": 1, "output_tokens": 1}
        assert (await client.post("/staging/api/v1/log", json=call)).status_code == 200
        assert len((await client.get("/staging/api/v1/logs")).json()) == 1
        assert (await client.get("/production/api/v1/logs")).json() == []


@pytest.mark.usefixtures("empty_database")
async def test_a_mounted_app_opens_its_own_database(tmp_path: Path) -> None:
    code = program(EMBEDDING, "Mount an app that opens its own database")
    async with client_of(load(code, tmp_path).app) as client:
        response = await client.get("/llmring/api/v1/logs", headers={"X-API-Key": "my-app"})
        assert response.json() == []


@pytest.mark.usefixtures("empty_database")
@pytest.mark.parametrize(("document", "heading"), SCRIPTS)
async def test_scripts_print_the_documented_output(
    document: str,
    heading: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # In a thread, since it starts an event loop.
    await asyncio.to_thread(load, program(document, heading), tmp_path)
    assert capsys.readouterr().out.splitlines() == SCRIPTS[document, heading]


@pytest.mark.usefixtures("empty_database")
async def test_the_program_with_llmemory_prints_a_document_and_a_cost(
    server_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await require_vector(server_url)
    with offline_tokenizer():
        await asyncio.to_thread(load, program(*BESIDE_LLMEMORY), tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        "Invoices are paid within thirty days.",
        "0.00036",
    ]


def test_imports_in_documents_exist() -> None:
    for block in blocks("python"):
        for node in ast.walk(ast.parse(block.code)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{block.document}: {alias.name}"


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Find the commands of `llmring-server` in all documents, with their arguments."""
    for block in blocks("sh"):
        for line in block.code.replace("\\\n", " ").splitlines():
            if line.startswith("llmring-server "):
                yield block.document, shlex.split(line, comments=True)[1:]


def test_commands_in_documents_exist_and_name_their_environment() -> None:
    for document, words in command_lines():
        command: click.Command = main
        context = click.Context(main, info_name="llmring-server")
        while isinstance(command, click.Group):
            if isinstance(command, ImportGroup):
                words = command.with_command(words)  # noqa: PLW2901, it may be left out
            name = words.pop(0)
            assert name in command.commands, f"{document}: {name}"
            command = command.commands[name]
        # Raises if the option does not exist.
        options, _, _ = command.make_parser(click.Context(command, context)).parse_args(words)
        has_environment = any(parameter.name == "env" for parameter in command.params)
        first_steps = (command.name, document) == ("serve", "docs/getting-started.md")
        if has_environment and not first_steps:
            assert options.get("env"), f"{document}: {command.name} {words}"


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def test_links_in_documents_are_valid() -> None:
    for path in DOCUMENTS:
        text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"https?:", target):
                continue
            file, _, anchor = unquote(target).partition("#")
            linked = (path.parent / file).resolve() if file else path
            assert linked.exists(), f"{path}: {target}"
            assert not anchor or anchor in anchors(linked), f"{path}: {target}"


def written(default: object) -> str:
    """Return the default of a setting as the documentation writes it."""
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default is None else f"{default}"


def test_documented_settings_exist_with_their_defaults() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    rows = re.findall(r"^\| `LLMRING_(\w+)` \|(.*?)\|", text, re.MULTILINE)
    # The first is a command-line option, the second is computed, the third differs in tests.
    others = {"data_dir", "mcp_schema", "registry_url"}
    documented = {
        name.lower(): default.strip(" `").replace("off", "")
        for name, default in rows
        if name.lower() not in others
    }
    defaults = {name: written(Settings.model_fields[name].default) for name in documented}
    assert documented == defaults


def test_every_decision_is_listed() -> None:
    readme = ROOT / "docs/decisions/README.md"
    index = readme.read_text()
    for path in {*readme.parent.glob("*.md")} - {readme}:
        for title in re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE):
            assert f"[{title}]({path.name}" in index, f"{path.name}: {title}"


def logged_examples() -> Iterator[tuple[str, dict[str, Any], str, list[str]]]:
    """Find the calls on the page about logging: heading, body, cost, fields in its warnings."""
    text = (ROOT / "docs/logging-calls.md").read_text()
    for section in re.split(r"^##+ ", text, flags=re.MULTILINE)[1:]:
        heading = section.partition("\n")[0]
        for body, response in re.findall(r"-d '(.*?)'\n```\n(.*)", section, re.DOTALL):
            cost = re.search(r'"cost": ([\d.]+)|The cost is ([\d.]+\d)', response)
            assert cost, heading
            warned = re.findall(r'"field": "([\w.]+)"', response)
            yield heading, json.loads(body), cost[1] or cost[2], warned


EXAMPLES = {heading: example for heading, *example in logged_examples()}


def test_every_provider_has_an_example() -> None:
    assert len(EXAMPLES) == len(SHAPES) + 1


@pytest.mark.parametrize(("body", "cost", "warned"), EXAMPLES.values(), ids=EXAMPLES)
async def test_examples_of_calls_cost_what_the_documentation_says(
    client: httpx.AsyncClient, body: dict[str, Any], cost: str, warned: list[str]
) -> None:
    logged = (await client.post("/api/v1/log", json=body)).json()
    assert (str(logged["cost"]), logged["cost_source"]) == (cost, "offline")
    assert [warning["field"] for warning in logged["warnings"]] == warned
