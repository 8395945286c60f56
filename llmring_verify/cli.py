"""The command `llmring-verify`: check receipts, proofs and exports offline."""

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

from llmring_verify import jsonl
from llmring_verify.canonical_json import MAX_DOCUMENT_BYTES, CannotVerify, NotVerified, parse
from llmring_verify.export_check import ExportCheck, ExportIndex
from llmring_verify.keys import read_keys
from llmring_verify.report import (
    Outcome,
    Report,
    failure_report,
    jsonl_report,
    proof_report,
    quoted,
    receipt_report,
)
from llmring_verify.verify import TrustedKeys, verify_proof, verify_receipt

Reports = Iterator[Report]
Command = Callable[[argparse.Namespace, bytes], Reports]

_EXIT_CODES = """exit codes:
  0  everything was verified
  1  something is not genuine: it was altered, or none of your trusted keys signed it
  2  something could not be checked: a file or a key is missing, the arguments are wrong,
     or the report could not be written
"""


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"llmring-verify {command}".rstrip(),
        description=description,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--keys",
        required=True,
        metavar="KEYS.json",
        help="the public keys that you trust: the issuer's public-keys.json or JWKS, saved as file",
    )
    parser.add_argument("--json", action="store_true", help="print each result as a line of JSON")
    return parser


def _receipts_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "",
        "Verify receipts offline with public keys that you trust.\n\n"
        "Other commands:\n"
        "  llmring-verify proof --help   verify that a batch contains a single call\n"
        "  llmring-verify export --help  check an export of calls against its receipts",
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="RECEIPT.json",
        help="a receipt, or a server's response that contains one;"
        " .jsonl files and - (stdin) have one on each line",
    )
    return parser


def _proof_parser() -> argparse.ArgumentParser:
    parser = _parser("proof", "Verify that the batch of a receipt contains a call.")
    parser.add_argument(
        "files",
        nargs="+",
        metavar="PROOF.json",
        help="a response of GET /api/v1/receipts/{id}/proof/{log_id}, saved as file",
    )
    return parser


def _export_parser() -> argparse.ArgumentParser:
    parser = _parser("export", "Check an export of calls in JSON lines against its receipts.")
    parser.add_argument(
        "export",
        metavar="CALLS.jsonl",
        help="the response of GET /api/v1/logs/export?format=jsonl, saved as file",
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="RECEIPT.json",
        help="the receipts; .jsonl files have one on each line",
    )
    parser.add_argument(
        "--earlier",
        action="append",
        default=[],
        metavar="CALLS.jsonl",
        help="an earlier export, or an export of the calls of one receipt:"
        " shows which calls have changed. The option may be repeated, for several files",
    )
    return parser


