"""Variables of llmring-server 0.1 and of the client: each has its effect, or a sentence."""

import re
from importlib.metadata import files
from pathlib import Path

import pytest

from llmring_server import Settings
from llmring_server.core.variables import CLIENT_VARIABLES
from llmring_server.errors import InvalidSettings
from llmring_server.settings import environment_warnings


@pytest.mark.parametrize("level", ["none", "metadata", "full"])
def test_message_logging_level_is_honoured(level: str) -> None:
    environ = {"LLMRING_MESSAGE_LOGGING_LEVEL": level}
    assert Settings.from_env(environ).conversation_content == level
    [told] = environment_warnings(environ)
    assert "former name of LLMRING_CONVERSATION_CONTENT" in told


@pytest.mark.parametrize(
    ("name", "value", "setting", "expected"),
    [
        ("LLMRING_REGISTRY_BASE_URL", "https://h.example/r/", "registry_url", "https://h.example/r"),
        ("LLMRING_CACHE_TTL", "60", "registry_ttl", 60),
        ("LLMRING_API_KEY_VALIDATION_MODE", "strict", "auth", "keys"),
    ],
)  # fmt: skip
def test_former_settings_are_honoured_and_told(
    name: str, value: str, setting: str, expected: object
) -> None:
    # Defaults, such as those of --env dev, yield to them.
    settings = Settings.from_env({name: value}, defaults={"auth": "open"})
    assert getattr(settings, setting) == expected
    [told] = environment_warnings({name: value})
    assert f"LLMRING_{setting.upper()}" in told


@pytest.mark.parametrize(
    ("name", "value", "replacement"),
    [
        ("LLMRING_API_KEY_VALIDATION_MODE", "bridge", "LLMRING_AUTH"),
        ("LLMRING_ENABLE_CONVERSATION_TRACKING", "true", "LLMRING_CONVERSATION_CONTENT"),
        ("LLMRING_MESSAGE_RETENTION_DAYS", "30", "projects retain"),
        ("LLMRING_REDIS_URL", "redis://:canary@h", "LLMRING_REGISTRY_TTL"),
        ("LLMRING_ENFORCE_MEMBERSHIP_VERIFICATION", "true", "LLMRING_AUTH"),
        ("LLMRING_API_PREFIX", "/x", "mount"),
        ("LLMRING_RECEIPTS_KEY_ID", "x", "LLMRING_RECEIPTS_PRIVATE_KEY_B64"),
        ("LLMRING_PORT", "1", "--port"),
        ("REGISTRY_BASE_URL", "https://x", "LLMRING_REGISTRY_URL"),
        ("CACHE_TTL", "1", "LLMRING_REGISTRY_TTL"),
        ("MESSAGE_RETENTION_DAYS", "1", "projects retain"),
        ("MESSAGE_LOGGING_LEVEL", "none", "LLMRING_CONVERSATION_CONTENT"),
    ],
)
def test_variables_without_effect_are_told(name: str, value: str, replacement: str) -> None:
    assert Settings.from_env({name: value}) == Settings()
    [told] = environment_warnings({name: value})
    assert told.startswith(f"{name} has no effect")
    assert replacement in told
    assert "canary" not in told


