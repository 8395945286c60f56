"""`llmring-server export`: which project it reads, and what it says about it."""

from pathlib import Path
from uuid import uuid4

import pytest

from llmring_server import Ring
from llmring_server.core.identity import LIBRARY
from llmring_server.usage.models import NewCall
from tests.cli.test_db import prod, run
from tests.conftest import CALL

__all__ = ["prod"]

PROD = ("--env", "prod")


@pytest.fixture
def own(alone: Ring) -> dict[str, str]:
    """Settings of a database of its own, without projects."""
    settings = alone.settings
    return {
        "LLMRING_DATABASE_URL": settings.database_url or "",
        "LLMRING_DATABASE_SCHEMA": settings.database_schema,
    }


@pytest.mark.parametrize("mode", ["keys", "open"])
@pytest.mark.parametrize("id_of", [lambda: f"shpo-{uuid4().hex}", lambda: str(uuid4())])
def test_an_unknown_project_is_an_error(
    prod: dict[str, str], tmp_path: Path, mode: str, id_of: object
) -> None:
    assert callable(id_of)
    name, path = id_of(), tmp_path / "calls.jsonl"
    settings = prod | {"LLMRING_AUTH": mode}
    shown = run("projects", "show", name, *PROD, **settings)
    refused = run("export", "--project", name, "-o", str(path), *PROD, **settings)
    assert (refused.returncode, refused.stderr) == (shown.returncode, shown.stderr)
    assert refused.returncode == 1
    assert list(tmp_path.iterdir()) == []


async def test_without_a_project_the_default_one_is_exported_and_named(
    alone: Ring, own: dict[str, str]
) -> None:
    empty = run("export", *PROD, **own)
    assert (empty.returncode, empty.stdout) == (1, "")
    assert "There is no project default, and no other one" in empty.stderr
    for name in ("shop-app", "other"):
        project_id = await alone.projects.create(name, actor=LIBRARY)
        await alone.usage.log(project_id, NewCall(**CALL))
    refused = run("export", *PROD, **own)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "There is no project default. Choose one with --project: " in refused.stderr
    assert "shop-app" in refused.stderr
    assert "other" in refused.stderr
    assert (
        "1 calls of project shop-app" in run("export", "--project", "shop-app", *PROD, **own).stderr
    )
    await alone.projects.create("default", actor=LIBRARY)
    exported = run("export", *PROD, **own)
    assert exported.returncode == 0
    assert "0 calls of project default exported." in exported.stderr
