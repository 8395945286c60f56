"""`llmring-server db`: the database and its schema."""

import asyncio
import os
import re
from datetime import timedelta
from pathlib import Path

import rich_click as click
from rich.table import Table

from llmring_server import maintenance
from llmring_server.cli import environment, modules
from llmring_server.cli.output import CONSOLE
from llmring_server.core.connection_string import parse
from llmring_server.core.database_warnings import DatabaseWarning
from llmring_server.db import admin, migrations
from llmring_server.db.database import Database, open_database
from llmring_server.db.migration_script import migration_script
from llmring_server.db.safety import DatabaseSafety
from llmring_server.settings import Settings


@click.group()
def db() -> None:
    """Create, migrate and inspect the database."""


@db.command()
@environment.config_options
def create(env: str, data_dir: Path, config: Path | None) -> None:
    """Create the database and its tables.

    With --env test, create a temporary database and keep it; `db drop-test` drops it.
    """
    if config is not None:
        with modules.open_config(config, env, data_dir) as target:
            modules.create_and_migrate(target)
        return
    if env == "test":
        with environment.server_for_tests(data_dir) as server:
            click.echo(admin.display_location(asyncio.run(_create_throwaway(server))))
        return
    with environment.open_environment(env, data_dir) as target:
        created = asyncio.run(admin.create_database(target.settings.dsn() or ""))
        click.echo(f"{'Created' if created else 'Found'} the database: {target.location}")
        _report(asyncio.run(_migrate(target.settings)))


@db.command()
@environment.config_options
def migrate(env: str, data_dir: Path, config: Path | None) -> None:
    """Apply pending migrations. Repeated and concurrent runs are safe.

    With --config pgdbm.toml, apply those of all modules in the file, each in its schema, in the
    order of their dependencies.
    """
    if config is not None:
        with modules.open_config(config, env, data_dir) as target:
            modules.migrate(target)
        return
    with environment.open_environment(env, data_dir) as target:
        _report(asyncio.run(_migrate(target.settings)))


@db.command()
@environment.config_options
def status(env: str, data_dir: Path, config: Path | None) -> None:
    """List the migrations and when each was applied, and what makes the database unsafe.

    With --config pgdbm.toml, list the migrations of all modules in the file.
    """
    if config is not None:
        with modules.open_config(config, env, data_dir) as target:
            modules.show_status(target)
        return
    with environment.open_environment(env, data_dir) as target:
        statuses, warnings = asyncio.run(_status(target.settings))
        table = Table(
            "migration", "applied", title=f"{target.location}, {target.settings.database_schema}"
        )
        for filename, applied_at in statuses:
            time = f"{applied_at:%Y-%m-%d %H:%M:%S %Z}" if applied_at else "pending"
            table.add_row(filename, time)
        CONSOLE.print(table)
        for warning in warnings:
            click.echo(f"Unsafe database: {warning['detail']}")


@db.command()
@click.option("--schema", help="Schema of the tables. Default: LLMRING_DATABASE_SCHEMA, llmring.")
@click.option("--mcp-schema", help="Schema of the tables of MCP. Default: LLMRING_MCP_SCHEMA.")
def sql(schema: str | None, mcp_schema: str | None) -> None:
    """Print the SQL of all migrations, for a database administrator to apply.

    \b
    llmring-server db sql > llmring.sql
    psql -v ON_ERROR_STOP=1 -f llmring.sql "$DATABASE_URL"

    It is one transaction. What has been applied before is left out when it runs, so it is also
    how to upgrade. `db status` agrees with it afterwards.
    """
    given = {"LLMRING_DATABASE_SCHEMA": schema, "LLMRING_MCP_SCHEMA": mcp_schema}
    settings = environment.read(
        {**os.environ, **{name: value for name, value in given.items() if value is not None}}
    )
    schemas = settings.database_schema, settings.mcp_schema_beside(settings.database_schema)
    click.echo(asyncio.run(migration_script(*schemas)), nl=False)


@db.command()
@environment.options
def url(env: str, data_dir: Path) -> None:
    """Print the URL of the database, for psql and other programs.

    The embedded PostgreSQL is started if it does not run, and runs as long as a command uses it:
    keep `llmring-server serve` running while a program works on its database.
    """
    if env == "test":
        raise click.UsageError("A database of test is dropped at the end of the command.")
    with environment.open_environment(env, data_dir) as target:
        dsn = target.settings.dsn() or ""
    if admin.has_password(dsn):
        click.echo("This URL contains a password.", err=True)
    click.echo(parse(dsn).libpq_url())


class RetentionDays(click.ParamType[timedelta]):
    """A number of days, written 400d."""

    name = "days"

    def convert(self, value: str, _: object, __: object) -> timedelta:
        if not re.fullmatch(r"[1-9]\d{0,4}d", value):
            self.fail("expected a number of days, such as 400d")
        return timedelta(days=int(value.removesuffix("d")))


@db.command()
@environment.options
@click.option(
    "--retain",
    type=RetentionDays(),
    help="Drop the calls of months that ended at least this long ago; daily totals stay."
    " For example 400d.",
)
def maintain(env: str, data_dir: Path, retain: timedelta | None) -> None:
    """Create future partitions; with --retain, drop old ones. Run daily.

    Daily totals of dropped calls remain in the statistics. Messages and tool executions older
    than the retention of their project (`projects retain`) are deleted, and so are MCP
    capabilities that have been inactive for that long, or else for 400 days, unless they have a
    history.
    """
    with environment.open_environment(env, data_dir) as target:
        report = asyncio.run(_maintain(target.settings, retain))
    click.echo(f"Created: {', '.join(report.created) or 'nothing'}")
    click.echo(f"Dropped: {', '.join(report.dropped) or 'nothing'}")
    deleted = [f"{rows:,} {kind}" for kind, rows in report.deleted.items()]
    click.echo(f"Deleted: {', '.join(deleted)}")


@db.command()
@environment.data_dir
def drop_test(data_dir: Path) -> None:
    """Drop the temporary databases that `db create --env test` created."""
    with environment.server_for_tests(data_dir) as server:
        dropped = asyncio.run(_drop_throwaways(server))
    click.echo(f"Dropped: {', '.join(dropped)}" if dropped else "There are no test databases.")


def _report(applied: list[str]) -> None:
    click.echo(f"Applied: {', '.join(applied)}" if applied else "The database is up to date.")


async def _migrate(settings: Settings) -> list[str]:
    async with open_database(settings) as manager:
        return await migrations.migrate(manager, settings.mcp_schema)


async def _maintain(settings: Settings, retain: timedelta | None) -> maintenance.MaintenanceReport:
    async with open_database(settings) as manager:
        return await maintenance.maintain(
            manager, retain, settings.mcp_schema, actor=environment.operator()
        )


async def _status(
    settings: Settings,
) -> tuple[list[migrations.MigrationStatus], list[DatabaseWarning]]:
    async with open_database(settings) as manager:
        statuses = await migrations.migration_status(manager, settings.mcp_schema)
        return statuses, await DatabaseSafety(Database(manager, settings), settings).warnings()


async def _create_throwaway(server: str) -> str:
    url = admin.throwaway_url(server)
    await admin.create_database(url, throwaway=True)
    await _migrate(
        environment.read_settings("test").model_copy(
            update={"database_url": url, "database_pool_size": 1}
        )
    )
    return url


async def _drop_throwaways(server: str) -> list[str]:
    names = await admin.throwaway_databases(server)
    for name in names:
        await admin.drop_database(admin.with_database_name(server, name))
    return names
