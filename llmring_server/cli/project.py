"""The project that a command looks into."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

from llmring_server.cli import environment
from llmring_server.errors import NotFound
from llmring_server.ring import Ring
from llmring_server.tenant import Tenant, of_key

Result = TypeVar("Result")


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let the caller choose the project, beside the database."""
    project = click.option(
        "--project",
        default="default",
        show_default=True,
        help="Its name, its tenant, or (mode open) the key that names it.",
    )
    return environment.options(project(command))


def on_project(
    env: str, data_dir: Path, project: str, work: Callable[[Ring, Tenant], Awaitable[Result]]
) -> Result:
    """Do `work` for a project that is named."""

    async def working(ring: Ring) -> Result:
        return await work(ring, await _tenant(ring, project))

    return environment.on_ring(env, data_dir, working)


async def collected(
    pages: Callable[[Any], Awaitable[list[Any]]], tenant: Tenant, page: Any
) -> list[Any]:
    """Return all of a list, from `page` on."""
    found: list[Any] = []
    while some := await pages(page):
        found += some
        page = page.model_copy(update={"cursor": page.next(tenant, some[-1])})
    return found


async def _tenant(ring: Ring, project: str) -> Tenant:
    try:
        return await ring.projects.find(project)
    except NotFound:
        if ring.settings.auth != "open":
            raise
        return of_key(project)
