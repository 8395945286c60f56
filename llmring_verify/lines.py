"""Receipts as JSON lines: each is checked, and only those that fail are told one by one."""

from collections.abc import Iterator
from functools import cache, partial
from typing import BinaryIO, NamedTuple

from llmring_verify.keys import read
from llmring_verify.jsonl import Lines, chunks, spread
from llmring_verify.canonical_json import Refused, Unchecked, parse
from llmring_verify.verify import receipt


class Checked(NamedTuple):
    """Some lines: how many there are, and what is wrong with which, by number."""

    size: int
    failures: list[tuple[int, Refused | Unchecked]]


_keys = cache(read)


def _check(keys: bytes, lines: Lines) -> Checked:
    trusted, failures = _keys(keys), []
    for number, line in lines:
        try:
            receipt(parse(line), trusted)
        except (Refused, Unchecked) as exc:
            failures.append((number, exc))
    return Checked(len(lines), failures)


def check(keys: bytes, file: BinaryIO) -> Iterator[Checked]:
    """Check each line against the keys of this document."""
    return spread(partial(_check, keys), chunks(file))
