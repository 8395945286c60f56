"""`llmring-server templates`: what there is."""

from pathlib import Path
from uuid import UUID

import rich_click as click
from rich.console import Console
from rich.table import Table

from llmring_server.cli import environment
from llmring_server.cli.aliases import of_project, project
from llmring_server.template import Page, Template


@click.group()
def templates() -> None:
    """List templates, and show one."""


@templates.command("list")
@environment.options
@project
def list_(env: str, data_dir: Path, project: str) -> None:
    """List templates, the newest first."""
    table = Table("template", "name", "version", "model", "uses", "shared")
    page = Page(limit=100)
    for each in of_project(
        env, data_dir, project, lambda ring, tenant: ring.templates.list(tenant, page)
    ):
        counts = str(each.version), each.model, str(each.usage_count)
        table.add_row(str(each.id), each.name, *counts, "yes" if each.shared else "")
    Console().print(table)


@templates.command()
@environment.options
@project
@click.argument("id", type=click.UUID)
def show(env: str, data_dir: Path, project: str, id: UUID) -> None:
    """Show all about a template."""
    found = of_project(env, data_dir, project, lambda ring, tenant: ring.templates.get(tenant, id))
    table = Table(show_header=False)
    for name in Template.__slots__:
        table.add_row(name.replace("_", " "), str(getattr(found, name)))
    Console().print(table)
