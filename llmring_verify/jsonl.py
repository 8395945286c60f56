"""JSON lines: read files in chunks, process the chunks on all cores, and verify receipts so."""

import concurrent.futures
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from itertools import chain, islice
from typing import BinaryIO, NamedTuple, TypeVar

from llmring_verify.canonical_json import MAX_DOCUMENT_BYTES, CannotVerify, NotVerified, parse
from llmring_verify.keys import read_keys
from llmring_verify.verify import verify_receipt

# A chunk ends with the line that reaches this size.
CHUNK_BYTES = 2**20

NumberedLine = tuple[int, bytes]
Chunk = list[NumberedLine]
Result = TypeVar("Result")


def numbered_lines(file: BinaryIO) -> Iterator[NumberedLine]:
    """Yield the lines that are not blank, numbered from 1; a line that is too long is split."""
    lines = iter(partial(file.readline, MAX_DOCUMENT_BYTES + 1), b"")
    return ((number, line) for number, line in enumerate(lines, 1) if not line.isspace())


def chunks(file: BinaryIO) -> Iterator[Chunk]:
    """Yield the numbered lines of a file in chunks."""
    chunk: Chunk = []
    size = 0
    for number, line in numbered_lines(file):
        chunk.append((number, line))
        size += len(line)
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def map_in_processes(
    function: Callable[[Chunk], Result], work: Iterator[Chunk]
) -> Iterator[Result]:
    """Yield the results for the chunks in order. A single chunk is processed without a pool."""
    first = list(islice(work, 2))
    if len(first) > 1:
        yield from _map_in_pool(function, chain(first, work))
    else:
        yield from map(function, first)


def _map_in_pool(function: Callable[[Chunk], Result], work: Iterable[Chunk]) -> Iterator[Result]:
    cores = os.cpu_count() or 1
    pending: deque[concurrent.futures.Future[Result]] = deque()
    # Named in full, because `concurrent.futures` imports multiprocessing only at this access.
    with concurrent.futures.ProcessPoolExecutor(cores) as pool:
        for chunk in work:
            pending.append(pool.submit(function, chunk))
            if len(pending) > 2 * cores:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class ChunkResult(NamedTuple):
    """The result of verifying a chunk of receipts."""

    size: int
    # By line number.
    failures: list[tuple[int, NotVerified | CannotVerify]]


def verify_lines(key_file: bytes, file: BinaryIO) -> Iterator[ChunkResult]:
    """Verify a receipt on each line with the keys of a key file."""
    return map_in_processes(partial(_verify_chunk, key_file), chunks(file))


# Each process parses the key file once. The parsed keys cannot be pickled.
_read_keys_once = cache(read_keys)


def _verify_chunk(key_file: bytes, chunk: Chunk) -> ChunkResult:
    keys = _read_keys_once(key_file)
    failures: list[tuple[int, NotVerified | CannotVerify]] = []
    for number, line in chunk:
        try:
            verify_receipt(parse(line), keys)
        except (NotVerified, CannotVerify) as exc:
            failures.append((number, exc))
    return ChunkResult(len(chunk), failures)
