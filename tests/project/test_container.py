"""The Containerfile and compose.yaml: that they fit the project, and what the image runs."""

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from signal import SIGTERM
from subprocess import PIPE
from typing import Any

import asyncpg
import httpx
import pytest
import rich_click as click
import yaml  # type: ignore[import-untyped]

from llmring_server.cli import main
from llmring_server.core.variables import PREFIX
from llmring_server.routes import META
from llmring_server.server.in_process import listen, uvicorn_options
from llmring_server.settings import Settings
from scripts.benchmark.postgres import running_cluster, system_programs
from tests.conftest import CALL
from tests.support.containerfile import Stage, stages

ROOT = Path(__file__).parents[2]
BUILD, IMAGE = stages(ROOT / "Containerfile")
ANSWER_SECONDS = 60.0


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return content


def copied(stage: Stage) -> Iterator[tuple[list[str], str]]:
    """Yield the sources and the target of each COPY from the checkout."""
    for arguments in stage.all("COPY"):
        *sources, target = arguments.split()
        if not arguments.startswith("--from"):
            yield sources, target


def test_the_build_copies_what_its_context_contains() -> None:
    patterns = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert patterns[0] == "*"
    contained = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    needed = {source for sources, _ in copied(BUILD) for source in sources}
    assert needed == contained
    for source in needed:
        assert (ROOT / source).exists(), source
        assert not any(fnmatch(source, pattern) for pattern in patterns[1:]), source


