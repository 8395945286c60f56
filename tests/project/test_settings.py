import pytest
from pydantic import ValidationError

from llmring_server import Settings


def test_from_env_prefers_llmring_database_url_to_database_url() -> None:
    theirs, ours = "postgres://u@theirs/x", "postgresql://u@ours/x"
    assert Settings.from_env({"DATABASE_URL": theirs}).database_url == theirs
    both = {"DATABASE_URL": theirs, "LLMRING_DATABASE_URL": ours}
    assert Settings.from_env(both).database_url == ours


def test_from_env_reads_lists_and_ignores_empty_values() -> None:
    environ = {"LLMRING_CORS_ORIGINS": "https://a.example, https://b.example", "LLMRING_AUTH": ""}
    settings = Settings.from_env(environ)
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.auth == "keys"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:can/ary@127.0.0.1:5432/x",
        "postgresql://u:can#ary@127.0.0.1:5432/x",
        "postgresql://u:can[ary@127.0.0.1:5432/x",
        "postgresql://u:canary@127.0.0.1:port/x",
        "mysql://u:canary@127.0.0.1/x",
        "u:canary@127.0.0.1/x",
    ],
)
def test_invalid_database_url_is_reported_without_its_password(url: str) -> None:
    with pytest.raises(ValidationError, match="percent-encoded") as raised:
        Settings(database_url=url)
    assert "can" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%2Fw@h:5432/x",
        "postgres://h1:5432,h2:5433/x?target_session_attrs=read-write",
        "postgresql://llmring@/x?host=/run/sock",
        "postgresql://[::1]:5432/x",
    ],
)
def test_all_kinds_of_database_urls_are_accepted(url: str) -> None:
    assert Settings(database_url=url).dsn() == url


def test_tls_setting_is_added_to_the_url() -> None:
    settings = Settings(
        database_url="postgresql://h/x?connect_timeout=5", database_tls="verify-full"
    )
    assert settings.dsn() == "postgresql://h/x?connect_timeout=5&sslmode=verify-full"


def test_replaced_values_are_validated_and_others_kept() -> None:
    settings = Settings(auth="proxy", proxy_secrets=("0123456789abcdef" * 2,), rate_limit=1)
    replaced = settings.replace(rate_limit=2)
    assert settings.differences(replaced) == ["rate_limit"]
    with pytest.raises(ValidationError):
        settings.replace(rate_limit=-1)
    with pytest.raises(ValidationError, match="needs LLMRING_PROXY_SECRETS"):
        settings.replace(proxy_secrets=())


def test_repr_does_not_contain_the_password() -> None:
    assert "canary" not in repr(Settings(database_url="postgresql://u:canary@h/x"))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/registry",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "https://",
        "https://h/r?x=can",
        "https://h/#can",
        "https://h:port/can",
        "file:///can",
        "//h/r",
        "https://[can",
    ],
)
def test_insecure_registry_urls_are_rejected(url: str) -> None:
    with pytest.raises(ValidationError, match="write https://") as raised:
        Settings(registry_url=url)
    assert "can" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    ["https://h.example/r", "http://localhost:80/r", "http://127.0.0.1", "http://[::1]:1", "none"],
)
def test_all_kinds_of_registry_urls_are_accepted(url: str) -> None:
    assert Settings(registry_url=url).registry_url == url
    assert Settings(registry_url=f"{url}/" if url != "none" else url).registry_url == url


def test_provider_names_are_validated() -> None:
    environ = {"LLMRING_REGISTRY_PROVIDERS": "openai, x-ai"}
    assert Settings.from_env(environ).registry_providers == ("openai", "x-ai")
    for name in ("../x", "a/b", "A", "", "v?x"):
        with pytest.raises(ValidationError):
            Settings(registry_providers=(name,))
    with pytest.raises(ValidationError):
        Settings(registry_providers=())
