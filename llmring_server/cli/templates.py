"""`llmring-server templates`: what there is."""

from functools import partial
from pathlib import Path
from uuid import UUID

import rich_click as click
from rich.table import Table

from llmring_server.cli.project import collected, on_project, options
from llmring_server.cli.tables import SCREEN, entry
from llmring_server.template import Page, Template


@click.group()
def templates() -> None:
    """List templates, and show one."""


@templates.command("list")
@options
def list_(env: str, data_dir: Path, project: str) -> None:
    """List templates, the newest first."""
    page = Page(limit=100)
    for each in on_project(
        env,
        data_dir,
        project,
        lambda ring, tenant: collected(partial(ring.templates.list, tenant), tenant, page),
    ):
        counts = f"version {each.version}", f"{each.usage_count:,} uses"
        entry(each.id, each.name, each.model, *counts, *["shared"] * each.shared)


@templates.command()
@options
@click.argument("id", type=click.UUID)
def show(env: str, data_dir: Path, project: str, id: UUID) -> None:
    """Show all about a template."""
    found = on_project(env, data_dir, project, lambda ring, tenant: ring.templates.get(tenant, id))
    table = Table(show_header=False)
    for name in Template.__slots__:
        table.add_row(name.replace("_", " "), str(getattr(found, name)))
    SCREEN.print(table)
