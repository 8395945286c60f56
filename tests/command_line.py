"""The published client's command line, as a user types it."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from llmring_server import Server

Run = Callable[..., Awaitable[str]]


@pytest.fixture
def llmring(server: Server, key: str, tmp_path: Path) -> Run:
    """Run `llmring ...` in an empty home; return what it prints."""
    ours = {"HOME": str(tmp_path), "LLMRING_SERVER_URL": server.url, "LLMRING_API_KEY": key}

    async def run(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "llmring.cli", *arguments),
            cwd=tmp_path, env=os.environ | ours, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        printed, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, printed.decode()
        return printed.decode()

    return run
