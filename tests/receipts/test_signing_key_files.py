"""The file of the keys of receipts: what is given up, who may read it, and who writes at once."""

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llmring_server.receipts import signing_keys
from llmring_server.receipts.signing_keys import SigningKeyError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    signing_keys.create_key_file(tmp_path / "keys.json")
    return tmp_path / "keys.json"


def test_a_thief_of_the_file_has_no_key_that_is_trusted(path: Path) -> None:
    signing_keys.rotate_key_file(path)
    stolen = {key.kid for key in signing_keys.read_key_file(path).keys}
    fresh = signing_keys.compromise_key_file(path)
    assert fresh.kid not in stolen
    states = {key.kid: key.state for key in signing_keys.read_key_file(path).keys}
    assert states == dict.fromkeys(stolen, "compromised") | {fresh.kid: "active"}
    assert fresh.not_before
    assert fresh.not_before <= datetime.now(UTC)
    assert [key.kid for key in signing_keys.read_key_file(path).keys if key.d] == [fresh.kid]


def test_the_file_stays_its_owner_s_and_its_group_s(path: Path) -> None:
    owner = (12345, 23456) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    os.chown(path, *owner)
    path.chmod(0o640)
    signing_keys.rotate_key_file(path)
    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (*owner, 0o640)


def test_two_that_rotate_at_once_announce_one_key(path: Path) -> None:
    def rotate(_: int) -> str | None:
        try:
            return signing_keys.rotate_key_file(path).kid
        except SigningKeyError:
            return None

    with ThreadPoolExecutor(8) as threads:
        announced = [*filter(None, threads.map(rotate, range(32)))]
    assert announced == [
        key.kid for key in signing_keys.read_key_file(path).keys if key.state == "next"
    ]


def test_a_file_that_is_there_is_not_made_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    monkeypatch.setattr(Path, "exists", lambda _: False)
    with pytest.raises(SigningKeyError, match="already exists"):
        signing_keys.create_key_file(path)
    assert path.read_bytes() == before


def test_what_cannot_be_written_leaves_no_seeds(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError

    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError):  # noqa: PT011, any
        signing_keys.rotate_key_file(path)
    assert [each.read_bytes() for each in path.parent.iterdir() if each.read_bytes()] == [before]
