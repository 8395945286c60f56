"""`llmring-server keys`, `projects` and `audit`, as an operator uses them."""

import re
from uuid import uuid4

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring
from llmring_server.access.keys import KeyOptions
from llmring_server.core.identity import LIBRARY
from llmring_server.db.admin import display_location
from tests.cli.test_db import check_output, run, with_password

PROD = ("--env", "prod")


@pytest.fixture
def prod(owner: AsyncDatabaseManager, url: str) -> dict[str, str]:
    """Settings of the role that owns the schema of all tests: it may erase."""
    return {"LLMRING_DATABASE_URL": url, "LLMRING_DATABASE_SCHEMA": owner.schema or ""}


async def test_keys_are_issued_shown_rotated_and_audited(ring: Ring, prod: dict[str, str]) -> None:
    project = f"project {uuid4().hex}"
    issue = ("keys", "issue", "--project", project, "--label", "ci", "--scope", "read")
    secret = check_output(*issue, "--expires", "90d", *PROD, **prod).strip()
    shown = check_output("keys", "show", secret[8:16], *PROD, **prod)
    assert all(value in shown for value in (project, "ci", "read"))
    assert secret not in shown + check_output("keys", "list", "--project", project, *PROD, **prod)
    other = check_output("keys", "rotate", secret[8:16], "--overlap", "0m", *PROD, **prod).strip()
    assert await ring.keys.caller(secret) is None
    caller = await ring.keys.caller(other)
    assert caller
    assert caller.scopes == {"read"}
    audited = check_output("audit", *PROD, **prod)
    for action, id in (("key.issue", secret[8:16]), ("key.rotate", other[8:16])):
        assert any(action in line and id in line for line in audited.splitlines())
    assert "operator " in audited


async def test_lists_show_more_than_one_page(
    owner: AsyncDatabaseManager, ring: Ring, prod: dict[str, str]
) -> None:
    project = f"project {uuid4().hex}"
    project_id = await ring.projects.create(project, actor=LIBRARY)
    label = uuid4().hex[:8]
    await owner.execute(
        "INSERT INTO {{tables.api_keys}} (project_id, id, digest, label, scopes)"
        " SELECT $1, left(md5($2 || n), 8), sha256(n::text::bytea), $2, '{read}'"
        " FROM generate_series(1, 1001) AS n",
        project_id,
        label,
    )
    await owner.execute(
        "INSERT INTO {{tables.audit_events}} (id, actor, action, target)"
        " SELECT gen_random_uuid(), 'tests', 'key.issue', $1 FROM generate_series(1, 1001)",
        label,
    )
    for command in (("keys", "list", "--project", project), ("audit",)):
        assert check_output(*command, *PROD, **prod).count(label) == 1001
    # Other tests list everything, too.
    await owner.execute("DELETE FROM {{tables.projects}} WHERE project_id = $1", project_id)
    await owner.execute("DELETE FROM {{tables.audit_events}} WHERE target = $1", label)


def test_a_new_key_is_printed_alone_and_described_beside_it(prod: dict[str, str]) -> None:
    project = f"project {uuid4().hex}"
    issued = run("keys", "issue", "--project", project, *PROD, **prod)
    assert re.fullmatch(r"llmr_k1_\w{46}\n", issued.stdout)
    id = issued.stdout[8:16]
    rotated = run("keys", "rotate", id, *PROD, **prod)
    for printed in (issued, rotated):
        project_id = r"[0-9a-f-]{36}"
        assert re.search(rf"of project {project} \({project_id}\)\. Store it", printed.stderr)


@pytest.mark.parametrize("command", ["show", "rotate", "revoke"])
def test_an_id_of_no_key_is_named(prod: dict[str, str], command: str) -> None:
    refused = run("keys", command, "zzzz", *PROD, **prod)
    assert refused.returncode == 1
    assert "No key with the id zzzz." in refused.stderr


def test_what_is_changed_is_changed_in_a_database_that_is_named(prod: dict[str, str]) -> None:
    secret = prod | {
        "LLMRING_DATABASE_URL": with_password(prod["LLMRING_DATABASE_URL"], "pass-canary")
    }
    name = f"project {uuid4().hex}"
    model = f"acme:m-{uuid4().hex}"
    key = run("keys", "issue", "--project", name, *PROD, **secret)
    changes = (
        ("keys", "rotate", key.stdout[8:16]),
        ("keys", "revoke", key.stdout[8:16]),
        ("projects", "create", f"{name}-2"),
        ("projects", "rename", f"{name}-2", f"{name}-3"),
        ("projects", "retain", name, "30d"),
        ("prices", "override", model, "--input", "1"),
        ("prices", "override", model, "--remove"),
        ("aliases", "bind", "fast", "openai:gpt-4o-mini", "--project", name),
        ("aliases", "delete", "fast", "--project", name),
    )
    for printed in (key, *(run(*change, *PROD, **secret) for change in changes)):
        assert printed.returncode == 0, printed.stderr
        location = display_location(prod["LLMRING_DATABASE_URL"])
        assert f"Database: {location}\n" in printed.stderr
        assert "pass-canary" not in printed.stderr
    assert "Database" not in run("keys", "list", *PROD, **secret).stderr


def test_the_list_of_projects_is_complete_in_a_narrow_terminal(prod: dict[str, str]) -> None:
    name = f"project {uuid4().hex}"
    project_id = check_output("projects", "create", name, *PROD, **prod).strip()
    listed = check_output("projects", "list", *PROD, **prod | {"COLUMNS": "80"})
    assert project_id in listed
    lines = listed.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line[-1] in "┓┃┩│┘" for line in lines), "no column is cut off"


@pytest.mark.parametrize("wrong", [("--expires", "soon"), ("--scope", "root")])
def test_invalid_key_options_are_rejected(prod: dict[str, str], wrong: tuple[str, str]) -> None:
    assert run("keys", "issue", *wrong, *PROD, **prod).returncode == 2


@pytest.mark.slow  # an erasure takes eleven seconds
def test_projects_are_created_renamed_and_erased(prod: dict[str, str]) -> None:
    name, other = f"project {uuid4().hex}", f"project {uuid4().hex}"
    project_id = check_output("projects", "create", name, *PROD, **prod).strip()
    assert "already" in run("projects", "create", name, *PROD, **prod).stderr
    check_output("projects", "rename", name, other, *PROD, **prod)
    listed = check_output("projects", "list", *PROD, **prod)
    assert (other in listed, project_id in listed, name in listed) == (True, True, False)
    asked = run("projects", "erase", other, *PROD, **prod)
    assert asked.returncode == 1, "it asks first"
    check_output("projects", "erase", other, "--yes", *PROD, **prod)
    assert project_id not in check_output("projects", "list", *PROD, **prod)


async def test_labels_are_not_interpreted_as_markup(ring: Ring, prod: dict[str, str]) -> None:
    issued = await ring.keys.issue(
        f"project {uuid4()}", KeyOptions("[/x] [link=y]z"), actor=LIBRARY
    )
    shown = check_output("keys", "show", issued.id, *PROD, **prod)
    assert "[/x] [link=y]z" in shown
    assert "[/x]" in check_output("keys", "list", *PROD, **prod)


def test_missing_proxy_secret_is_reported(prod: dict[str, str]) -> None:
    wrong = run("keys", "list", *PROD, **prod, LLMRING_AUTH="proxy")
    assert (wrong.returncode, "LLMRING_PROXY_SECRETS" in wrong.stderr) == (2, True)
