"""Variables of the environment that look like settings: named if they are none."""

import pytest

from tests.cli.test_db import prod, run

__all__ = ["prod"]

LIST = ("prices", "override", "--env", "prod")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LLMRING_ATUH", "LLMRING_AUTH"),
        ("LLMRING_DATABSE_URL", "LLMRING_DATABASE_URL"),
        ("LLMRING_PROXY_SECRET", "LLMRING_PROXY_SECRETS"),
        ("LLMRING_STRICT_FIELD", "LLMRING_STRICT_FIELDS"),
        ("LLMRING_QQQQ", None),
    ],
)
def test_an_unknown_variable_is_named_without_its_value(
    prod: dict[str, str], name: str, meant: str | None
) -> None:
    hint = f" Did you mean {meant}?" if meant else ""
    ran = run(*LIST, **prod | {name: "canary"})
    assert ran.returncode == 0
    assert ran.stderr == f"Warning: {name} is not a setting and has no effect.{hint}\n"
    assert "canary" not in ran.stdout


def test_serve_names_unknown_variables_before_it_starts() -> None:
    settings = {"LLMRING_ATUH": "keys", "LLMRING_RATE_LIMITS": "1"}
    refused = run("serve", "--env", "prod", **settings)
    assert refused.returncode == 2
    assert refused.stderr.startswith("Warning: LLMRING_ATUH is")
    assert "Did you mean LLMRING_RATE_LIMIT?" in refused.stderr


@pytest.mark.parametrize(
    "name",
    [
        "LLMRING_PG_OS_USER", "LLMRING_TEST_KEY", "LLMRING_SERVER_URL", "LLMRING_API_KEY",
        "LLMRING_PROFILE", "LLMRING_DATA_DIR", "LLMRING_RATE_BURST", "LLMRINGS", "OTHER_ATUH",
    ],
)  # fmt: skip
def test_settings_and_variables_of_the_client_are_not_named(
    prod: dict[str, str], name: str
) -> None:
    assert run(*LIST, **prod | {name: "1"}).stderr == ""
