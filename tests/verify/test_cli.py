"""The command `llmring-verify`: exit codes, text, JSON, and failures to write."""

import json
import os
import subprocess
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest

from llmring_verify import jsonl
from tests.support.verify_cli import KEYS, PROGRAM, run
from tests.vectors.generate.files import FOLDER
from tests.vectors.generate.good import good
from tests.vectors.generate.second_signer import ACTIVE

EXIT_CODES = [
    (0, "good/usage.json"),
    (0, "good/usage.json", "good/old.json", "good/answer-generate.json"),
    (0, "receipts.jsonl"),
    (0, "proof", "good/proof-of-the-last.json"),
    (0, "export", "calls.jsonl", "receipts.jsonl"),
    (1, "bad/altered-amount.json"),
    (1, "good/usage.json", "bad/altered-amount.json"),
    (1, "bad/key-unknown.json", "bad/altered-amount.json"),
    (1, "good/proof-of-the-last.json"),
    (1, "proof", "good/usage.json"),
    (1, "proof", "bad/proof-in-another-place.json", "good/proof-of-the-last.json"),
    (1, "export", "calls.jsonl", "good/usage.json"),
    (1, "export", "calls.jsonl", "receipts.jsonl", "bad/altered-amount.json"),
    (1, "export", "calls-later.jsonl", "receipts.jsonl"),
    (2, "bad/key-unknown.json"),
    (2, "no-such-file.json"),
    (2, "good"),
    (2, "export", "receipts.jsonl", "receipts.jsonl"),
    (2, "export", "no-such-file.jsonl", "receipts.jsonl"),
    (2, "export", "calls.jsonl", "no-such-file.jsonl"),
    (2, "export", "calls.jsonl", "receipts.jsonl", "--earlier", "no-such-file.jsonl"),
    (2, "good/usage.json", "--no-such-option"),
    (2,),
]  # fmt: skip


@pytest.mark.parametrize("expected", EXIT_CODES, ids=lambda each: " ".join(map(str, each)))
def test_exit_codes(expected: tuple[Any, ...]) -> None:
    code, *arguments = expected
    assert run(*arguments, *KEYS)[0] == code


@pytest.mark.parametrize("keys", ["no-such-file.json", "good/usage.json", "bad/json-cut-off.json"])
def test_a_missing_or_invalid_key_file_is_reported(keys: str) -> None:
    code, output = run("good/usage.json", "--keys", keys)
    assert code == 2
    assert f'"{keys}": CANNOT VERIFY' in output
    assert run("good/usage.json")[0] == 2


def test_reports_state_what_is_proved_and_what_is_not() -> None:
    assert "\n  1 call from 20" in run("good/batch-of-one.json", *KEYS)[1]
    assert "a batch of 1 call." in run("proof", "good/proof-of-the-only.json", *KEYS)[1]
    _, output = run("good/batch-of-three.json", *KEYS)
    assert f"Key {ACTIVE.kid} signed receipt" in output
    assert "3 calls from" in output
    assert ", 1 unpriced." in output
    for limit in (
        "the client reported them",
        "the issuer states the time",
        "no public log",
        "which calls",
    ):
        assert "Not proved: " in output
        assert limit in output
    assert "unpriced" in run("good/usage-unpriced.json", *KEYS)[1]
    # Control characters in a receipt do not reach the terminal.
    _, output = run("good/usage-strange-text.json", *KEYS)
    assert "\\u0001" in output
    assert output.isascii()


def test_json_output() -> None:
    _, output = run(
        "good/usage.json", "bad/altered-amount.json", "bad/key-unknown.json", "--json", *KEYS
    )
    found = [json.loads(line) for line in output.splitlines()]
    assert [each["outcome"] for each in found] == ["verified", "not_verified", "cannot_verify"]
    assert [bool(each["proved"]) for each in found] == [True, False, False]
    assert [bool(each["errors"]) for each in found] == [False, True, True]
    signed = [each.get("receipt") for each in found]
    assert signed == [good()["usage"]["receipt"], None, None]
    output = json.loads(run("proof", "good/proof-of-the-last.json", "--json", *KEYS)[1])
    assert output["call"] == good()["proof-of-the-last"]["call"]


def test_control_characters_in_file_names_are_quoted(tmp_path: Path) -> None:
    for name in ("a.json: VERIFIED\n  x", "\x1b[2K.json", "\udcff.jsonl"):
        (tmp_path / name).write_bytes(b"{}\n")
        for command in ((tmp_path / name,), ("export", "calls.jsonl", tmp_path / name)):
            code, output = run(*command, *KEYS)
            assert (code, output.isascii(), "\x1b" in output, "\n  x" in output) == (
                1,
                True,
                False,
                False,
            )


FULL = Path("/dev/full")


@pytest.mark.slow
@pytest.mark.parametrize("keys", ["keys.json", "no-such-file.json"])
def test_output_that_cannot_be_written(keys: str) -> None:
    command = [str(PROGRAM), *["good/usage.json"] * 1000, "--keys", keys]
    reading, writing = os.pipe()
    os.close(reading)
    with FULL.open("wb") as full, os.fdopen(writing, "wb") as pipe:
        for out in (full, pipe):
            for output in (subprocess.PIPE, out):
                done = subprocess.run(
                    command, cwd=FOLDER, stdout=out, stderr=output, check=False, timeout=60
                )
                assert done.returncode == 2
                assert b"Traceback" not in (done.stderr or b"")
    verified = 0 if keys == "keys.json" else 2
    for closed, code in ((">&-", verified), (">/dev/full 2>&-", 2), (">&- 2>&-", verified)):
        shell = ["/bin/sh", "-c", f'"$@" {closed}', "sh", *command]
        done = subprocess.run(shell, cwd=FOLDER, check=False, capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (code, b"")


def test_a_worker_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise BrokenExecutor("killed")

    monkeypatch.setattr(jsonl, "verify_lines", die)
    code, output = run("receipts.jsonl", *KEYS)
    assert (code, "killed" in output) == (2, True)
