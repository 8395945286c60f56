"""Many lines, on all cores, in the memory of a few."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from itertools import chain, islice
from typing import BinaryIO, TypeVar

from llmring_verify.canonical_json import LARGEST

# Bytes, of which the last line may be more than all others.
CHUNK = 2**20

Line = tuple[int, bytes]
Lines = list[Line]
Made = TypeVar("Made")


def numbered(file: BinaryIO) -> Iterator[Line]:
    """Yield the lines that are not blank, from 1; one that is too long comes in pieces."""
    lines = iter(partial(file.readline, LARGEST + 1), b"")
    return ((number, line) for number, line in enumerate(lines, 1) if not line.isspace())


def chunks(file: BinaryIO) -> Iterator[Lines]:
    """Yield these lines, some at a time."""
    some: Lines = []
    size = 0
    for each in numbered(file):
        some.append(each)
        size += len(each[1])
        if size >= CHUNK:
            yield some
            some, size = [], 0
    if some:
        yield some


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
