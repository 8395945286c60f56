"""docs/receipts.md runs as it is written, and its commands print what it says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vectors.generate.__main__ import FOLDER

PAGE = FOLDER.parents[1] / "docs/receipts.md"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
AUDITORS = re.search(
    r"^## For an auditor$(.*?)(^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL
)
STEPS = re.findall(
    r"```sh\n(.*?)```\n\n```text\n(.*?)```", AUDITORS[1] if AUDITORS else "", re.DOTALL
)


def test_the_page_has_steps() -> None:
    assert len(STEPS) == PAGE.read_text().count("```text") >= 6


@pytest.mark.parametrize(("commands", "told"), STEPS)
def test_the_page_runs_as_it_is_written(commands: str, told: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "vectors")
    done = subprocess.run(
        ("/bin/bash", "-euo", "pipefail", "-c", commands),
        cwd=tmp_path / "vectors", env={"PATH": PATH}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == told
