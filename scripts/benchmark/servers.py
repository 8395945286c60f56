"""The servers under test, each with one worker process and its own database."""

import os
import secrets
import subprocess
import sys
import venv
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from scripts.benchmark.postgres import SCHEMA, temporary_database
from scripts.benchmark.processes import free_port, run_server

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("llmring-server")
# Statistics of the peer add up millions of rows.
RESPONSE_TIMEOUT_SECONDS = 600

# The peer does not start with the FastAPI that pip would choose.
PEER_REQUIREMENTS = ["llmring-server==0.1.3", "fastapi==0.152.0"]


@dataclass(frozen=True)
class ServerUnderTest:
    """A running server, and its database if it has one."""

    name: str
    port: int
    pid: int
    database: str | None = None
    # The `llmring-server` that manages this database, and its environment variables.
    command: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def get(self, path: str, key: str) -> tuple[Message, Any]:
        """Send one request; return the headers and the parsed body of the response."""
        return self._request("GET", path, key, None)

    def post(self, path: str, key: str, body: Any) -> Any:
        """Send one request; return the parsed body of the response."""
        return self._request("POST", path, key, orjson.dumps(body))[1]

    def _request(self, method: str, path: str, key: str, body: bytes | None) -> tuple[Message, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=RESPONSE_TIMEOUT_SECONDS)
        headers = {"X-API-Key": key, "Content-Type": "application/json"}
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status >= 300:  # noqa: PLR2004, of HTTP
            raise ValueError(f"{self.name}: {method} {path}: {response.status} {content[:500]!r}")
        return response.headers, orjson.loads(content)


StartServer = Callable[[str], AbstractContextManager[ServerUnderTest]]


@contextmanager
def start(cluster_url: str, *starters: StartServer) -> Iterator[list[ServerUnderTest]]:
    """Run several servers side by side: a server without requests takes no CPU time."""
    with ExitStack() as stack:
        yield [stack.enter_context(starter(cluster_url)) for starter in starters]


def prod(cluster_url: str) -> AbstractContextManager[ServerUnderTest]:
    """Run `llmring-server serve --env prod` of this checkout: what production runs."""
    return _serve(cluster_url, "prod", COMMAND)


def dev(cluster_url: str) -> AbstractContextManager[ServerUnderTest]:
    """Run `llmring-server serve --env dev` of this checkout, which logs a line per request."""
    return _serve(cluster_url, "dev", COMMAND, env="dev")


def with_receipt_key(cluster_url: str) -> AbstractContextManager[ServerUnderTest]:
    """Run the server with a key that signs receipts."""
    more = _receipt_key()
    return _serve(cluster_url, "with receipt key", COMMAND, more_environment=more)


def watched_with_receipt_key(cluster_url: str) -> AbstractContextManager[ServerUnderTest]:
    """Run the server with such a key, and with a watch on its event loop and its memory."""
    return _watched(cluster_url, "watched", COMMAND, _receipt_key())


def _receipt_key() -> dict[str, str]:
    key = urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    return {"LLMRING_RECEIPTS_PRIVATE_KEY_B64": key}


def without_request_limits(cluster_url: str) -> AbstractContextManager[ServerUnderTest]:
    app = Path(__file__).with_name("apps") / "without_request_limits.py"
    program = [sys.executable, str(app)]
    return _serve(cluster_url, "without request limits", COMMAND, program=program)


def watched(cluster_url: str) -> AbstractContextManager[ServerUnderTest]:
    """Run the server with a watch on its event loop and its memory."""
    return _watched(cluster_url, "watched", COMMAND)


def other_checkout_watched(root: Path) -> StartServer:
    """Run the server of another checkout with the same watch."""
    command = root / ".venv" / "bin" / "llmring-server"
    return lambda cluster_url: _watched(cluster_url, "against", command)


@contextmanager
def _watched(
    cluster_url: str, name: str, command: Path, more_environment: Mapping[str, str] | None = None
) -> Iterator[ServerUnderTest]:
    app = Path(__file__).with_name("apps") / "watched.py"
    program = [str(command.with_name("python")), str(app)]
    with TemporaryDirectory(prefix="bench-") as directory:
        more = {"WATCH_FILE": str(Path(directory, "seen")), **(more_environment or {})}
        with _serve(cluster_url, name, command, program=program, more_environment=more) as server:
            yield server


