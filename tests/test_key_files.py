"""The file of the keys of receipts: what is given up, who may read it, and who writes at once."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from llmring_server import keyfile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    keyfile.create(tmp_path / "keys.json")
    return tmp_path / "keys.json"


def test_a_thief_of_the_file_has_no_key_that_is_trusted(path: Path) -> None:
    keyfile.rotate(path)
    stolen = {key.kid for key in keyfile.read(path).keys}
    fresh = keyfile.compromise(path)
    assert fresh.kid not in stolen
    states = {key.kid: key.state for key in keyfile.read(path).keys}
    assert states == dict.fromkeys(stolen, "compromised") | {fresh.kid: "active"}
    assert fresh.not_before
    assert fresh.not_before <= datetime.now(UTC)
    assert [key.kid for key in keyfile.read(path).keys if key.d] == [fresh.kid]
