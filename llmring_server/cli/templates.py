"""`llmring-server aliases`: what aliases mean."""

from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import rich_click as click
from pydantic import ValidationError
from rich.table import Table

from llmring_server.aliases.service import DEFAULT, AliasPage, BindAlias
from llmring_server.cli.environment import all_pages, project_options, with_project
from llmring_server.cli.output import CONSOLE, entry, wrapping_table
from llmring_server.templates.models import Template, TemplatePage

profile = click.option("--profile", default=DEFAULT, show_default=True, help="dev, staging, prod.")


@click.group()
def aliases() -> None:
    """Bind, resolve, list and delete aliases of models."""


@aliases.command("bind")
@project_options
@profile
@click.argument("alias")
@click.argument("model")
def bind_alias(env: str, data_dir: Path, project: str, **given: Any) -> None:
    """Let ALIAS mean MODEL (provider:model)."""
    try:
        bound = BindAlias(**given)
    except ValidationError as exc:
        wrong = [f"{each['loc'][0]}: {each['msg']}" for each in exc.errors()]
        raise click.UsageError("\n".join(wrong)) from exc
    with_project(
        env, data_dir, project, lambda ring, project_id: ring.aliases.bind(project_id, bound)
    )


@aliases.command("resolve")
@project_options
@profile
@click.argument("alias")
def resolve_alias(env: str, data_dir: Path, project: str, profile: str, alias: str) -> None:
    """Show what ALIAS means; fail if it means nothing."""
    binding = with_project(
        env,
        data_dir,
        project,
        lambda ring, project_id: ring.aliases.get(project_id, alias, profile),
    )
    click.echo(binding.model)


@aliases.command("list")
@project_options
@click.option("--profile", help="Of this profile only.")
def list_aliases(env: str, data_dir: Path, project: str, profile: str | None) -> None:
    """List aliases, and what they mean."""
    wanted = AliasPage(profile=profile)
    table = wrapping_table("alias", "profile", "model", "since")
    for each in with_project(
        env,
        data_dir,
        project,
        lambda ring, project_id: all_pages(
            partial(ring.aliases.list, project_id), project_id, wanted
        ),
    ):
        table.add_row(each.alias, each.profile, each.model, f"{each.updated_at:%Y-%m-%d %H:%M}")
    CONSOLE.print(table)


@aliases.command("delete")
@project_options
@profile
@click.argument("alias")
def delete_alias(env: str, data_dir: Path, project: str, profile: str, alias: str) -> None:
    """Let ALIAS mean nothing."""
    if not with_project(
        env,
        data_dir,
        project,
        lambda ring, project_id: ring.aliases.delete(project_id, alias, profile),
    ):
        raise click.ClickException("There is no such alias in this profile.")


@click.group()
def templates() -> None:
    """List templates, and show one."""


@templates.command("list")
@project_options
def list_templates(env: str, data_dir: Path, project: str) -> None:
    """List templates, the newest first."""
    page = TemplatePage(limit=100)
    for each in with_project(
        env,
        data_dir,
        project,
        lambda ring, project_id: all_pages(
            partial(ring.templates.list, project_id), project_id, page
        ),
    ):
        counts = f"version {each.version}", f"{each.usage_count:,} uses"
        entry(each.id, each.name, each.model, *counts, *["shared"] * each.shared)


@templates.command("show")
@project_options
@click.argument("id", type=click.UUID)
def show_template(env: str, data_dir: Path, project: str, id: UUID) -> None:
    """Show all about a template."""
    found = with_project(
        env, data_dir, project, lambda ring, project_id: ring.templates.get(project_id, id)
    )
    table = Table(show_header=False)
    for name in Template.__slots__:
        table.add_row(name.replace("_", " "), str(getattr(found, name)))
    CONSOLE.print(table)