@contextmanager
def _open(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        with Path(name).open("rb") as file:
            yield file
    except OSError as exc:
        raise CannotVerify(f"the file cannot be read: {exc.strerror}") from None


def _read(name: str) -> bytes:
    with _open(name) as file:
        return file.read(MAX_DOCUMENT_BYTES + 1)


def _is_jsonl(name: str) -> bool:
    return name == "-" or name.endswith(".jsonl")


def _reports_or_failure(source: str, check: Callable[[], Iterable[Report]]) -> Reports:
    """Yield the reports of a check, and a report of the failure that ends it."""
    try:
        yield from check()
    except (NotVerified, CannotVerify) as exc:
        yield failure_report(source, exc)


def _verify_receipts(arguments: argparse.Namespace, key_file: bytes) -> Reports:
    keys = read_keys(key_file)
    for name in arguments.files:
        if _is_jsonl(name):
            yield from _reports_or_failure(name, partial(_verify_jsonl, name, key_file))
        else:
            yield from _reports_or_failure(name, partial(_verify_receipt, name, keys))


def _verify_receipt(name: str, keys: TrustedKeys) -> Reports:
    yield receipt_report(name, verify_receipt(parse(_read(name)), keys))


def _verify_jsonl(name: str, key_file: bytes) -> Reports:
    size, failures = 0, 0
    outcomes = {Outcome.VERIFIED}
    with _open(name) as file:
        for result in jsonl.verify_lines(key_file, file):
            size += result.size
            failures += len(result.failures)
            for number, error in result.failures:
                report = failure_report(f"{name}, line {number}", error)
                outcomes.add(report.outcome)
                yield report
    if not size:
        raise CannotVerify("the file contains no receipt")
    yield jsonl_report(name, size, size - failures, _worst(outcomes))


def _verify_proofs(arguments: argparse.Namespace, key_file: bytes) -> Reports:
    keys = read_keys(key_file)
    for name in arguments.files:
        yield from _reports_or_failure(name, partial(_verify_proof, name, keys))


def _verify_proof(name: str, keys: TrustedKeys) -> Reports:
    yield proof_report(name, *verify_proof(parse(_read(name)), keys))


def _verify_export(arguments: argparse.Namespace, key_file: bytes) -> Reports:
    check = partial(_check_export, arguments, read_keys(key_file))
    yield from _reports_or_failure(arguments.export, check)


def _check_export(arguments: argparse.Namespace, keys: TrustedKeys) -> Reports:
    export = _read_export(arguments.export)
    check = ExportCheck(export, [_read_export(name) for name in arguments.earlier])
    for name in arguments.files:
        with _naming_file(name):
            yield from _add_receipts(check, name, keys)
    check.finish()
    yield check.report(arguments.export)


def _read_export(name: str) -> ExportIndex:
    with _naming_file(name), _open(name) as file:
        return ExportIndex.read(file)


@contextmanager
def _naming_file(name: str) -> Iterator[None]:
    """Prefix the messages of errors with the name of a file."""
    try:
        yield
    except (NotVerified, CannotVerify) as exc:
        raise type(exc)(f"{quoted(name)}: {exc}") from None


def _add_receipts(check: ExportCheck, name: str, keys: TrustedKeys) -> Reports:
    """Add the receipts of a file, and report those that are not genuine."""
    for source, data in _documents(name):
        try:
            check.add(verify_receipt(parse(data), keys))
        except (NotVerified, CannotVerify) as exc:
            yield failure_report(source, exc)


def _documents(name: str) -> Iterator[tuple[str, bytes]]:
    if not _is_jsonl(name):
        yield name, _read(name)
        return
    with _open(name) as file:
        for number, line in jsonl.numbered_lines(file):
            yield f"{name}, line {number}", line


def _worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return NOT_VERIFIED before CANNOT_VERIFY before VERIFIED."""
    found = set(outcomes)
    for outcome in (Outcome.NOT_VERIFIED, Outcome.CANNOT_VERIFY):
        if outcome in found:
            return outcome
    return Outcome.VERIFIED


def _run(arguments: Sequence[str]) -> Outcome:
    first, *others = arguments or [""]
    command: Command
    if first == "proof":
        command, parsed = _verify_proofs, _proof_parser().parse_args(others)
    elif first == "export":
        command, parsed = _verify_export, _export_parser().parse_args(others)
    else:
        command, parsed = _verify_receipts, _receipts_parser().parse_args(arguments)
    out = _or_discard(sys.stdout)
    outcomes = []
    for report in _reports_or_failure(parsed.keys, lambda: command(parsed, _read(parsed.keys))):
        outcomes.append(report.outcome)
        out.write(f"{report.json() if parsed.json else report.text()}\n")
    out.flush()
    return _worst(outcomes)


def _or_discard(stream: TextIO | None) -> TextIO:
    """Return the stream, or one that discards everything if it was closed before we started."""
    return stream or io.StringIO()


def _give_up(error: Exception) -> Outcome:
    with suppress(OSError):
        _or_discard(sys.stderr).write(f"llmring-verify: could not finish: {error!r}\n")
    try:
        _or_discard(sys.stdout).flush()
    except OSError:
        # Python would flush again on exit, fail, and set its own exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Outcome.CANNOT_VERIFY


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    try:
        outcome = _run(sys.argv[1:] if arguments is None else arguments)
    except (OSError, MemoryError, BrokenExecutor) as exc:
        outcome = _give_up(exc)
    sys.exit(outcome)
