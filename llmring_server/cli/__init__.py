"""The command line: every command is a client of `Ring`."""

from typing import Any

import asyncpg
import rich_click as click

from llmring_server.cli.access import audit, keys, projects
from llmring_server.cli.conversations import conversations
from llmring_server.cli.db import db
from llmring_server.cli.environment import in_words_of_command_line, warn_of_variables
from llmring_server.cli.mcp import mcp
from llmring_server.cli.pricing import prices
from llmring_server.cli.receipts import receipts
from llmring_server.cli.registry import registry
from llmring_server.cli.serve import serve
from llmring_server.cli.stats import stats
from llmring_server.cli.templates import aliases, templates
from llmring_server.cli.transfer import export_calls, import_data
from llmring_server.errors import RingError


class Group(click.RichGroup):
    def invoke(self, ctx: click.Context) -> Any:
        """Report an expected error as one sentence instead of a traceback."""
        try:
            return super().invoke(ctx)
        except (RingError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
            raise click.ClickException(in_words_of_command_line(str(exc), ctx)) from exc


@click.group(cls=Group)
@click.version_option(package_name="llmring-server")
def main() -> None:
    """Record every LLM call exactly once, with an exact cost.

    The option --env selects the database that a command works on:

    \b
    dev   LLMRING_DATABASE_URL if set, else the embedded PostgreSQL (default)
    test  a temporary database on the server that TEST_DB_HOST, TEST_DB_PORT,
          TEST_DB_USER and TEST_DB_PASSWORD name, else on the embedded one
    prod  LLMRING_DATABASE_URL, else DATABASE_URL; an error if neither is set

    The embedded PostgreSQL stores its data in --data-dir (LLMRING_DATA_DIR). Without that option,
    commands use the data of the server that you run with `serve`.

    `db url` prints the URL of the database, and commands that write name it on stderr.
    """
    warn_of_variables()


main.add_command(serve)
main.add_command(db)
main.add_command(keys)
main.add_command(projects)
main.add_command(audit)
main.add_command(stats)
main.add_command(export_calls)
main.add_command(import_data)
main.add_command(prices)
main.add_command(receipts)
main.add_command(registry)
main.add_command(templates)
main.add_command(aliases)
main.add_command(conversations)
main.add_command(mcp)
