"""Lost connections: terminate those of the server, as an administrator may."""

import asyncpg

from llmring_server import Settings


async def terminate_connections(settings: Settings) -> None:
    """Terminate every connection of the server's own pool."""
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'llmring-server' AND datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )
    await connection.close()
