"""The key that `--env dev` and `test` make, with which credentials of MCP servers are encrypted."""

import os
from pathlib import Path

import pytest

from llmring_server.cli.environment import open_environment, with_local_key
from llmring_server.settings import Settings
from tests.cli.test_db import run

OWN = "a" * 64
URL = "postgresql://llmring@127.0.0.1:1/nothing"


def keys_of(env: str, folder: Path, **environ: str) -> list[str]:
    with open_environment(env, folder, {"LLMRING_DATABASE_URL": URL, **environ}) as target:
        return [key.get_secret_value() for key in target.settings.sealing_keys]


def test_dev_makes_a_key_once_and_keeps_it_to_its_owner(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    [key] = keys_of("dev", folder)
    assert len(bytes.fromhex(key)) == 32
    assert [path.name for path in folder.iterdir()] == ["sealing.key"]
    assert (folder / "sealing.key").stat().st_mode & 0o777 == 0o600
    assert keys_of("dev", folder) == [key]
    assert keys_of("dev", tmp_path / "other") != [key]


def test_configured_keys_come_first(tmp_path: Path) -> None:
    assert keys_of("dev", tmp_path, LLMRING_SEALING_KEYS=OWN) == [OWN]
    assert not list(tmp_path.iterdir())
    [key] = keys_of("dev", tmp_path)
    # It still decrypts what was encrypted with it.
    assert keys_of("dev", tmp_path, LLMRING_SEALING_KEYS=OWN) == [OWN, key]


def test_prod_has_no_key_of_its_own(tmp_path: Path) -> None:
    assert keys_of("prod", tmp_path) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert with_local_key(Settings(), tmp_path / "data").sealing_keys == ()


def test_a_path_that_is_no_folder_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert with_local_key(Settings(), tmp_path / "file" / "data").sealing_keys == ()


def test_reseal_in_prod_demands_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.db.connect.START_TIMEOUT_SECONDS", 0.1)
    ran = run(
        "mcp", "reseal", "--env", "prod", "--data-dir", f"{tmp_path}", LLMRING_DATABASE_URL=URL
    )
    assert ran.returncode != 0
