"""`llmring-verify`: checks receipts, single calls and whole exports, offline."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, NoReturn, TextIO

from llmring_verify import lines, options, verify, words
from llmring_verify.export_check import Audit, finding
from llmring_verify.keys import read
from llmring_verify.ledger import Ledger, load
from llmring_verify.jsonl import numbered
from llmring_verify.canonical_json import LARGEST, Refused, Unchecked, parse
from llmring_verify.verify import Keys
from llmring_verify.report import Finding, Outcome, failure

Findings = Iterator[Finding]


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        with Path(name).open("rb") as file:
            yield file
    except OSError as exc:
        raise Unchecked(f"it cannot be read: {exc.strerror}") from None


def _read(name: str) -> bytes:
    with _opened(name) as file:
        return file.read(LARGEST + 1)


def _is_lines(name: str) -> bool:
    return name == "-" or name.endswith(".jsonl")


def _told(name: str, check: Callable[[], Iterable[Finding]]) -> Findings:
    """Yield what is found; and why no more is, if so."""
    try:
        yield from check()
    except (Refused, Unchecked) as exc:
        yield failure(name, exc)


def _one(name: str, keys: Keys) -> Findings:
    yield words.of_receipt(name, verify.receipt(parse(_read(name)), keys))


def _many(name: str, keys: bytes) -> Findings:
    size, outcomes = 0, [Outcome.VERIFIED]
    with _opened(name) as file:
        for checked in lines.check(keys, file):
            for number, error in checked.failures:
                found = failure(f"{name}, line {number}", error)
                outcomes.append(found.outcome)
                yield found
            size += checked.size
    if not size:
        raise Unchecked("it holds no receipt")
    yield words.of_many(name, size, size + 1 - len(outcomes), worst(outcomes))


def receipts(given: argparse.Namespace, keys: bytes) -> Findings:
    trusted = read(keys)
    for name in given.files:
        yield from _told(
            name, partial(_many, name, keys) if _is_lines(name) else partial(_one, name, trusted)
        )


def _proof(name: str, keys: Keys) -> Findings:
    yield words.of_proof(name, *verify.proof(parse(_read(name)), keys))


def proof(given: argparse.Namespace, keys: bytes) -> Findings:
    trusted = read(keys)
    for name in given.files:
        yield from _told(name, partial(_proof, name, trusted))


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except (Refused, Unchecked) as exc:
        raise type(exc)(f"{words.shown(name)}: {exc}") from None


def _load(name: str) -> Ledger:
    with _naming(name), _opened(name) as file:
        return load(file)


def _documents(name: str) -> Iterator[tuple[str, bytes]]:
    if not _is_lines(name):
        yield name, _read(name)
        return
    with _opened(name) as file:
        yield from ((f"{name}, line {number}", line) for number, line in numbered(file))


def _add(audit: Audit, name: str, keys: Keys) -> Findings:
    for about, data in _documents(name):
        try:
            audit.add(verify.receipt(parse(data), keys))
        except (Refused, Unchecked) as exc:
            yield failure(about, exc)


def _audit(given: argparse.Namespace, keys: Keys) -> Findings:
    audit = Audit(_load(given.export), [_load(each) for each in given.earlier])
    for name in given.files:
        with _naming(name):
            yield from _add(audit, name, keys)
    audit.close()
    yield finding(given.export, audit)


def export(given: argparse.Namespace, keys: bytes) -> Findings:
    yield from _told(given.export, partial(_audit, given, read(keys)))


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    found = set(outcomes)
    order = (Outcome.NOT_VERIFIED, Outcome.UNCHECKED)
    return next((each for each in order if each in found), Outcome.VERIFIED)


COMMANDS = {"proof": (options.proof, proof), "export": (options.export, export)}


def _findings(
    given: argparse.Namespace, check: Callable[[argparse.Namespace, bytes], Findings]
) -> Findings:
    yield from _told(str(given.keys), lambda: check(given, _read(given.keys)))


def _writable(out: TextIO | None) -> TextIO:
    """Return where to write; to None, which was closed before we began, nothing is told."""
    return out or io.StringIO()


def _run(told: Sequence[str]) -> Outcome:
    name, *rest = told or [""]
    parser, check = COMMANDS.get(name, (options.receipts, receipts))
    given = parser().parse_args(rest if name in COMMANDS else told)
    out, outcomes = _writable(sys.stdout), []
    for each in _findings(given, check):
        outcomes.append(each.outcome)
        out.write(f"{each.json() if given.json else each.plain()}\n")
    out.flush()
    return worst(outcomes)


def _given_up(error: Exception) -> Outcome:
    with suppress(OSError):
        _writable(sys.stderr).write(f"llmring-verify: this could not be finished: {error!r}\n")
    try:
        _writable(sys.stdout).flush()
    except OSError:
        # Python would try again as it ends, and then choose an exit code of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Outcome.UNCHECKED


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    try:
        outcome = _run(sys.argv[1:] if arguments is None else arguments)
    except (OSError, MemoryError, BrokenExecutor) as exc:
        outcome = _given_up(exc)
    sys.exit(outcome)