@pytest.mark.parametrize("value", ["false", "False", "0", "no"])
def test_conversations_that_cannot_be_turned_off_are_refused(value: str) -> None:
    environ = {"LLMRING_ENABLE_CONVERSATION_TRACKING": value}
    with pytest.raises(InvalidSettings, match="Set LLMRING_CONVERSATION_CONTENT=none"):
        Settings.from_env(environ)
    for name in ("LLMRING_CONVERSATION_CONTENT", "LLMRING_MESSAGE_LOGGING_LEVEL"):
        assert Settings.from_env({**environ, name: "none"}).conversation_content == "none"
    assert Settings.from_env(environ, conversation_content="none").conversation_content == "none"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("llmring_message_logging_level", "none"),
        ("LLMRing_Message_Logging_Level", "METADATA"),
        ("llmring_conversation_content", "none"),
        ("llmring_enable_conversation_tracking", "off"),
    ],
)
def test_what_would_be_private_is_refused_in_a_form_that_is_not_read(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidSettings, match=f"^{name}.*LLMRING_CONVERSATION_CONTENT="):
        Settings.from_env({name: value})
    with pytest.raises(InvalidSettings, match=f"^{name}"):
        Settings.from_env({name: value, "LLMRING_CONVERSATION_CONTENT": "full"})
    as_private = {"LLMRING_CONVERSATION_CONTENT": "none"}
    assert Settings.from_env({name: value} | as_private).conversation_content == "none"
    monkeypatch.chdir(tmp_path)
    for variable in (name, name.upper()):
        (tmp_path / ".env").write_text(f"# mine\nexport {variable} = '{value}' # private\n")
        with pytest.raises(InvalidSettings, match=rf"^{variable} in the file \.env"):
            Settings.from_env({})
    assert Settings.from_env(as_private).conversation_content == "none"
    (tmp_path / ".env").write_text(f"{name}=full\n")
    assert Settings.from_env({}) == Settings()


@pytest.mark.parametrize(
    ("former", "own"),
    [
        ({"LLMRING_MESSAGE_LOGGING_LEVEL": "none"}, {"LLMRING_CONVERSATION_CONTENT": "full"}),
        ({"LLMRING_MESSAGE_LOGGING_LEVEL": "full"}, {"LLMRING_CONVERSATION_CONTENT": "none"}),
        ({"LLMRING_API_KEY_VALIDATION_MODE": "strict"}, {"LLMRING_AUTH": "open"}),
    ],
    ids=["none and full", "full and none", "strict and open"],
)
def test_a_former_name_and_its_setting_must_agree(
    former: dict[str, str], own: dict[str, str]
) -> None:
    with pytest.raises(InvalidSettings, match=f"{next(iter(former))} and {next(iter(own))} differ"):
        Settings.from_env({**former, **own})


def test_a_former_name_and_the_file_must_agree(tmp_path: Path) -> None:
    (tmp_path / "l.toml").write_text("conversation_content = 'none'\n")
    with pytest.raises(InvalidSettings, match=r"LLMRING_MESSAGE_LOGGING_LEVEL and .*l\.toml"):
        Settings.from_file(tmp_path / "l.toml", {"LLMRING_MESSAGE_LOGGING_LEVEL": "full"})


def test_an_invalid_former_setting_is_named_without_its_value() -> None:
    with pytest.raises(InvalidSettings, match=r"^LLMRING_MESSAGE_LOGGING_LEVEL: ") as raised:
        Settings.from_env({"LLMRING_MESSAGE_LOGGING_LEVEL": "canary"})
    assert "canary" not in str(raised.value)


def test_lists_may_be_json_arrays() -> None:
    environ = {"LLMRING_CORS_ORIGINS": '["https://a.example", "https://b.example"]'}
    assert Settings.from_env(environ).cors_origins == ("https://a.example", "https://b.example")
    with pytest.raises(InvalidSettings, match=r"^LLMRING_CORS_ORIGINS: write a list") as raised:
        Settings.from_env({"LLMRING_CORS_ORIGINS": '["canary'})
    assert "canary" not in str(raised.value)


def test_the_variables_of_the_client_are_those_of_the_installed_client() -> None:
    sources = [file for file in files("llmring") or () if file.suffix == ".py"]
    names = {
        name
        for source in sources
        for name in re.findall(r"\bLLMRING_[A-Z][A-Z_]+\b", source.read_text())
    }
    assert sorted(names) == list(CLIENT_VARIABLES)
    assert environment_warnings(dict.fromkeys(names, "1")) == []


def test_a_variable_in_lower_case_is_told() -> None:
    [told] = environment_warnings({"llmring_message_logging_level": "none"})
    assert told.endswith("Did you mean LLMRING_MESSAGE_LOGGING_LEVEL?")
