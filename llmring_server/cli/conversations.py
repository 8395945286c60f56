"""`llmring-server conversations`: what was said, as people like to read it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import rich_click as click
from rich.padding import Padding

from llmring_server.cli.environment import project_options, with_project
from llmring_server.cli.output import CONSOLE, brief, entry
from llmring_server.conversations.models import (
    Conversation,
    ConversationPage,
    ConversationSummary,
    Message,
    MessagePage,
)
from llmring_server.core.identity import ProjectId
from llmring_server.core.strict_json import json_default
from llmring_server.ring import Ring

PAGE = 500


@click.group()
def conversations() -> None:
    """List, show and export conversations."""


@conversations.command("list")
@project_options
@click.option("--search", "q", help="Only those with these words in their title or messages.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, PAGE))
def list_(env: str, data_dir: Path, project: str, **page: Any) -> None:
    """List conversations, the last to change first."""

    async def work(ring: Ring, project_id: ProjectId) -> list[Conversation]:
        return await ring.conversations.list(project_id, ConversationPage(**page))

    for each in with_project(env, data_dir, project, work):
        tokens = f"{each.total_input_tokens:,} → {each.total_output_tokens:,} tokens"
        sums = f"{each.message_count:,} messages", tokens, f"{_usd(each)} USD"
        changed = f"{each.updated_at:%Y-%m-%d %H:%M}"
        entry(each.id, each.title or "", each.model_alias, *sums, changed)


@conversations.command()
@project_options
@click.argument("id", type=click.UUID)
@click.option("--last", default=PAGE, show_default=True, type=click.IntRange(1, 1000))
def show(env: str, data_dir: Path, project: str, id: UUID, last: int) -> None:
    """Show a conversation: its last messages, as a chat."""

    async def work(ring: Ring, project_id: ProjectId) -> tuple[Conversation, list[Message]]:
        page = MessagePage(limit=last, order="desc")
        found = await ring.conversations.get(project_id, id)
        return found, (await ring.conversations.messages(project_id, id, page))[::-1]

    conversation, messages = with_project(env, data_dir, project, work)
    CONSOLE.print(conversation.title or "Untitled", style="bold")
    CONSOLE.print(f"{conversation.model_alias}, {_usd(conversation)} USD")
    if conversation.message_count > len(messages):
        CONSOLE.print(f"{conversation.message_count - len(messages):,} messages before these.")
    for each in messages:
        CONSOLE.print()
        CONSOLE.print(f"{each.role}, {each.timestamp:%Y-%m-%d %H:%M}", style="bold cyan")
        CONSOLE.print(Padding(readable(each), (0, 0, 0, 2)))


def _usd(conversation: Conversation) -> str:
    return f"{conversation.total_cost.normalize():f}"


def readable(message: Message) -> str:
    """Return what a message says: its text, and of the rest what it is."""
    lines = [_said(message.content)] if message.content else []
    lines += [f"calls {brief(call, PAGE)}" for call in message.tool_calls or ()]
    lines += [f"gets {brief(result, PAGE)}" for result in message.tool_results or ()]
    return "\n".join(lines) or "(content not kept)"


def _said(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    return "\n".join(_part(part) for part in parts)


def _part(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    return text if isinstance(text, str) else brief(part, PAGE)


@conversations.command()
@project_options
@click.argument("id", type=click.UUID)
@click.option(
    "--format", "form", type=click.Choice(["jsonl", "markdown"]), default="jsonl", show_default=True
)
def export(env: str, data_dir: Path, project: str, id: UUID, form: str) -> None:
    """Write all of a conversation to standard output.

    As JSON lines, the first is the conversation, and each of the others a message.
    """

    async def work(ring: Ring, project_id: ProjectId) -> None:
        conversation = await ring.conversations.get(project_id, id)
        messages = ring.conversations.read(project_id, id)
        lines = _jsonl if form == "jsonl" else _markdown
        async for line in lines(project_id, conversation, messages):
            click.echo(line)

    with_project(env, data_dir, project, work)


Lines = AsyncIterator[str]


async def _jsonl(
    project_id: ProjectId, conversation: Conversation, messages: AsyncIterator[Message]
) -> Lines:
    yield orjson.dumps(
        ConversationSummary.to(project_id, conversation), json_default, orjson.OPT_UTC_Z
    ).decode()
    async for each in messages:
        yield orjson.dumps(each, json_default, orjson.OPT_UTC_Z).decode()


async def _markdown(
    _: ProjectId, conversation: Conversation, messages: AsyncIterator[Message]
) -> Lines:
    yield f"# {conversation.title or 'Untitled'}\n"
    if conversation.system_prompt:
        yield f"> {conversation.system_prompt}\n".replace("\n", "\n> ").removesuffix("> ")
    async for each in messages:
        yield f"## {each.role}, {each.timestamp:%Y-%m-%d %H:%M}\n\n{readable(each)}\n"
