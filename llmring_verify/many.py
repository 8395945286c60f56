"""Many lines, on all cores, in the memory of a few."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from itertools import chain, islice
from typing import BinaryIO, TypeVar

from llmring_verify.strict import LARGEST

CHUNK = 2000

Lines = list[bytes]
Made = TypeVar("Made")


def chunks(file: BinaryIO) -> Iterator[Lines]:
    """Yield the lines of a file, some at a time; one that is too long comes in pieces."""
    lines = iter(partial(file.readline, LARGEST + 1), b"")
    return iter(lambda: list(islice(lines, CHUNK)), [])


def spread(task: Callable[[Lines], Made], work: Iterator[Lines]) -> Iterator[Made]:
    """Yield what `task` makes of each, in order."""
    first = list(islice(work, 2))
    if len(first) > 1:
        yield from _in_processes(task, chain(first, work))
    else:
        yield from map(task, first)


def _in_processes(task: Callable[[Lines], Made], work: Iterable[Lines]) -> Iterator[Made]:
    cores = os.cpu_count() or 1
    waiting: deque[Future[Made]] = deque()
    with ProcessPoolExecutor(cores) as pool:
        for each in work:
            waiting.append(pool.submit(task, each))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
