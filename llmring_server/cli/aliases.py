"""`llmring-server aliases`: what aliases mean."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from llmring_server.aliases import DEFAULT, Bind, Wanted
from llmring_server.cli import environment
from llmring_server.ring import Ring
from llmring_server.tenant import Tenant

Result = TypeVar("Result")

project = click.option(
    "--project", default="default", show_default=True, help="Its name, or its tenant."
)
profile = click.option("--profile", default=DEFAULT, show_default=True, help="dev, staging, prod.")


def of_project(
    env: str, data_dir: Path, project: str, work: Callable[[Ring, Tenant], Awaitable[Result]]
) -> Result:
    """Do `work` for a project that is named."""

    async def working(ring: Ring) -> Result:
        return await work(ring, await ring.projects.find(project))

    return environment.on_ring(env, data_dir, working)


@click.group()
def aliases() -> None:
    """Bind, resolve, list and delete aliases of models."""


@aliases.command()
@environment.options
@project
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
    of_project(env, data_dir, project, lambda ring, tenant: ring.aliases.bind(tenant, bound))


@aliases.command()
@environment.options
@project
@profile
@click.argument("alias")
def resolve(env: str, data_dir: Path, project: str, profile: str, alias: str) -> None:
    """Show what ALIAS means; fail if it means nothing."""
    binding = of_project(
        env, data_dir, project, lambda ring, tenant: ring.aliases.get(tenant, alias, profile)
    )
    click.echo(binding.model)


@aliases.command("list")
@environment.options
@project
@click.option("--profile", help="Of this profile only.")
def list_(env: str, data_dir: Path, project: str, profile: str | None) -> None:
    """List aliases, and what they mean."""
    wanted = Wanted(profile=profile)
    table = Table("alias", "profile", "model", "since")
    for each in of_project(
        env, data_dir, project, lambda ring, tenant: ring.aliases.list(tenant, wanted)
    ):
        table.add_row(each.alias, each.profile, each.model, f"{each.updated_at:%Y-%m-%d %H:%M}")
    Console().print(table)


@aliases.command()
@environment.options
@project
@profile
@click.argument("alias")
def delete(env: str, data_dir: Path, project: str, profile: str, alias: str) -> None:
    """Let ALIAS mean nothing."""
    if not of_project(
        env, data_dir, project, lambda ring, tenant: ring.aliases.delete(tenant, alias, profile)
    ):
        raise click.ClickException("There is no such alias in this profile.")
