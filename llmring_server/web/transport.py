"""What our protocol writes to: no answer is lost on its way."""

import asyncio
from collections.abc import Callable
from typing import Any

# How long a client that is refused in the middle of a sentence may take to hear it.
LINGER = 1.0


class Lingering:
    """A transport that closes when who is still talking has had time to hear the answer."""

    def __init__(self, transport: asyncio.Transport, is_talking: Callable[[], bool]) -> None:
        self._transport = transport
        self._is_talking = is_talking
        self.is_closing = transport.is_closing
        self._loop = asyncio.get_running_loop()
        self.write = transport.write

    def close(self) -> None:
        """Close now, or, while the client is still talking, when it has had time to hear us.

        To close on what is unread resets the connection, and the client may lose its answer.
        """
        if self.is_closing():
            return
        if not self._is_talking():
            self._transport.close()
            return
        self.is_closing = lambda: True
        self.write = lambda data: None  # noqa: ARG005, its name
        self._transport.pause_reading()
        self._transport.write_eof()
        self._loop.call_later(LINGER, self._transport.close)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
