"""`llmring-verify` as an auditor uses it: what it says, and how it ends."""

import json
import os
import subprocess
import sys
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest

from llmring_verify import lines
from tests.good_vectors import good
from tests.make_vectors import FOLDER
from tests.second_signer import ACTIVE
from tests.verifying import KEYS, run

PROGRAM = Path(sys.executable).parent / "llmring-verify"


ENDINGS = [
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


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda each: " ".join(map(str, each)))
def test_how_it_ends(ending: tuple[Any, ...]) -> None:
    code, *arguments = ending
    assert run(*arguments, *KEYS)[0] == code


@pytest.mark.parametrize("keys", ["no-such-file.json", "good/usage.json", "bad/json-cut-off.json"])
def test_without_keys_nothing_can_be_checked(keys: str) -> None:
    code, told = run("good/usage.json", "--keys", keys)
    assert code == 2
    assert f'"{keys}": UNCHECKED' in told
    assert run("good/usage.json")[0] == 2


def test_it_says_what_was_proved_and_what_was_not() -> None:
    assert "\n  1 call from 20" in run("good/batch-of-one.json", *KEYS)[1]
    assert "for a batch of 1 call." in run("proof", "good/proof-of-the-only.json", *KEYS)[1]
    _, told = run("good/batch-of-three.json", *KEYS)
    assert f"Key {ACTIVE.kid} signed receipt" in told
    assert "3 calls from" in told
    assert "and 1 of unknown price" in told
    for lack in (
        "that is their client's word",
        "the issuer's word",
        "no public log",
        "which calls",
    ):
        assert lack in told
    assert "of unknown price" in run("good/usage-unpriced.json", *KEYS)[1]
    # What others wrote cannot speak to the terminal.
    _, told = run("good/usage-strange-text.json", *KEYS)
    assert "\\u0001" in told
    assert told.isascii()


def test_it_speaks_json() -> None:
    _, told = run(
        "good/usage.json", "bad/altered-amount.json", "bad/key-unknown.json", "--json", *KEYS
    )
    found = [json.loads(line) for line in told.splitlines()]
    assert [each["outcome"] for each in found] == ["verified", "not verified", "unchecked"]
    assert [bool(each["proved"]) for each in found] == [True, False, False]
    assert [bool(each["wrong"]) for each in found] == [False, True, True]
    signed = [each.get("receipt") for each in found]
    assert signed == [good()["usage"]["receipt"], None, None]
    told = json.loads(run("proof", "good/proof-of-the-last.json", "--json", *KEYS)[1])
    assert told["call"] == good()["proof-of-the-last"]["call"]


def test_a_file_name_cannot_speak_for_it(tmp_path: Path) -> None:
    for name in ("a.json: VERIFIED\n  x", "\x1b[2K.json", "\udcff.jsonl"):
        (tmp_path / name).write_bytes(b"{}\n")
        for command in ((tmp_path / name,), ("export", "calls.jsonl", tmp_path / name)):
            code, told = run(*command, *KEYS)
            assert (code, told.isascii(), "\x1b" in told, "\n  x" in told) == (
                1,
                True,
                False,
                False,
            )


FULL = Path("/dev/full")


@pytest.mark.slow
@pytest.mark.parametrize("keys", ["keys.json", "no-such-file.json"])
def test_who_cannot_be_told_is_told_nothing_wrong(keys: str) -> None:
    command = [str(PROGRAM), *["good/usage.json"] * 1000, "--keys", keys]
    reading, writing = os.pipe()
    os.close(reading)
    with FULL.open("wb") as full, os.fdopen(writing, "wb") as pipe:
        for out in (full, pipe):
            for told in (subprocess.PIPE, out):
                done = subprocess.run(
                    command, cwd=FOLDER, stdout=out, stderr=told, check=False, timeout=60
                )
                assert done.returncode == 2
                assert b"Traceback" not in (done.stderr or b"")
    verified = 0 if keys == "keys.json" else 2
    for closed, code in ((">&-", verified), (">/dev/full 2>&-", 2), (">&- 2>&-", verified)):
        shell = ["/bin/sh", "-c", f'"$@" {closed}', "sh", *command]
        done = subprocess.run(shell, cwd=FOLDER, check=False, capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (code, b"")


def test_a_worker_that_dies_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise BrokenExecutor("killed")

    monkeypatch.setattr(lines, "check", die)
    code, told = run("receipts.jsonl", *KEYS)
    assert (code, "killed" in told) == (2, True)
