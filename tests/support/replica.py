"""A primary and a streaming replica of it: two PostgreSQL servers in one folder."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tests.support.postgres import make_cluster
from tests.support.postgres_node import (
    PostgresNode,
    create_owned_folder,
    nodes_folder,
    run_as_postgres,
    running,
)

# A query of the replica that delays replaying is cancelled soon. These data are discarded.
PRIMARY = """
wal_level = replica
max_wal_senders = 10
wal_keep_size = 64MB
max_standby_streaming_delay = 100ms
fsync = off
"""


@asynccontextmanager
async def primary_and_replica(
    settings: str = "",
) -> AsyncIterator[tuple[PostgresNode, PostgresNode]]:
    """Run a primary with `settings`, and a streaming replica of it."""
    with nodes_folder() as folder:
        primary, replica = PostgresNode(folder / "a"), PostgresNode(folder / "b")
        for node in (primary, replica):
            create_owned_folder(node.folder)
        make_cluster(primary.folder, PRIMARY + settings)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(running(primary))
            backup = ("-R", "-X", "stream", "-C", "-S", "replica", "--checkpoint", "fast")
            await run_as_postgres("pg_basebackup", *backup, "-D", replica.data, "-d", primary.url)
            yield primary, await stack.enter_async_context(running(replica))
