"""`llmring-server aliases`: what aliases mean."""

from functools import partial
from pathlib import Path
from typing import Any

import rich_click as click
from pydantic import ValidationError

from llmring_server.aliases import DEFAULT, Bind, Wanted
from llmring_server.cli.project import collected, on_project, options
from llmring_server.cli.tables import SCREEN, folding

profile = click.option("--profile", default=DEFAULT, show_default=True, help="dev, staging, prod.")


@click.group()
def aliases() -> None:
    """Bind, resolve, list and delete aliases of models."""


@aliases.command()
@options
@profile
@click.argument("alias")
@click.argument("model")
def bind(env: str, data_dir: Path, project: str, **given: Any) -> None:
    """Let ALIAS mean MODEL (provider:model)."""
    try:
        bound = Bind(**given)
    except ValidationError as exc:
        wrong = [f"{each['loc'][0]}: {each['msg']}" for each in exc.errors()]
        raise click.UsageError("\n".join(wrong)) from exc
    on_project(env, data_dir, project, lambda ring, tenant: ring.aliases.bind(tenant, bound))


@aliases.command()
@options
@profile
@click.argument("alias")
def resolve(env: str, data_dir: Path, project: str, profile: str, alias: str) -> None:
    """Show what ALIAS means; fail if it means nothing."""
    binding = on_project(
        env, data_dir, project, lambda ring, tenant: ring.aliases.get(tenant, alias, profile)
    )
    click.echo(binding.model)


@aliases.command("list")
@options
@click.option("--profile", help="Of this profile only.")
def list_(env: str, data_dir: Path, project: str, profile: str | None) -> None:
    """List aliases, and what they mean."""
    wanted = Wanted(profile=profile)
    table = folding("alias", "profile", "model", "since")
    for each in on_project(
        env,
        data_dir,
        project,
        lambda ring, tenant: collected(partial(ring.aliases.list, tenant), tenant, wanted),
    ):
        table.add_row(each.alias, each.profile, each.model, f"{each.updated_at:%Y-%m-%d %H:%M}")
    SCREEN.print(table)


@aliases.command()
@options
@profile
@click.argument("alias")
def delete(env: str, data_dir: Path, project: str, profile: str, alias: str) -> None:
    """Let ALIAS mean nothing."""
    if not on_project(
        env, data_dir, project, lambda ring, tenant: ring.aliases.delete(tenant, alias, profile)
    ):
        raise click.ClickException("There is no such alias in this profile.")
