"""`llmring-server conversations` and `projects retain`, as an operator uses them."""

import json
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from llmring_server import Ring
from llmring_server.conversations.models import NewConversation, NewMessage
from llmring_server.core.identity import LIBRARY
from tests.cli.test_access import PROD, prod
from tests.cli.test_db import check_output, run

__all__ = ["prod"]

MESSAGES = [
    NewMessage(
        role="user", content=[{"type": "text", "text": "A [bold] cat?"}, {"image": "x" * 600}]
    ),
    NewMessage(role="assistant", content=None, tool_calls=[{"name": "look"}], cost=Decimal("0.25")),
    NewMessage(role="tool", content="A cat.\x1b[31m", tool_results=[1]),
]


@pytest.fixture
async def chat(ring: Ring) -> tuple[str, str]:
    """A project, and the id of its one conversation."""
    project = f"project {uuid4().hex}"
    project_id = await ring.projects.create(project, actor=LIBRARY)
    heading = NewConversation(title="Cats [and dogs]", system_prompt="Be kind\nand brief")
    id = (await ring.conversations.create(project_id, heading)).id
    await ring.conversations.append(project_id, id, MESSAGES)
    return project, str(id)


async def test_conversations_are_listed_and_searched(
    chat: tuple[str, str], prod: dict[str, str]
) -> None:
    project, id = chat
    listed = check_output("conversations", "list", "--project", project, *PROD, **prod)
    assert all(value in listed for value in (id, "Cats [and dogs]", "0.25"))
    for words, found in (("bold cat", True), ("birds", False)):
        search = ("--project", project, "--search", words)
        assert (id in check_output("conversations", "list", *search, *PROD, **prod)) == found


async def test_a_conversation_is_shown_as_a_chat(
    chat: tuple[str, str], prod: dict[str, str]
) -> None:
    project, id = chat
    shown = check_output("conversations", "show", id, "--project", project, *PROD, **prod)
    lines = [line.strip() for line in shown.splitlines()]
    assert lines[:2] == ["Cats [and dogs]", "default, 0.25 USD"]
    for line in ("A [bold] cat?", 'tool call {"name":"look"}', "A cat.\ufffd[31m", "tool result 1"):
        assert line in lines
    assert [line.split(",")[0] for line in lines if ", 20" in line] == ["user", "assistant", "tool"]
    last = check_output(
        "conversations", "show", id, "--last", "1", "--project", project, *PROD, **prod
    )
    assert "2 earlier messages not shown." in last
    assert "bold" not in last


async def test_members_of_a_provider_are_shown_and_exported(
    chat: tuple[str, str], ring: Ring, prod: dict[str, str]
) -> None:
    project, id = chat
    project_id = await ring.projects.find(project)
    parts = NewMessage.model_validate({"role": "model", "parts": [{"text": "A cat"}]})
    await ring.conversations.append(project_id, UUID(id), [parts])
    await ring.conversations.append(project_id, UUID(id), [parts], "metadata")
    where = (id, "--project", project, *PROD)
    shown = check_output("conversations", "show", *where, **prod)
    lines = [line.strip() for line in shown.splitlines()]
    assert 'parts [{"text":"A cat"}]' in lines
    assert "(content not stored)" in lines
    exported = check_output("conversations", "export", *where, **prod).splitlines()
    assert json.loads(exported[-2])["parts"] == [{"text": "A cat"}]


async def test_a_conversation_is_exported(chat: tuple[str, str], prod: dict[str, str]) -> None:
    project, id = chat
    export = ("conversations", "export", id, "--project", project)
    head, *messages = map(json.loads, check_output(*export, *PROD, **prod).splitlines())
    assert (head["id"], head["total_cost"]) == (id, 0.25)
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[0]["content"] == MESSAGES[0].content
    markdown = check_output(*export, "--format", "markdown", *PROD, **prod)
    assert markdown.startswith("# Cats [and dogs]\n\n> Be kind\n> and brief\n")
    assert "\n## user, 20" in markdown


async def test_conversation_of_another_project_is_not_found(
    chat: tuple[str, str], ring: Ring, prod: dict[str, str]
) -> None:
    other = f"project {uuid4().hex}"
    await ring.projects.create(other, actor=LIBRARY)
    ran = run("conversations", "show", chat[1], "--project", other, *PROD, **prod)
    assert (ran.returncode, "Conversation not found" in ran.stderr) == (1, True)
    # In mode `open`, any text is a key.
    ran = run("conversations", "list", "--project", uuid4().hex, *PROD, **prod)
    assert ran.returncode == 1
    assert not check_output(
        "conversations", "list", *PROD, **prod | {"LLMRING_AUTH": "open"}
    ).count("Cats")


async def test_retain_sets_the_retention_of_a_project(
    chat: tuple[str, str], ring: Ring, prod: dict[str, str]
) -> None:
    project, id = chat
    check_output("projects", "retain", project, "30d", *PROD, **prod)
    assert "30d" in check_output("projects", "list", *PROD, **prod)
    assert run("projects", "retain", project, "0d", *PROD, **prod).returncode == 2
    assert "Deleted: " in check_output("db", "maintain", *PROD, **prod)
    project_id = await ring.projects.find(project)
    assert len(await ring.conversations.messages(project_id, UUID(id))) == 3
    check_output("projects", "retain", project, "forever", *PROD, **prod)
