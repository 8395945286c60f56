"""Workers: the processes of `serve --workers`, which end with the process that started them.

uvicorn documents none of what `Workers` builds on: `Multiprocess.sockets`, `processes` (with
`child_conn`), `terminate_all` and `keep_subprocess_alive`. `tests/server/test_workers.py` fails if
one of them is missing.
"""

import os
import signal
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection

from uvicorn.supervisors import Multiprocess

# After this time, a worker without its parent ends although it still has requests. Longer than a
# server takes to finish its requests.
GRACE_SECONDS = 20.0


class Workers(Multiprocess):
    """uvicorn's supervisor of several server processes."""

    def terminate_all(self) -> None:
        # This process has the socket, too. As long as it is open, the system accepts connections
        # that no worker would serve.
        for sock in self.sockets:
            sock.close()
        super().terminate_all()

    def keep_subprocess_alive(self) -> None:
        # This process has the worker's end of the pipe, too. As long as it is open, a ping to a
        # worker that is ending waits until its time limit, and nothing replaces the worker.
        for process in self.processes:
            process.child_conn.close()
        super().keep_subprocess_alive()


def end_with_parent(parent: Connection) -> None:
    """End this process when the other end of a pipe is closed, which its parent holds.

    The system closes it however the parent ends, also before this process has begun to wait.
    """
    threading.Thread(
        target=_wait_for_parent_and_end, args=(parent,), name="parent", daemon=True
    ).start()


def _wait_for_parent_and_end(parent: Connection) -> None:
    with suppress(EOFError, OSError):
        parent.recv_bytes()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)
