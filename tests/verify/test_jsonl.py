"""`llmring-verify` on lines: of many receipts, or none, and in little memory."""

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmring_verify.jsonl import CHUNK, chunks
from llmring_verify.canonical_json import LARGEST
from tests.vectors.generate.good import good
from tests.vectors.generate.__main__ import FOLDER
from tests.vectors.generate.second_signer import ACTIVE, COMPROMISED, usage
from tests.verify.test_cli import PROGRAM
from tests.support.verify_cli import KEYS, run


def test_of_many_receipts_it_names_those_that_fail(tmp_path: Path) -> None:
    one = json.dumps(ACTIVE.seal(usage(1)))
    many = CHUNK // len(one)
    told = [one] * (2 * many + 100)
    told[many + 6] = json.dumps(COMPROMISED.seal(usage(2, signer=COMPROMISED)))
    told[2 * many : 2 * many + 2] = ["", "{}"]
    (tmp_path / "many.jsonl").write_text("\n".join(told))
    command = (PROGRAM, *KEYS, tmp_path / "many.jsonl")
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f'line {many + 7}": NOT VERIFIED\n  Wrong: key {COMPROMISED.kid} is comp' in done.stdout
    assert f'line {2 * many + 2}": NOT VERIFIED' in done.stdout
    assert f"{len(told) - 3} of {len(told) - 1} receipts.\n" in done.stdout


@pytest.mark.parametrize("end", ["", "\n", "\n\n", " \r\n\t"])
def test_a_blank_line_is_nothing(end: str, tmp_path: Path) -> None:
    for name in ("receipts.jsonl", "calls.jsonl"):
        (tmp_path / name).write_text((FOLDER / name).read_text() + end)
    code, told = run(tmp_path / "receipts.jsonl", *KEYS)
    assert (code, "trust: 3 of 3 receipts." in told) == (0, True)
    assert run("export", tmp_path / "calls.jsonl", tmp_path / "receipts.jsonl", *KEYS)[0] == 0


class Long(io.BytesIO):
    """A file that is never asked for more than the longest line."""

    def readline(self, size: int | None = -1, /) -> bytes:
        assert size == LARGEST + 1
        return super().readline(size)

    def __next__(self) -> bytes:
        raise AssertionError


def test_few_lines_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for length in (100, CHUNK // 3, LARGEST, LARGEST + 9):
        data = (b"x" * (length - 1) + b"\n") * (3 * CHUNK // length + 3)
        found = list(chunks(Long(data)))
        assert all(sum(len(line) for _, line in each) <= CHUNK + LARGEST for each in found)
        some = [line for each in found for line in each]
        assert [number for number, _ in some] == list(range(1, len(some) + 1))
        assert b"".join(line for _, line in some) == data
        assert len(found) > 1
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Long(b" " * LARGEST + b"{}\n")))
    code, told = run("export", "calls.jsonl", "-", *KEYS)
    assert (code, "longer than 16 MiB" in told) == (1, True)


def test_it_reads_lines_from_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def given(data: bytes) -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return run("-", *KEYS)

    assert given((FOLDER / "receipts.jsonl").read_bytes())[0] == 0
    assert given(b"")[0] == 2
    assert given(b"\n \n")[0] == 2
    assert given(json.dumps(good()["usage"]).encode())[0] == 0