def other_checkout(root: Path) -> StartServer:
    """Run `llmring-server serve --env prod` of another checkout, with its own .venv."""
    command = root / ".venv" / "bin" / "llmring-server"
    return lambda cluster_url: _serve(cluster_url, "against", command)


@contextmanager
def _serve(  # noqa: PLR0913, each server varies one of them
    cluster_url: str,
    name: str,
    command: Path,
    *,
    env: str = "prod",
    program: list[str] | None = None,
    more_environment: Mapping[str, str] | None = None,
) -> Iterator[ServerUnderTest]:
    """Run `llmring-server serve`; `program` stands in for the command."""
    port = free_port()
    arguments = [*(program or [str(command)]), "serve", "--env", env, "--port", str(port)]
    with temporary_database(cluster_url) as url:
        environment = _environment(url) | dict(more_environment or {})
        with run_server(arguments, port, environment) as process:
            yield ServerUnderTest(name, port, process.pid, url, command, environment)


@contextmanager
def peer(cluster_url: str) -> Iterator[ServerUnderTest]:
    """Run the release that this project replaces."""
    port = free_port()
    command = _uvicorn(_install_peer(), "llmring_server.main:app", port)
    with (
        temporary_database(cluster_url) as url,
        run_server(command, port, _environment(url)) as process,
    ):
        yield ServerUnderTest("peer", port, process.pid, url)


@contextmanager
def bare(_: str) -> Iterator[ServerUnderTest]:
    """Run a route without a database, as a lower bound."""
    port = free_port()
    app = "scripts.benchmark.apps.bare:app"
    command = _uvicorn(Path(sys.executable), app, port, "--app-dir", str(ROOT))
    with run_server(command, port, {"PATH": os.defpath}) as process:
        yield ServerUnderTest("bare", port, process.pid)


def _environment(url: str) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "LLMRING_AUTH": "open",
        "LLMRING_CONVERSATION_CONTENT": "full",
        "LLMRING_DATABASE_URL": url,
        "LLMRING_DATABASE_SCHEMA": SCHEMA,
    }


def _uvicorn(python: Path, app: str, port: int, *options: str) -> list[str]:
    address = ["--host", "127.0.0.1", "--port", str(port)]
    return [str(python), "-m", "uvicorn", app, *address, "--no-access-log", *options]


def _install_peer() -> Path:
    """Return the Python interpreter of the peer's virtual environment; create it if needed."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    environment = Path(cache) / "llmring-server" / "bench-peer"
    python, ready = environment / "bin" / "python", environment / "ready"
    requirements = "\n".join([*PEER_REQUIREMENTS, sys.version])
    if not ready.exists() or ready.read_text() != requirements:
        # With the base interpreter's pip, as in scripts/setup: some systems have no ensurepip.
        venv.create(environment, clear=True, symlinks=True)
        base: str = sys._base_executable  # type: ignore[attr-defined]
        pip = [base, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
        subprocess.run([*pip, "install", *PEER_REQUIREMENTS], check=True, stdout=sys.stderr)  # noqa: S603
        ready.write_text(requirements)
    return python


def checked_checkout(root: Path) -> Path:
    """Return the root of another checkout; exit if its .venv does not run its own code."""
    root = root.expanduser().resolve()
    python = root / ".venv" / "bin" / "python"
    if not python.exists():
        sys.exit(f"{root} has no .venv: run scripts/setup there first.")
    locate = "from importlib.util import find_spec; print(find_spec('llmring_server').origin)"
    # In another directory than this checkout, which Python would otherwise import from.
    command = [str(python), "-c", locate]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)  # noqa: S603
    if not Path(done.stdout.strip()).is_relative_to(root):
        sys.exit(f"{root}/.venv does not run this checkout, but {done.stdout or done.stderr}")
    return root


def commit(root: Path) -> str | None:
    """Return the commit of a checkout, marked if files differ from it; None without git."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
