"""The published client's command line, as a user types it."""

import asyncio
import gc
import io
import os
import sys
import warnings
from collections.abc import Awaitable, Callable
from contextlib import chdir, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest
from llmring import cli  # type: ignore[import-untyped]

from llmring_server import Server

Run = Callable[..., Awaitable[str]]


@pytest.fixture
def llmring(server: Server, key: str, tmp_path: Path) -> Run:
    """Run `llmring ...` in this process, with an empty home directory; return its output."""
    ours = {"HOME": str(tmp_path), "LLMRING_SERVER_URL": server.url, "LLMRING_API_KEY": key}

    def main(arguments: tuple[str, ...]) -> str:
        printed = io.StringIO()
        with (
            chdir(tmp_path),
            patch.dict(os.environ, ours),
            patch.object(sys, "argv", ["llmring", *arguments]),
            redirect_stdout(printed),
            warnings.catch_warnings(),
        ):
            # The command leaves its connections open until its process ends.
            warnings.simplefilter("ignore", ResourceWarning)
            status = cli.main()
            gc.collect()
        assert not status, printed.getvalue()
        return printed.getvalue()

    async def run(*arguments: str) -> str:
        # In a thread: the client starts an event loop, and the server runs in that of the test.
        return await asyncio.wait_for(asyncio.to_thread(main, arguments), 60)

    return run
