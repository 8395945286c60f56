"""`llmring-server conversations`: list, show and export conversations."""

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
    Message,
    MessagePage,
    MessageResponse,
)
from llmring_server.core.identity import ProjectId
from llmring_server.core.money import decimal_text
from llmring_server.core.strict_json import encode_json
from llmring_server.ring import Ring

MAX_LISTED = 500
MAX_SHOWN_MESSAGES = 1000
DEFAULT_SHOWN_MESSAGES = 500
# Tool calls, tool results and parts that are not text are cut after this many characters.
MAX_JSON_CHARACTERS = 500


@click.group()
def conversations() -> None:
    """List, show and export conversations."""


@conversations.command("list")
@project_options
@click.option("--search", "q", help="Only conversations with these words in title or messages.")
@click.option(
    "--limit",
    default=20,
    show_default=True,
    type=click.IntRange(1, MAX_LISTED),
    help="Maximum number of conversations.",
)
def list_conversations(env: str, data_dir: Path, project: str, q: str | None, limit: int) -> None:
    """List conversations, most recently updated first."""

    async def read(ring: Ring, project_id: ProjectId) -> list[Conversation]:
        return await ring.conversations.list(project_id, ConversationPage(q=q, limit=limit))

    for conversation in with_project(env, data_dir, project, read):
        entry(
            conversation.id,
            conversation.title or "",
            conversation.model_alias,
            f"{conversation.message_count:,} messages",
            f"{conversation.total_input_tokens:,} → {conversation.total_output_tokens:,} tokens",
            f"{_cost(conversation)} USD",
            f"{conversation.updated_at:%Y-%m-%d %H:%M}",
        )


@conversations.command("show")
@project_options
@click.argument("id", type=click.UUID)
@click.option(
    "--last",
    default=DEFAULT_SHOWN_MESSAGES,
    show_default=True,
    type=click.IntRange(1, MAX_SHOWN_MESSAGES),
    help="Number of messages, counted from the newest.",
)
def show_conversation(env: str, data_dir: Path, project: str, id: UUID, last: int) -> None:
    """Show a conversation and its last messages."""

    async def read(ring: Ring, project_id: ProjectId) -> tuple[Conversation, list[Message]]:
        conversation = await ring.conversations.get(project_id, id)
        page = MessagePage(limit=last, order="desc")
        messages = await ring.conversations.messages(project_id, id, page)
        return conversation, messages[::-1]

    conversation, messages = with_project(env, data_dir, project, read)
    CONSOLE.print(conversation.title or "Untitled", style="bold")
    CONSOLE.print(f"{conversation.model_alias}, {_cost(conversation)} USD")
    if conversation.message_count > len(messages):
        CONSOLE.print(f"{conversation.message_count - len(messages):,} earlier messages not shown.")
    for message in messages:
        CONSOLE.print()
        CONSOLE.print(f"{message.role}, {message.timestamp:%Y-%m-%d %H:%M}", style="bold cyan")
        CONSOLE.print(Padding(_message_text(message), (0, 0, 0, 2)))


@conversations.command("export")
@project_options
@click.argument("id", type=click.UUID)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["jsonl", "markdown"]),
    default="jsonl",
    show_default=True,
    help="Output format.",
)
def export_conversation(env: str, data_dir: Path, project: str, id: UUID, file_format: str) -> None:
    """Write a whole conversation to standard output.

    In JSON lines, the first line is the conversation; each of the others is a message.
    """
    lines = _jsonl if file_format == "jsonl" else _markdown

    async def write(ring: Ring, project_id: ProjectId) -> None:
        conversation = await ring.conversations.get(project_id, id)
        async for line in lines(conversation, ring.conversations.all_messages(project_id, id)):
            click.echo(line)

    with_project(env, data_dir, project, write)


async def _jsonl(
    conversation: Conversation, messages: AsyncIterator[Message]
) -> AsyncIterator[str]:
    yield _json_line(conversation)
    async for message in messages:
        yield _json_line(message.response())


def _json_line(value: Conversation | MessageResponse) -> str:
    return encode_json(value, option=orjson.OPT_UTC_Z).decode()


async def _markdown(
    conversation: Conversation, messages: AsyncIterator[Message]
) -> AsyncIterator[str]:
    yield f"# {conversation.title or 'Untitled'}\n"
    if conversation.system_prompt:
        yield f"> {conversation.system_prompt}\n".replace("\n", "\n> ").removesuffix("> ")
    async for message in messages:
        yield (
            f"## {message.role}, {message.timestamp:%Y-%m-%d %H:%M}\n\n{_message_text(message)}\n"
        )


def _cost(conversation: Conversation) -> str:
    return decimal_text(conversation.total_cost)


def _message_text(message: Message) -> str:
    """Return the text of a message, and its tool calls and other members as JSON."""
    lines = [_content_text(message.content)] if message.content else []
    lines += [f"tool call {brief(call, MAX_JSON_CHARACTERS)}" for call in message.tool_calls or ()]
    lines += [
        f"tool result {brief(result, MAX_JSON_CHARACTERS)}" for result in message.tool_results or ()
    ]
    lines += [
        f"{name} {brief(member, MAX_JSON_CHARACTERS)}" for name, member in message.members.items()
    ]
    if not message.content_kept:
        lines.append("(content not stored)")
    return "\n".join(lines) or "(no content)"


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    return "\n".join(_part_text(part) for part in parts)


def _part_text(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    return text if isinstance(text, str) else brief(part, MAX_JSON_CHARACTERS)
