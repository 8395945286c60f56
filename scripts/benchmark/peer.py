"""The other server: the one that this project replaces, in an environment of its own."""

import os
import subprocess
import sys
import venv
from pathlib import Path

# It does not start with the FastAPI that pip would choose for it.
REQUIREMENTS = ["llmring-server==0.1.3", "fastapi==0.152.0"]


def python() -> Path:
    """Return the interpreter that can run it; installed at the first use."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = Path(caches) / "llmring-server" / "bench-peer"
    wanted, ready = "\n".join([*REQUIREMENTS, sys.version]), home / "ready"
    if not ready.exists() or ready.read_text() != wanted:
        _install(home)
        ready.write_text(wanted)
    return home / "bin" / "python"


def _install(home: Path) -> None:
    # As scripts/setup does: by the pip outside, for not every system has ensurepip.
    venv.create(home, clear=True, symlinks=True)
    pip = [sys._base_executable, "-m", "pip", "--python", str(home / "bin" / "python")]  # type: ignore[attr-defined]
    command = [*pip, "--disable-pip-version-check", "install", *REQUIREMENTS]
    subprocess.run(command, check=True, stdout=sys.stderr)  # noqa: S603, a command of ours
