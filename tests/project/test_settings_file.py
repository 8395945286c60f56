"""Settings from a file: precedence, errors without values, and secrets that others can read."""

import logging
from pathlib import Path

import pytest

from llmring_server import Settings, create_app
from llmring_server.errors import InvalidSettings
from llmring_server.settings import environment_warnings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "llmring.toml"


def test_code_takes_precedence_over_variables_and_these_over_the_file(file: Path) -> None:
    file.write_text("rate_burst = 1\nmax_keys = 1\nmax_aliases = 1\n")
    environ = {"LLMRING_MAX_KEYS": "2", "LLMRING_MAX_ALIASES": "2"}
    for settings in (
        Settings.from_file(file, environ, max_aliases=3),
        Settings.from_env({**environ, "LLMRING_CONFIG": str(file)}, max_aliases=3),
    ):
        assert (settings.rate_burst, settings.max_keys, settings.max_aliases) == (1, 2, 3)


def test_a_file_has_the_types_of_toml(file: Path) -> None:
    file.write_text(
        'auth = "proxy"\nproxy_secrets = ["0123456789abcdef0123456789abcdef"]\nrate_limit = 2.5\n'
        "strict_fields = true\ncors_origins = ['https://a.example']\n"
        "database_tls_ca = 'system'\nreceipt_key_file = 'keys.json'\n"
    )
    file.chmod(0o600)
    settings = Settings.from_file(str(file))
    assert settings.rate_limit == 2.5
    assert settings.strict_fields
    assert settings.cors_origins == ("https://a.example",)
    assert str(settings.database_tls_ca) == "system"
    # A path is relative to the file.
    assert settings.receipt_key_file == file.parent / "keys.json"


def test_database_url_is_used_if_the_file_names_no_database(file: Path) -> None:
    theirs = {"DATABASE_URL": "postgresql://theirs/x"}
    file.write_text("rate_burst = 1\n")
    assert Settings.from_file(file, theirs).database_url == theirs["DATABASE_URL"]
    file.write_text("database_url = 'postgresql://ours/x'\n")
    assert Settings.from_file(file, theirs).database_url == "postgresql://ours/x"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("rate_burst = 'canary'", "{file}: rate_burst: Input should be a valid integer"),
        ("auth = 'canary'", "{file}: auth: Input should be 'keys', 'open', 'proxy' or 'parent'"),
        ("database_url = 'mysql://u:canary@h/x'", "{file}: database_url: "),
        ("rate_brust = 'canary'", "{file}: rate_brust is not a setting. Did you mean rate_burst?"),
        ("LLMRING_AUTH = 'canary'", "LLMRING_AUTH is not a setting. Did you mean auth?"),
        ("[database]\nurl = 'canary'", "{file}: database: settings are not grouped into tables"),
        ("auth = keys # canary", "{file}: the file is not valid TOML at line 1, column 8"),
        ("'postgresql://u:canary@h' = 1", "{file}: a key is not a setting."),
        ("auth = 'proxy' # canary", "LLMRING_AUTH=proxy needs LLMRING_PROXY_SECRETS"),
        ("auth = 'caf\udce9'", "{file}: the file is not UTF-8 text."),
    ],
    ids=[
        "type", "choice", "url", "misspelled", "variable", "table", "syntax", "secret as key",
        "combination", "encoding",
    ],
)  # fmt: skip
def test_an_error_names_file_and_key_and_never_the_value(file: Path, text: str, error: str) -> None:
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InvalidSettings) as raised:
        Settings.from_file(file)
    assert error.format(file=file) in str(raised.value)
    assert "canary" not in str(raised.value)


def test_a_missing_file_is_an_error(file: Path) -> None:
    with pytest.raises(InvalidSettings, match="cannot be read: No such file"):
        Settings.from_env({"LLMRING_CONFIG": str(file)})


def test_an_error_names_the_variable_or_the_argument(file: Path) -> None:
    file.write_text("rate_burst = 1\n")
    with pytest.raises(InvalidSettings, match=r"^LLMRING_RATE_BURST: "):
        Settings.from_file(file, {"LLMRING_RATE_BURST": "canary"})
    with pytest.raises(InvalidSettings, match=r"^rate_burst: "):
        Settings.from_file(file, rate_burst="canary")


@pytest.mark.parametrize(
    ("text", "mode", "is_told"),
    [
        ("database_url = 'postgresql://u:canary@h/x'", 0o644, True),
        ("database_url = 'postgresql://u@h/x'", 0o644, False),
        ("database_url = 'postgresql://u:canary@h/x'", 0o640, False),
        (f"sealing_keys = ['{'0' * 64}']", 0o604, True),
        ("rate_burst = 1", 0o644, False),
    ],
    ids=["password", "no password", "group", "key", "no secret"],
)
def test_secrets_that_everyone_can_read_are_told(
    file: Path, text: str, mode: int, caplog: pytest.LogCaptureFixture, *, is_told: bool
) -> None:
    file.write_text(text)
    file.chmod(mode)
    for _ in range(2):
        Settings.from_file(file)
    name = text.partition(" ")[0]
    expected = (
        f"Every user of this machine can read the secrets in {file} ({name}): run `chmod 640"
        f" {file}`."
    )
    assert caplog.messages == [expected] * is_told


def test_an_app_logs_variables_that_have_no_effect(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LLMRING_DATABASE_URL", "postgresql://nowhere/x")
    monkeypatch.setenv("LLMRING_ATUH", "canary")
    with caplog.at_level(logging.WARNING):
        create_app()
    told = [text for text in caplog.messages if "LLMRING_ATUH" in text]
    assert told == ["LLMRING_ATUH is not a setting and has no effect. Did you mean LLMRING_AUTH?"]


def test_settings_in_a_file_that_is_not_read_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(
        "LLMRING_API_KEY=canary\nexport LLMRING_MESSAGE_LOGGING_LEVEL=none\nLLMRING_AUTH=canary\n"
    )
    [told] = environment_warnings({"LLMRING_AUTH": "keys"})
    assert told.startswith("The file .env is not read; it has LLMRING_MESSAGE_LOGGING_LEVEL.")
