"""`llmring-server aliases` and `templates`: aliases of models, prompt templates."""

from functools import partial
from pathlib import Path
from uuid import UUID

import rich_click as click
from pydantic import ValidationError
from rich.table import Table

from llmring_server.aliases.models import (
    DEFAULT_PROFILE,
    AliasBinding,
    AliasPage,
    BindAlias,
)
from llmring_server.cli.environment import all_pages, operator, project_options, with_project
from llmring_server.cli.output import CONSOLE, entry, wrapping_table
from llmring_server.core.identity import ProjectId
from llmring_server.core.validation import lines_of
from llmring_server.errors import NotFound
from llmring_server.ring import Ring
from llmring_server.templates.models import Template, TemplatePage, TemplateUpdate

profile_option = click.option(
    "--profile",
    default=DEFAULT_PROFILE,
    show_default=True,
    help="Profile, e.g. dev, staging or prod.",
)


@click.group()
def aliases() -> None:
    """Bind, resolve, list and delete model aliases."""


@aliases.command("bind")
@project_options
@profile_option
@click.argument("alias")
@click.argument("model")
def bind_alias(  # noqa: PLR0913, PLR0917, one per option
    env: str, data_dir: Path, project: str, profile: str, alias: str, model: str
) -> None:
    """Bind ALIAS to MODEL: provider:model, another alias, or a bare name."""
    try:
        binding = BindAlias(alias=alias, model=model, profile=profile)
    except ValidationError as exc:
        raise click.UsageError("\n".join(lines_of(exc))) from exc

    async def bind(ring: Ring, project_id: ProjectId) -> AliasBinding:
        return await ring.aliases.bind(project_id, binding)

    with_project(env, data_dir, project, bind, writes=True)


@aliases.command("resolve")
@project_options
@profile_option
@click.argument("alias")
def resolve_alias(env: str, data_dir: Path, project: str, profile: str, alias: str) -> None:
    """Print the model of ALIAS; exit with 1 if it is not bound."""

    async def resolve(ring: Ring, project_id: ProjectId) -> str:
        model = await ring.aliases.resolve(project_id, alias, profile)
        if model is None:
            raise NotFound.of("Alias")
        return model

    click.echo(with_project(env, data_dir, project, resolve))


@aliases.command("list")
@project_options
@click.option("--profile", help="Only aliases of this profile.")
def list_aliases(env: str, data_dir: Path, project: str, profile: str | None) -> None:
    """List aliases and their models."""

    async def read(ring: Ring, project_id: ProjectId) -> list[AliasBinding]:
        pages = partial(ring.aliases.list, project_id)
        return await all_pages(pages, project_id, AliasPage(profile=profile))

    table = wrapping_table("alias", "profile", "model", "updated")
    for binding in with_project(env, data_dir, project, read):
        updated = f"{binding.updated_at:%Y-%m-%d %H:%M}"
        table.add_row(binding.alias, binding.profile, binding.model, updated)
    CONSOLE.print(table)


@aliases.command("delete")
@project_options
@profile_option
@click.argument("alias")
def delete_alias(env: str, data_dir: Path, project: str, profile: str, alias: str) -> None:
    """Delete ALIAS."""

    async def delete(ring: Ring, project_id: ProjectId) -> bool:
        return await ring.aliases.delete(project_id, alias, profile)

    if not with_project(env, data_dir, project, delete, writes=True):
        raise click.ClickException("This profile has no such alias.")


@click.group()
def templates() -> None:
    """List, show and withdraw prompt templates."""


@templates.command("list")
@project_options
def list_templates(env: str, data_dir: Path, project: str) -> None:
    """List the project's templates, then those that other projects share; newest first."""

    async def read(ring: Ring, project_id: ProjectId) -> list[Template]:
        pages = partial(ring.templates.list, project_id)
        return await all_pages(pages, project_id, TemplatePage(limit=100))

    for template in with_project(env, data_dir, project, read):
        facts = [template.model, f"version {template.version}", f"{template.usage_count:,} uses"]
        if template.shared_by:
            facts.append(f"shared by {template.shared_by}")
        elif template.shared:
            facts.append("shared")
        entry(template.id, template.name, *facts)


@templates.command("show")
@project_options
@click.argument("id", type=click.UUID)
def show_template(env: str, data_dir: Path, project: str, id: UUID) -> None:
    """Show the details of a template."""

    async def get(ring: Ring, project_id: ProjectId) -> Template:
        return await ring.templates.get(project_id, id)

    template = with_project(env, data_dir, project, get)
    table = Table(show_header=False)
    for name in Template.__slots__:
        table.add_row(name.replace("_", " "), str(getattr(template, name)))
    CONSOLE.print(table)


@templates.command("unshare")
@project_options
@click.argument("id", type=click.UUID)
def unshare_template(env: str, data_dir: Path, project: str, id: UUID) -> None:
    """Withdraw a template of the project from all other projects."""
    actor = operator()

    async def unshare(ring: Ring, project_id: ProjectId) -> Template:
        update = TemplateUpdate(shared=False)
        return await ring.templates.update(project_id, id, update, actor=actor, may_share=True)

    template = with_project(env, data_dir, project, unshare, writes=True)
    entry(template.id, template.name, "not shared")
