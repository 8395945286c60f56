"""Workers: what `server/workers.py` takes from uvicorn, which does not document it."""

import inspect

from uvicorn.supervisors import multiprocess

from llmring_server.server import workers
from llmring_server.server.workers import Workers


def test_the_private_names_of_uvicorn_are_those_that_are_documented() -> None:
    overridden = vars(Workers).keys() & vars(multiprocess.Multiprocess).keys()
    assert {name for name in overridden if not name.startswith("__")} == {
        "keep_subprocess_alive",
        "terminate_all",
    }
    for name in ("keep_subprocess_alive", "terminate_all", "sockets", "processes", "child_conn"):
        assert f"`{name}`" in str(workers.__doc__).replace("Multiprocess.", "")


def test_uvicorn_has_the_names_that_are_used() -> None:
    for name in ("keep_subprocess_alive", "terminate_all"):
        method = getattr(multiprocess.Multiprocess, name)
        assert [*inspect.signature(method).parameters] == ["self"]
    for name in ("sockets", "processes"):
        assert f"self.{name}" in inspect.getsource(multiprocess.Multiprocess.__init__)
    for name in ("parent_conn", "child_conn"):
        assert f"self.{name}" in inspect.getsource(multiprocess.Process.__init__)
