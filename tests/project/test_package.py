"""The package: what it exports, and that importing it has no side effects."""

import re
import subprocess
import sys
from pathlib import Path

import llmring_server

ROOT = Path(llmring_server.__file__).parents[1]
IMPORT = re.compile(r"^from llmring_server(\.[\w.]+)? import (.+)$", re.MULTILINE)


def run(program: str, **environ: str) -> str:
    """Run a program in a fresh interpreter, which has imported nothing."""
    done = subprocess.run(
        (sys.executable, "-c", program), env=environ, capture_output=True, text=True, check=True
    )
    return done.stdout


# The import paths of llmring-server 0.1, in the page for programs that were written for it.
FORMER_MODULES = {".main", ".service"}


def test_every_exported_name_exists() -> None:
    for name in llmring_server.__all__:
        assert getattr(llmring_server, name) is not None
    assert "app" not in llmring_server.__all__


def test_documented_programs_import_from_the_package_alone() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    imports = [found for path in documents for found in IMPORT.findall(path.read_text())]
    assert len(imports) > 5
    for module, names in imports:
        if module in FORMER_MODULES:
            continue
        assert module == ""
        assert set(names.split(", ")) <= set(llmring_server.__all__)


def test_importing_the_package_loads_no_web_framework_and_reads_no_environment() -> None:
    program = (
        "import sys, llmring_server; llmring_server.Ring;"
        " print(*(name for name in sys.modules if name in {'starlette', 'uvicorn', 'pytest'}))"
    )
    # This value would be rejected.
    assert run(program, LLMRING_AUTH="nonsense").strip() == ""


def test_the_app_is_created_from_the_environment_when_it_is_used() -> None:
    program = "import llmring_server; print(llmring_server.app.state.settings.auth)"
    assert run(program, LLMRING_AUTH="open").strip() == "open"


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(llmring_server, "nonsense")
