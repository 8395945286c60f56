"""`llmring-server aliases` and `templates`, as an operator uses them."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from llmring_server import Ring, Settings
from llmring_server.aliases import BindAlias
from llmring_server.core.identity import LIBRARY
from llmring_server.errors import NotFound
from llmring_server.templates.models import NewTemplate
from tests.cli.test_db import check_output, run

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
    options = ("--project", name, *PROD)
    check_output(
        "aliases", "bind", "fast", "openai:gpt-4o-mini", "--profile", "dev", *options, **prod
    )
    assert await ring.aliases.resolve(project_id, "fast", "dev") == "openai:gpt-4o-mini"
    resolved = check_output("aliases", "resolve", "fast", "--profile", "dev", *options, **prod)
    assert resolved == "openai:gpt-4o-mini\n"
    assert run("aliases", "resolve", "fast", *options, **prod).returncode == 1
    assert "gpt-4o-mini" in check_output("aliases", "list", *options, **prod)
    assert "gpt-4o-mini" not in check_output(
        "aliases", "list", "--profile", "prod", *options, **prod
    )
    delete = ("aliases", "delete", "fast", "--profile", "dev", *options)
    check_output(*delete, **prod)
    assert run(*delete, **prod).returncode == 1
    assert run("aliases", "bind", "fast", "openai:", *options, **prod).returncode == 2
    check_output("aliases", "bind", "summarizer", "fast", *options, **prod)
    check_output("aliases", "bind", "fast", "gpt-4o", *options, **prod)
    assert check_output("aliases", "resolve", "summarizer", *options, **prod) == "gpt-4o\n"


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
    options = ("--project", name, *PROD)
    shown = check_output("aliases", "list", *options, **prod) + check_output(
        "templates", "list", *options, **prod
    )
    assert {"\x1b", "\x9b", "\x07"}.isdisjoint(shown)
    assert ("[/y]" in shown, "[red]z" in shown) == (True, True)


async def test_templates_are_listed_and_shown(ring: Ring, prod: dict[str, str]) -> None:
    name = f"project {uuid4().hex}"
    project_id = await ring.projects.create(name, actor=LIBRARY)
    template = await ring.templates.create(
        project_id, NewTemplate(name="support", created_by="ada"), actor=LIBRARY, may_share=True
    )
    options = ("--project", name, *PROD)
    assert "support" in check_output("templates", "list", *options, **prod)
    assert "ada" in check_output("templates", "show", str(template.id), *options, **prod)
    assert run("templates", "show", str(uuid4()), *options, **prod).returncode == 1


async def test_the_operator_withdraws_a_shared_template(ring: Ring, prod: dict[str, str]) -> None:
    key, stranger = [await ring.keys.issue(f"p{uuid4()}", actor=LIBRARY) for _ in range(2)]
    new = NewTemplate(name="support", created_by="ada", shared=True)
    template = await ring.templates.create(key.project_id, new, actor=LIBRARY, may_share=True)
    options = ("--project", str(stranger.project_id), "--env", "prod")
    assert run("templates", "unshare", str(template.id), *options, **prod).returncode == 1
    assert (await ring.templates.get(stranger.project_id, template.id)).shared_by
    options = ("--project", str(key.project_id), "--env", "prod")
    assert "not shared" in check_output("templates", "unshare", str(template.id), *options, **prod)
    with pytest.raises(NotFound):
        await ring.templates.get(stranger.project_id, template.id)
    [event, *_] = await ring.audit.events(datetime.now(UTC) - timedelta(minutes=5), key.project_id)
    assert (event.action, event.target) == ("template.change", str(template.id))
