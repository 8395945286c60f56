"""The commands in docs/receipts/auditors.md run as written and print what the page shows."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.vectors.generate.files import FOLDER

PAGE = (FOLDER.parents[1] / "docs/receipts/auditors.md").read_text()
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
# Each block of commands is followed by a block of its output.
STEPS = re.findall(r"```sh\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)


def test_every_output_belongs_to_commands() -> None:
    assert len(STEPS) == PAGE.count("```text") >= 6


@pytest.mark.parametrize(("commands", "output"), STEPS)
def test_commands_print_what_the_page_shows(commands: str, output: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "vectors")
    process = subprocess.run(
        ("/bin/bash", "-euo", "pipefail", "-c", commands),
        cwd=tmp_path / "vectors",
        env={"PATH": PATH},
        check=True,
        capture_output=True,
        text=True,
    )
    assert process.stdout == output


def test_python_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert examples
    for example in examples:
        names: dict[str, Any] = {}
        exec(example, names)  # noqa: S102
        assert names["receipt"]["kind"] == "usage"