def test_the_image_serves_as_another_user_than_root() -> None:
    assert BUILD.base == IMAGE.base
    assert re.fullmatch(r"docker\.io/library/python:3\.\d+-slim-\w+", IMAGE.base)
    user, group = IMAGE.last("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert IMAGE.last("STOPSIGNAL") == "SIGTERM"
    [program, command_name, *arguments] = IMAGE.command("ENTRYPOINT") + IMAGE.command("CMD")
    assert program == "llmring-server"
    command = main.commands[command_name]
    options, _, _ = command.make_parser(click.Context(command)).parse_args(arguments)
    assert options == {"env": "prod", "host": "0.0.0.0", "port": IMAGE.last("EXPOSE")}  # noqa: S104
    check = IMAGE.command("HEALTHCHECK")
    assert check[0] == "python"
    [port, path] = re.findall(r"127\.0\.0\.1:(\d+)(/[\w/]+)", check[2])[0]
    assert port == IMAGE.last("EXPOSE")
    assert path in {route.path for route in META}
    labels = shlex.split(IMAGE.last("LABEL"))
    assert all(label.startswith("org.opencontainers.image.") for label in labels)


def test_services_name_what_the_file_defines(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        for dependency, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert services[dependency]["healthcheck"]["test"][0] == "CMD", f"{name}: {dependency}"
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in compose["volumes"], name
        for config in service.get("configs", []):
            assert config["source"] in compose["configs"], name
        for secret in service.get("secrets", []):
            assert secret in compose["secrets"], name
        for variable in service["environment"]:
            is_ours = variable.removeprefix(PREFIX).lower() in Settings.model_fields
            assert is_ours or not variable.startswith("LLMRING_"), variable
        image = service["image"]
        assert image == "llmring-server" or re.search(r"postgres:\d+-\w+$", image), name
    used = {
        volume.split(":")[0] for each in services.values() for volume in each.get("volumes", ())
    }
    assert used == set(compose["volumes"])


def test_the_server_has_time_to_answer_what_it_has_accepted(compose: dict[str, Any]) -> None:
    server = compose["services"]["server"]
    seconds = int(server["stop_grace_period"].removesuffix("s"))
    assert seconds > uvicorn_options(Settings())["timeout_graceful_shutdown"]
    assert server["build"]["dockerfile"] == "Containerfile"
    assert server["read_only"] is True
    # Only this machine can reach the port.
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    maintain = compose["services"]["maintain"]["command"]
    assert maintain[:2] == ["db", "maintain"]


def python_of_everyone() -> str:
    """Return a Python that the user of the image may run, too."""
    for python in (sys._base_executable, "/usr/bin/python3"):  # type: ignore[attr-defined]
        path = Path(python).resolve()
        if path.exists() and all(parent.stat().st_mode & 1 for parent in path.parents):
            return str(path)
    return pytest.fail("there is no Python that other users may run: apt-get install python3")


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """A folder that stands in for the root of the image, in which the build's steps were run."""
    root = Path(tempfile.mkdtemp(prefix="llmring-image-"))
    root.chmod(0o755)
    try:
        for sources, target in copied(BUILD):
            for source in sources:
                path = root / "src" / (source if target == "./" else target)
                path.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / source).is_dir():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(ROOT / source, path, ignore=ignored)
                else:
                    shutil.copy(ROOT / source, path)
        for step in BUILD.all("RUN"):
            words = [word.replace("/opt/", f"{root}/opt/") for word in shlex.split(step)]
            if words[0] == "python":
                # As scripts/setup does: some systems have no ensurepip.
                words = [python_of_everyone(), *words[1:], "--without-pip"]
            elif words[1:3] == ["-m", "pip"]:
                words = [sys.executable, "-m", "pip", "--python", *words[:1], *words[3:]]
            subprocess.run(words, cwd=root / "src", check=True, stdout=sys.stderr)
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def own_database() -> Iterator[str]:
    """A database that every user can reach: that of the operating system's PostgreSQL, by TCP."""
    if system_programs() is None:
        pytest.fail("there is no PostgreSQL of the operating system: apt-get install postgresql")
    with running_cluster(None, with_extensions=True) as cluster:
        yield f"{cluster}_of_image"


async def issue_key(program: str, as_user: dict[str, Any]) -> str:
    """Create the database and a key. The user has no name, which the audit log would tell."""
    issue = ["keys", "issue", "--env", "prod", "--project", "app"]
    for arguments in (["db", "create", "--env", "prod"], issue):
        process = await asyncio.create_subprocess_exec(program, *arguments, **as_user)
        printed, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
    [key] = re.findall(r"\bllmr_\w+", printed.decode())
    return str(key)


@pytest.mark.full
@pytest.mark.slow
async def test_the_built_server_is_healthy_and_ends_after_its_last_answer(
    image: Path, own_database: str
) -> None:
    with listen("127.0.0.1", 0) as listener:
        port = str(listener.getsockname()[1])
    bin_folder = image / "opt/llmring-server/bin"
    variables = {
        **IMAGE.environment(),
        "PATH": f"{bin_folder}:{os.defpath}",
        "LLMRING_DATABASE_URL": own_database,
        "LLMRING_REGISTRY_URL": "none",
    }
    user = int(IMAGE.last("USER").split(":")[0])
    as_user: dict[str, Any] = {"env": variables, "cwd": "/", "stdout": PIPE, "stderr": PIPE}
    if os.geteuid() == 0:
        as_user |= {"user": user, "group": user, "extra_groups": []}
    command = [*IMAGE.command("ENTRYPOINT"), *IMAGE.command("CMD")]
    exposed = IMAGE.last("EXPOSE")
    command = [str(bin_folder / command[0]), *command[1:]]
    command = [word if word != exposed else port for word in command]
    check = [word.replace(f":{exposed}/", f":{port}/") for word in IMAGE.command("HEALTHCHECK")]
    check[0] = str(bin_folder / check[0])

    async def health() -> int:
        process = await asyncio.create_subprocess_exec(*check, **as_user)
        return await process.wait()

    assert await health() != 0
    key = await issue_key(command[0], as_user)
    server = await asyncio.create_subprocess_exec(*command, **as_user)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            while await health() != 0:
                assert server.returncode is None, (await server.communicate())[1].decode()
        headers = {"X-API-Key": key}
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=headers
        ) as client:
            assert (await client.post("/api/v1/log", json=CALL)).status_code == 200
            # Someone holds a lock that the next call waits for.
            blocker = await asyncpg.connect(own_database)
            transaction = blocker.transaction()
            await transaction.start()
            await blocker.execute("LOCK TABLE llmring.usage_logs IN SHARE MODE")
            answer = asyncio.create_task(client.post("/api/v1/log", json=CALL))
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            async with asyncio.timeout(ANSWER_SECONDS):
                while not await blocker.fetchval(waiting):  # noqa: ASYNC110, a lock sets no event
                    await asyncio.sleep(0.01)
            server.send_signal(SIGTERM)
            await transaction.rollback()
            assert (await answer).status_code == 200
            await blocker.close()
        async with asyncio.timeout(ANSWER_SECONDS):
            assert await server.wait() in {0, -SIGTERM}
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()
