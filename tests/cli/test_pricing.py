"""`llmring-server prices`, as an operator uses it."""

import json
from pathlib import Path
from uuid import uuid4

import pytest

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from tests.cli.test_db import done, prod, run
from tests.pricing.test_pricing import call

__all__ = ["prod"]

PROD = ("--env", "prod")


@pytest.fixture
def model() -> str:
    return f"m-{uuid4().hex}"


async def test_a_model_without_a_price_is_found_priced_and_its_calls_are_rated(
    ring: Ring, project_id: ProjectId, prod: dict[str, str], model: str
) -> None:
    await ring.usage.log(project_id, call(model))
    checked = run("prices", "check", *PROD, **prod)
    assert (checked.returncode, model in checked.stdout) == (1, True)
    done("prices", "override", "acme", model, "--input", "2", "--output", "8", *PROD, **prod)
    assert "override" in done("prices", "show", "acme", model, *PROD, **prod)
    assert model in done("prices", "override", *PROD, **prod)
    rerate = ("prices", "rerate", "--since", "2020-01-01", "--model", model, *PROD)
    for arguments, unpriced in (((*rerate, "--dry-run"), 1), (rerate, 0)):
        assert f"acme {model}" in done(*arguments, **prod)
        summary = (await ring.usage.stats(project_id)).summary
        assert summary.unpriced_requests == unpriced
    assert model not in done(*rerate, **prod)
    assert model not in run("prices", "check", *PROD, **prod).stdout
    assert "Removed: 1" in done("prices", "override", "acme", model, "--remove", *PROD, **prod)
    assert "No price is known" in run("prices", "show", "acme", model, *PROD, **prod).stderr


def test_prices_come_from_a_file_all_or_none(
    prod: dict[str, str], model: str, tmp_path: Path
) -> None:
    rate = {"base": "1.25", "above": {"200000": 2.5}}
    good = {"provider": "acme", "model": model, "rates": {"input": rate}}
    file = tmp_path / "prices.json"
    file.write_text(json.dumps([good, good | {"rates": {"inputs": 1}}]))
    refused = run("prices", "override", "--file", str(file), *PROD, **prod)
    assert refused.returncode == 2
    assert "1.rates.inputs" in refused.stderr
    assert model not in done("prices", "override", *PROD, **prod)
    file.write_text(json.dumps([good]))
    done("prices", "override", "--file", str(file), *PROD, **prod)
    assert "1.25; 2.5 above 200,000" in done("prices", "show", "acme", model, *PROD, **prod)
    dated = ("--input", "3", "--valid-from", "2026-01-02")
    done("prices", "override", "acme", model, *dated, *PROD, **prod)
    assert "since 2026-01-02" in done("prices", "show", "acme", model, *PROD, **prod)
    done("prices", "override", "acme", model, "--remove", *PROD, **prod)


@pytest.mark.parametrize(
    "arguments", [["openai:gpt-4o", "--input", "2"], ["openai"], ["--input", "2"]]
)
def test_an_override_without_a_model_is_refused_and_not_listed(arguments: list[str]) -> None:
    refused = run("prices", "override", *arguments)
    assert refused.returncode == 2
    assert "needs a provider and a model" in refused.stderr
