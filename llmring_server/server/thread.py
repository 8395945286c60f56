"""A server in a thread: for programs that have no event loop, such as those with a GUI."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager
from threading import Lock, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from llmring_server.ring import ReloadedSettings, Ring
from llmring_server.settings import Settings

if TYPE_CHECKING:
    from llmring_server.server.in_process import Server

Result = TypeVar("Result")

STOPPED = "The server has been stopped."


class ServerThread:
    """A running server. Every method may be called from any thread but the server's own.

    The thread does not keep a program alive. Calls that the server has acknowledged are committed,
    also if the program ends without `stop`.
    """

    def __init__(self, open_server: Callable[[], AbstractAsyncContextManager["Server"]]) -> None:
        self._open_server = open_server
        # None before the loop runs, and from when it takes no more work.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = Lock()
        self._stop_timeout: float | None = None
        self._started: Future[Server] = Future()
        self._ended: Future[None] = Future()
        self._thread = Thread(target=self._run, name="llmring-server", daemon=True)
        self._thread.start()
        try:
            self._server = self._started.result()
        except BaseException:
            # Either it has failed, or this thread is interrupted.
            self._request_stop(0)
            if self._started.done():
                self._thread.join()
            raise
        self.url = self._server.url

    @property
    def ring(self) -> Ring:
        """The ring that is served, for `run`."""
        return self._server.ring

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do work on the ring in the server's thread: `run(server.ring.usage.log(...))`."""
        with self._lock:
            # Before the loop has taken its last work; what it has then, it finishes or cancels.
            if self._loop is None:
                work.close()
                raise RuntimeError(STOPPED)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            if self._loop is None:
                raise RuntimeError(STOPPED) from None
            raise

    def reload(self, settings: Settings) -> ReloadedSettings:
        """Take over the settings that may change while the server runs: see `Ring.reload`."""

        async def reload() -> ReloadedSettings:
            return self._server.reload(settings)

        return self.run(reload())

    def stop(self, timeout: float | None = None) -> None:
        """Stop as `Server.stop` does, close the database, and wait until the thread has ended."""
        self._request_stop(timeout)
        self._thread.join()
        self._ended.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _request_stop(self, timeout: float | None) -> None:
        def request() -> None:
            self._stop_timeout = timeout
            self._stopping.set()

        with self._lock:
            # After the loop has ended, there is nothing to stop.
            if self._loop is not None:
                self._loop.call_soon_threadsafe(request)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as exc:  # noqa: BLE001, raised in the thread that waits
            waiting = self._ended if self._started.done() else self._started
            waiting.set_exception(exc)
        else:
            self._ended.set_result(None)

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        try:
            async with self._open_server() as server:
                self._started.set_result(server)
                await self._stopping.wait()
                await server.stop(self._stop_timeout)
        finally:
            with self._lock:
                self._loop = None
            # Work that was given last has become a task after this, and asyncio.run cancels it.
            await asyncio.sleep(0)
