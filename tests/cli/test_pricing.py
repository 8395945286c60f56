"""`llmring-server prices`, as an operator uses it."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.pricing.price_book import PriceBook
from llmring_server.pricing.sources import GenaiPrices
from tests.cli.test_db import check_output, prod, run
from tests.pricing.test_pricing import call

__all__ = ["prod"]

PROD = ("--env", "prod")


@pytest.fixture
def model() -> str:
    return f"m-{uuid4().hex}"


async def test_unpriced_models_are_listed_overridden_and_rerated(
    ring: Ring, project_id: ProjectId, prod: dict[str, str], model: str
) -> None:
    await ring.usage.log(project_id, call(model))
    checked = run("prices", "check", *PROD, **prod)
    assert (checked.returncode, model in checked.stdout) == (1, True)
    check_output(
        "prices", "override", "acme", model, "--input", "2", "--output", "8", *PROD, **prod
    )
    assert "override" in check_output("prices", "show", "acme", model, *PROD, **prod)
    assert model in check_output("prices", "override", *PROD, **prod)
    rerate = ("prices", "rerate", "--since", "2020-01-01", "--model", model, *PROD)
    for arguments, unpriced in (((*rerate, "--dry-run"), 1), (rerate, 0)):
        assert f"acme {model}" in check_output(*arguments, **prod)
        summary = (await ring.usage.stats(project_id)).summary
        assert summary.unpriced_requests == unpriced
    assert model not in check_output(*rerate, **prod)
    assert model not in run("prices", "check", *PROD, **prod).stdout
    assert "Removed: 1" in check_output(
        "prices", "override", "acme", model, "--remove", *PROD, **prod
    )
    assert "No price is known" in run("prices", "show", "acme", model, *PROD, **prod).stderr


def test_a_model_is_named_by_one_argument_or_two(prod: dict[str, str], model: str) -> None:
    rates = ("--web-search", "10", "--request", "1")
    check_output("prices", "override", f"acme:{model}", *rates, *PROD, **prod)
    shown = check_output("prices", "show", "acme", model, *PROD, **prod)
    assert check_output("prices", "show", f"acme:{model}", *PROD, **prod) == shown
    assert re.search(r"web_search\W+10\W+1,000 searches", shown)
    assert re.search(r"request\W+1\W+1,000 requests", shown)
    assert "Removed: 1" in check_output(
        "prices", "override", f"acme:{model}", "--remove", *PROD, **prod
    )
    for incomplete in (["show", model], ["override", model], ["override", "--remove"]):
        assert run("prices", *incomplete, *PROD, **prod).returncode == 2


def test_overrides_from_a_file_are_all_or_nothing(
    prod: dict[str, str], model: str, tmp_path: Path
) -> None:
    rate = {"base": "1.25", "above": {"200000": 2.5}}
    good = {"provider": "acme", "model": model, "rates": {"input": rate}}
    file = tmp_path / "prices.json"
    file.write_text(json.dumps([good, good | {"rates": {"inputs": 1}}]))
    refused = run("prices", "override", "--file", str(file), *PROD, **prod)
    assert refused.returncode == 2
    assert "1.rates.inputs" in refused.stderr
    assert model not in check_output("prices", "override", *PROD, **prod)
    file.write_text(json.dumps([good]))
    check_output("prices", "override", "--file", str(file), *PROD, **prod)
    assert "1.25; 2.5 above 200,000" in check_output("prices", "show", "acme", model, *PROD, **prod)
    dated = ("--input", "3", "--valid-from", "2026-01-02")
    check_output("prices", "override", "acme", model, *dated, *PROD, **prod)
    assert "since 2026-01-02" in check_output("prices", "show", "acme", model, *PROD, **prod)
    check_output("prices", "override", "acme", model, "--remove", *PROD, **prod)


def test_dates_are_those_of_a_time_zone(prod: dict[str, str], model: str) -> None:
    name, tz = ("acme", model, *PROD), ("--tz", "Asia/Tokyo")
    dated = ("--input", "3", "--valid-from", "2026-01-02")
    check_output("prices", "override", *name, *dated, *tz, **prod)
    assert "since 2026-01-01" in check_output("prices", "show", *name, **prod)
    assert "since 2026-01-02" in check_output("prices", "show", *name, *tz, **prod)
    before = ("--at", "2026-01-01T23:59:59")
    assert "override" not in run("prices", "show", *name, *before, *tz, **prod).stdout
    assert "override" in check_output("prices", "show", *name, *before, **prod)
    refused = run("prices", "show", *name, "--tz", "Mars/Olympus", **prod)
    assert refused.returncode == 2
    assert "must be an IANA time zone" in refused.stderr


async def test_calls_are_rerated_from_a_date_of_a_time_zone(
    ring: Ring, project_id: ProjectId, prod: dict[str, str], model: str
) -> None:
    # 15:30 UTC is 00:30 of the next day in Tokyo.
    day = (datetime.now(UTC) - timedelta(days=3)).replace(hour=15, minute=30)
    await ring.usage.log(project_id, call(model, logged_at=day))
    check_output(
        "prices", "override", "acme", model, "--input", "2", "--output", "2", *PROD, **prod
    )
    since = f"{day + timedelta(days=1):%Y-%m-%d}"
    rerate = ("prices", "rerate", "--since", since, "--model", model, *PROD)
    assert model not in check_output(*rerate, **prod)
    assert model in check_output(*rerate, "--tz", "Asia/Tokyo", **prod)


@pytest.mark.parametrize("arguments", [["openai", "--input", "2"], ["openai"], ["--input", "2"]])
def test_an_override_without_a_model_is_refused_and_not_listed(arguments: list[str]) -> None:
    refused = run("prices", "override", *arguments)
    assert refused.returncode == 2
    assert "a provider and a model" in refused.stderr or "Give a model" in refused.stderr


def override(model: str, *options: str, **settings: str) -> str:
    ran = run("prices", "override", "acme", model, *options, *PROD, **settings)
    assert ran.returncode == 0, ran.stderr
    return re.sub(r"[\s│]+", " ", ran.stdout + ran.stderr)


def test_an_override_names_the_versions_that_keep_their_prices(
    prod: dict[str, str], model: str
) -> None:
    assert "prices of their own" not in override(f"{model}-2031-01-01", "--input", "3", **prod)
    text = "Versions with prices of their own keep them: {0}-2031-01-01. To change them"
    assert text.format(model) in override(model, "--input", "2", **prod)
    names = PriceBook([GenaiPrices()]).dated_names("OpenAI", "GPT-4o")
    assert {"gpt-4o-2024-05-13", "gpt-4o-2024-08-06"} <= {*names}
    assert not any("mini" in name for name in names)


def test_an_override_shows_the_rates_that_it_replaces(prod: dict[str, str], model: str) -> None:
    first = override(model, "--input", "2", "--output", "8", **prod)
    assert "input none 2 1,000,000 tokens" in first
    assert "replaced" not in first
    second = override(model, "--input", "2.5", "--audio-hour", "1", **prod)
    assert "input 2 2.5 1,000,000 tokens" in second
    assert "output 8 none 1,000,000 tokens" in second
    assert "audio_second none 1 hour of audio" in second
    assert "All earlier rates of this override are replaced." in second
    for other in (("--tier", "batch"), ("--valid-from", "2026-01-02")):
        added = override(model, "--input", "3", *other, **prod)
        assert "input none 3" in added
        assert "replaced" not in added
        assert "input 3 4" in override(model, "--input", "4", *other, **prod)


def test_options_of_rates_say_their_unit(model: str) -> None:
    text = re.sub(r"[\s│]+", " ", run("prices", "override", "--help").stdout)
    for option, unit in (
        ("--audio-hour", "hour of audio"),
        ("--video-second", "second of video"),
        ("--image", "image"),
        ("--input", "1,000,000 tokens"),
    ):
        assert re.search(rf"{option} USD USD per {unit}\.", text)
    assert run("prices", "override", "acme", model, "--audio-second", "1").returncode == 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--input", "abc"), "'--input': abc is not a number."),
        (("--input", "nan"), "'--input': nan is not a number."),
        (("--audio-hour", "1e9999999"), "'--audio-hour': 1e9999999 is not "),
        (("--output", "-1"), "'--output': -1 is not between 0 and 1,000,000."),
        ((), "Give at least one price, such as --input 2."),
        (("--tier", "batch"), "Give at least one price, such as --input 2."),
    ],
)
def test_an_override_needs_amounts(options: tuple[str, ...], text: str) -> None:
    refused = run("prices", "override", "acme", "big-1", *options)
    assert refused.returncode == 2
    assert text in re.sub(r"[\s│]+", " ", refused.stderr)
