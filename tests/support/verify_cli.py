"""Run the command `llmring-verify` in this process."""

import io
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from llmring_verify import cli
from tests.vectors.generate.files import FOLDER

PROGRAM = Path(sys.executable).parent / "llmring-verify"
KEYS = ("--keys", str(FOLDER / "keys.json"))


def run(*arguments: str | Path) -> tuple[int, str]:
    """Run the command in the folder of the vectors; return its exit code and its output."""
    output = io.StringIO()
    with (
        chdir(FOLDER),
        redirect_stdout(output),
        redirect_stderr(output),
        pytest.raises(SystemExit) as exit_info,
    ):
        cli.main([*map(str, arguments)])
    code = exit_info.value.code
    assert isinstance(code, int)
    return code, output.getvalue()
