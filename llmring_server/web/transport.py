"""What our protocol writes to: one write an answer, and no answer that is lost on its way."""

import asyncio
from collections.abc import Callable
from typing import Any

# How long a client that is refused in the middle of a sentence may take to hear it.
LINGER = 1.0

# What begins and ends so has no body yet: an answer that is whole goes by.
_HEAD, _END = b"HTTP/1.1 ", b"\r\n\r\n"


class Joining:
    """A transport that keeps the head of an answer until its body is written, in this turn.

    uvicorn writes them apart, and each write is a system call: an eighth of a whole request.
    """

    def __init__(self, transport: asyncio.Transport, is_talking: Callable[[], bool]) -> None:
        self._transport = transport
        self._is_talking = is_talking
        self.is_closing = transport.is_closing
        self._loop = asyncio.get_running_loop()
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD) and data.endswith(_END):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Close now, or, while the client is still talking, when it has had time to hear us.

        To close on what is unread resets the connection, and the client may lose its answer.
        """
        if self.is_closing():
            return
        self._flush()
        if not self._is_talking():
            self._transport.close()
            return
        self.is_closing = lambda: True
        self.write = lambda data: None  # type: ignore[method-assign]  # noqa: ARG005, its name
        self._transport.pause_reading()
        self._transport.write_eof()
        self._loop.call_later(LINGER, self._transport.close)

    def _flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
