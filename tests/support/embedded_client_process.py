"""A client process of the embedded PostgreSQL: imported to start one, run to be one."""

import os
import subprocess
import sys
from pathlib import Path

from llmring_server.db.embedded_postgres import EmbeddedPostgres


def client(folder: Path, **environ: str) -> subprocess.Popen[str]:
    """Start a process that uses the server until its standard input is closed."""
    return subprocess.Popen(
        (sys.executable, "-m", "tests.support.embedded_client_process", folder),
        cwd=Path(__file__).parents[2],
        env=os.environ | environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def url_of(client: subprocess.Popen[str]) -> str:
    return client.stdout.readline().strip() if client.stdout else ""


if __name__ == "__main__":
    with EmbeddedPostgres(Path(sys.argv[1]), linger=0) as server:
        sys.stdout.write(f"{server.url()}\n")
        sys.stdout.flush()
        sys.stdin.read()
