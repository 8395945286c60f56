"""`llmring-verify` on JSON lines: many receipts, none, blank lines, and bounded memory."""

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmring_verify.canonical_json import MAX_DOCUMENT_BYTES
from llmring_verify.jsonl import CHUNK_BYTES, chunks
from tests.support.verify_cli import KEYS, PROGRAM, run
from tests.vectors.generate.files import FOLDER
from tests.vectors.generate.good import good
from tests.vectors.generate.second_signer import ACTIVE, COMPROMISED, usage


def test_failures_are_reported_by_line(tmp_path: Path) -> None:
    one = json.dumps(ACTIVE.envelope(usage(1)))
    many = CHUNK_BYTES // len(one)
    lines = [one] * (2 * many + 100)
    lines[many + 6] = json.dumps(COMPROMISED.envelope(usage(2, signer=COMPROMISED)))
    lines[2 * many : 2 * many + 2] = ["", "{}"]
    (tmp_path / "many.jsonl").write_text("\n".join(lines))
    command = (PROGRAM, *KEYS, tmp_path / "many.jsonl")
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f'line {many + 7}": NOT VERIFIED\n  Error: key {COMPROMISED.kid} is comp' in done.stdout
    assert f'line {2 * many + 2}": NOT VERIFIED' in done.stdout
    assert f"{len(lines) - 3} of {len(lines) - 1} receipts.\n" in done.stdout


@pytest.mark.parametrize("end", ["", "\n", "\n\n", " \r\n\t"])
def test_blank_lines_are_skipped(end: str, tmp_path: Path) -> None:
    for name in ("receipts.jsonl", "calls.jsonl"):
        (tmp_path / name).write_text((FOLDER / name).read_text() + end)
    code, lines = run(tmp_path / "receipts.jsonl", *KEYS)
    assert (code, "trusted keys: 3 of 3 receipts." in lines) == (0, True)
    assert run("export", tmp_path / "calls.jsonl", tmp_path / "receipts.jsonl", *KEYS)[0] == 0


class LimitedReads(io.BytesIO):
    """A file that must be read line by line, with a limit on the length of a line."""

    def readline(self, size: int | None = -1, /) -> bytes:
        assert size == MAX_DOCUMENT_BYTES + 1
        return super().readline(size)

    def __next__(self) -> bytes:
        raise AssertionError


def test_chunks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for length in (100, CHUNK_BYTES // 3, MAX_DOCUMENT_BYTES, MAX_DOCUMENT_BYTES + 9):
        data = (b"x" * (length - 1) + b"\n") * (3 * CHUNK_BYTES // length + 3)
        found = list(chunks(LimitedReads(data)))
        assert all(
            sum(len(line) for _, line in each) <= CHUNK_BYTES + MAX_DOCUMENT_BYTES for each in found
        )
        some = [line for each in found for line in each]
        assert [number for number, _ in some] == list(range(1, len(some) + 1))
        assert b"".join(line for _, line in some) == data
        assert len(found) > 1
    monkeypatch.setattr(
        sys, "stdin", SimpleNamespace(buffer=LimitedReads(b" " * MAX_DOCUMENT_BYTES + b"{}\n"))
    )
    code, lines = run("export", "calls.jsonl", "-", *KEYS)
    assert (code, "longer than 16 MiB" in lines) == (1, True)


def test_receipts_are_read_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    def given(data: bytes) -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return run("-", *KEYS)

    assert given((FOLDER / "receipts.jsonl").read_bytes())[0] == 0
    assert given(b"")[0] == 2
    assert given(b"\n \n")[0] == 2
    assert given(json.dumps(good()["usage"]).encode())[0] == 0
