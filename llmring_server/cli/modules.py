"""`llmring-server db ... --config pgdbm.toml`: the modules of a file."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import rich_click as click

from llmring_server.cli import environment
from llmring_server.cli.output import CONSOLE, wrapping_table
from llmring_server.db import admin
from llmring_server.db.module_migrations import migrate_modules, module_status, plan
from llmring_server.db.pgdbm_config import Module, PgdbmConfig, read_pgdbm_config
from llmring_server.settings import Settings


class ConfiguredModules(NamedTuple):
    """The modules of a file, and the database that they are in."""

    config: PgdbmConfig
    settings: Settings
    # In words, without a password.
    location: str


@contextmanager
def open_config(path: Path, env: str, data_dir: Path) -> Iterator[ConfiguredModules]:
    """Read the file and yield its modules; the database exists for as long as it is used.

    A file without environments works on the database of our own environment of this name.
    """
    config = read_pgdbm_config(path, None if environment.is_default("env") else env)
    if config.url is None:
        if env not in environment.NAMES:
            raise click.UsageError(f"{path} has no environments: --env {env} names none.")
        with environment.open_environment(env, data_dir) as target:
            yield ConfiguredModules(config, _one_connection(target.settings), target.location)
        return
    settings = environment.read_settings("dev").model_copy(
        update={
            "database_url": config.url,
            # The URL says all about TLS, and that there is no pooler.
            "database_tls": None,
            "database_tls_ca": None,
            "database_pooler": False,
        }
    )
    yield ConfiguredModules(config, _one_connection(settings), admin.display_location(config.url))


def _one_connection(settings: Settings) -> Settings:
    return settings.model_copy(update={"database_pool_size": 1, "database_pool_overflow": 0})


def create_and_migrate(target: ConfiguredModules) -> None:
    created = asyncio.run(admin.create_database(target.settings.dsn() or ""))
    click.echo(f"{'Created' if created else 'Found'} the database: {target.location}")
    migrate(target)


def migrate(target: ConfiguredModules) -> None:
    config, settings, location = target
    planned = plan(config, settings)
    name = f", environment {config.environment}" if config.environment else ""
    click.echo(f"Database: {location}{name}")
    order = [f"{module.name} ({', '.join(schemas)})" for module, schemas in planned]
    click.echo(f"Order: {' -> '.join(order)}")
    asyncio.run(migrate_modules(config, settings, _report, _report_waiting))
    for module, (schema, *others) in planned:
        if module.is_own:
            _print_settings_to_serve(module, schema, others[0], settings)


def show_status(target: ConfiguredModules) -> None:
    config, settings, location = target
    name = f", {config.environment}" if config.environment else ""
    table = wrapping_table("module", "schema", "migration", "applied")
    table.title = f"{location}{name}"
    for each in asyncio.run(module_status(config, settings)):
        applied = f"{each.applied_at:%Y-%m-%d %H:%M:%S %Z}" if each.applied_at else "pending"
        if each.is_changed:
            applied += ", and the file was changed since"
        table.add_row(each.module, each.schema, each.filename, applied)
    CONSOLE.print(table)


def _report(module: Module, applied: list[str]) -> None:
    click.echo(f"{module.name}: {', '.join(applied) if applied else 'up to date'}")


def _report_waiting() -> None:
    click.echo("Waiting for another process that migrates this database ...", err=True)


def _print_settings_to_serve(
    module: Module, schema: str, mcp_schema: str, settings: Settings
) -> None:
    """Print the settings by which the server finds the tables, unless the defaults do."""
    needed = []
    if schema != settings.database_schema:
        needed.append(f"LLMRING_DATABASE_SCHEMA={schema}")
    if mcp_schema != settings.mcp_schema_beside(schema):
        needed.append(f"LLMRING_MCP_SCHEMA={mcp_schema}")
    if needed:
        click.echo(f"To serve {module.name}, set {' '.join(needed)}", err=True)
