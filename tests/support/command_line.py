"""`llmring-server`, run in this process: a new interpreter would import for a second first."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

from click.testing import CliRunner

from llmring_server.cli import main
from llmring_server.cli.output import CONSOLE


def invoke(
    *arguments: str, environment: dict[str, str], stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the command with this environment and no other variable; return what it did."""
    # In a new process, COLUMNS would be the width of the terminal.
    CONSOLE.width = int(environment.get("COLUMNS", "80"))
    cleared = dict.fromkeys(os.environ.keys() - environment.keys())
    # In a thread, since commands start event loops, and a test may run in one.
    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(
            CliRunner().invoke,
            main,
            arguments,
            input=stdin,
            env=cleared | environment,
            prog_name="llmring-server",
        ).result(60)
    if result.exc_info and not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)
