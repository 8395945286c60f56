"""`llmring-server aliases` and `templates`, as an operator uses them."""

from uuid import uuid4

import pytest

from llmring_server import Ring, Settings
from llmring_server.aliases import BindAlias
from llmring_server.core.identity import LIBRARY
from llmring_server.templates.models import NewTemplate
from tests.cli.test_db import done, run

PROD = ("--env", "prod")


@pytest.fixture
def prod(settings: Settings) -> dict[str, str]:
    """Settings of the role that serves: it may do all of this."""
    return {
        "LLMRING_DATABASE_URL": settings.database_url or "",
        "LLMRING_DATABASE_SCHEMA": settings.database_schema,
    }


async def test_an_alias_is_bound_resolved_listed_and_deleted(
    ring: Ring, prod: dict[str, str]
) -> None:
    name = f"project {uuid4().hex}"
    project_id = await ring.projects.create(name, actor=LIBRARY)
    of = ("--project", name, *PROD)
    done("aliases", "bind", "fast", "openai:gpt-4o-mini", "--profile", "dev", *of, **prod)
    assert await ring.aliases.resolve(project_id, "fast", "dev") == "openai:gpt-4o-mini"
    resolved = done("aliases", "resolve", "fast", "--profile", "dev", *of, **prod)
    assert resolved == "openai:gpt-4o-mini\n"
    assert run("aliases", "resolve", "fast", *of, **prod).returncode == 1
    assert "gpt-4o-mini" in done("aliases", "list", *of, **prod)
    assert "gpt-4o-mini" not in done("aliases", "list", "--profile", "prod", *of, **prod)
    delete = ("aliases", "delete", "fast", "--profile", "dev", *of)
    done(*delete, **prod)
    assert run(*delete, **prod).returncode == 1
    assert run("aliases", "bind", "fast", "gpt-4o", *of, **prod).returncode == 2


async def test_control_characters_and_markup_are_escaped(ring: Ring, prod: dict[str, str]) -> None:
    name = f"project {uuid4().hex}"
    project_id = await ring.projects.create(name, actor=LIBRARY)
    await ring.aliases.bind(project_id, BindAlias(alias="\x1b[2Jx [/y]", model="openai:gpt-4o"))
    await ring.templates.create(
        project_id,
        NewTemplate(name="\x9b2J [red]z", created_by="\x1b]0;t\x07"),
        actor=LIBRARY,
        may_share=True,
    )
    of = ("--project", name, *PROD)
    shown = done("aliases", "list", *of, **prod) + done("templates", "list", *of, **prod)
    assert {"\x1b", "\x9b", "\x07"}.isdisjoint(shown)
    assert ("[/y]" in shown, "[red]z" in shown) == (True, True)


async def test_templates_are_listed_and_shown(ring: Ring, prod: dict[str, str]) -> None:
    name = f"project {uuid4().hex}"
    project_id = await ring.projects.create(name, actor=LIBRARY)
    template = await ring.templates.create(
        project_id, NewTemplate(name="support", created_by="ada"), actor=LIBRARY, may_share=True
    )
    of = ("--project", name, *PROD)
    assert "support" in done("templates", "list", *of, **prod)
    assert "ada" in done("templates", "show", str(template.id), *of, **prod)
    assert run("templates", "show", str(uuid4()), *of, **prod).returncode == 1
