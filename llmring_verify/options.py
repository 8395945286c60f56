"""What the command line takes."""

import argparse

_CODES = """exit codes:
  0  everything was verified
  1  something was not: it was altered, or signed by nobody you trust
  2  something could not be checked: a file or key is missing, the command is wrong,
     or what was found could not be written
"""


def _parser(name: str, about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"llmring-verify{name}",
        description=about,
        epilog=_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--keys", required=True, metavar="KEYS.json",
        help="the public keys that you trust: the issuer's keys.json or JWKS, as you saved it",
    )  # fmt: skip
    add("--json", action="store_true", help="a line of JSON for each finding")
    return parser


def receipts() -> argparse.ArgumentParser:
    parser = _parser(
        "",
        "Check receipts offline, with keys that you have pinned.\n"
        "`llmring-verify proof --help`: a single call of a batch.\n"
        "`llmring-verify export --help`: a whole export of calls against its receipts.",
    )
    parser.add_argument(
        "files", nargs="+", metavar="RECEIPT.json",
        help="a receipt, or a server's answer with one; in .jsonl and - (stdin), one on each line",
    )  # fmt: skip
    return parser


def proof() -> argparse.ArgumentParser:
    parser = _parser(" proof", "Check that a batch's receipt holds a call.")
    parser.add_argument("files", nargs="+", metavar="PROOF.json")
    return parser


def export() -> argparse.ArgumentParser:
    parser = _parser(" export", "Check an export of calls, in JSON lines, against its receipts.")
    add = parser.add_argument
    add("export", metavar="CALLS.jsonl", help="GET /api/v1/logs/export?format=jsonl, as saved")
    add("files", nargs="+", metavar="RECEIPT.json", help="its receipts; also many, in .jsonl")
    add(
        "--earlier", action="append", default=[], metavar="CALLS.jsonl",
        help="an export from before, or of one receipt's calls: tells which calls have changed",
    )  # fmt: skip
    return parser
