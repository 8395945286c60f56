"""Whole lists, from all of their pages."""

from functools import partial

from llmring_server import Ring
from llmring_server.access.keys import ApiKey, KeyPage
from llmring_server.cli.environment import all_pages


async def every_key(ring: Ring) -> list[ApiKey]:
    """Return the keys of all projects."""
    return await all_pages(partial(ring.keys.list, None), None, KeyPage())
