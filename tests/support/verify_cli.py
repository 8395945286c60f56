"""The verifier's command, run in this process."""

import io
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from llmring_verify import cli
from tests.vectors.generate.__main__ import FOLDER

KEYS = ("--keys", str(FOLDER / "keys.json"))


def run(*arguments: str | Path) -> tuple[int, str]:
    """Run the command beside the vectors; return its exit code, and what it prints."""
    told = io.StringIO()
    with (
        chdir(FOLDER),
        redirect_stdout(told),
        redirect_stderr(told),
        pytest.raises(SystemExit) as ending,
    ):
        cli.main([*map(str, arguments)])
    code = ending.value.code
    assert isinstance(code, int)
    return code, told.getvalue()
